// Asks, and reads what is answered, however often the line breaks on the way.

import { call, events, get, request, trouble } from './api.js';
import { pause } from './dom.js';
import { showCalls } from './folds.js';
import { inLine } from './content.js';
import { parts, tab } from './keep.js';
import { sayAnswer } from './live.js';
import { body, toMetadata, systemPrompt } from './settings.js';
import { state, talks, tell } from './state.js';
import { announce, setTitle } from './talks.js';
import { dropTurn, showRefusal } from './turn.js';
import { t } from './words.js';

// What is not yet answered: a page that is refreshed takes it up again, with the same key and the same words.
export function outbox(talk, turn) {
	const key = `sent ${talk.id}`;
	if (!turn) {
		if (!tab(key)) return;
		tab(key, null);
		parts(key, null);
		return;
	}
	const large = Array.isArray(turn.question);
	if (large) parts(key, turn.question);
	const { key: idempotency, id, replace, again, outputs, options } = turn;
	tab(key, { question: large ? '' : turn.question, large, key: idempotency, id, replace, again, outputs, options, failed: turn.state === 'failed' });
}

export async function fromOutbox(talk) {
	const sent = tab(`sent ${talk.id}`);
	if (!sent || typeof sent !== 'object') return null;
	return sent.large ? { ...sent, question: await parts(`sent ${talk.id}`) } : sent;
}

// follow is the one way of a send, a retry, a resume and a reconnection: ask, read, and when the line breaks ask again
// from the last character on, more and more slowly. Resolves to null, or the error that ended it.
export async function follow(talk, turn) {
	turn.since ??= performance.now();
	for (let attempt = 0; !turn.dropped; attempt += 1) {
		const { received } = turn;
		const error = await listen(talk, turn);
		if (turn.dropped || !error) return null;
		// A server that goes down stores what it has, for when it is back.
		if (!/^(?:unreachable|shutting_down)$/.test(error.code)) return error;
		if (turn.abandoned) {
			turn.finish = 'cancelled';
			return turn.received ? null : trouble('reply_cancelled');
		}
		if (turn.received > received) attempt = 0;
		if (attempt) turn.note.textContent = t(navigator.onLine === false ? 'offline' : 'unreachable');
		await Promise.race([
			new Promise((resolve) => {
				turn.wake = resolve;
				addEventListener('online', resolve, { once: true });
			}),
			pause(Math.max(error.wait * 1000, Math.min(250 * 2 ** attempt, 10000))),
		]);
	}
	return null;
}

async function listen(talk, turn) {
	const controller = new AbortController();
	turn.abort = () => controller.abort();
	let timer;
	// A phone that slept holds a line that is silent for ever; a live one has heartbeats.
	const alive = () => {
		clearTimeout(timer);
		timer = setTimeout(turn.abort, 45000);
	};
	alive();
	try {
		const response = await connect(talk, turn, controller.signal);
		if (!turn.id) {
			turn.id = response.headers.get('X-Message-ID');
			outbox(talk, turn);
		}
		turn.note.textContent = '';
		if (talk.turns.some((other) => other !== turn && other.id === turn.id)) {
			// Sent before a refresh, and answered meanwhile.
			outbox(talk, null);
			dropTurn(talk, turn);
			turn.abort();
		}
		announce(talk);
		for await (const event of events(response.body, alive)) {
			if (event.data === '[DONE]') return null;
			take(talk, turn, event);
		}
	} catch (error) {
		if (error.told) return error;
		if (!(error instanceof TypeError || error.name === 'AbortError' || error.name === 'NetworkError')) console.error(error);
	} finally {
		clearTimeout(timer);
	}
	return trouble('unreachable');
}

// connect asks for a reply by its id if that is known, else by sending the question with its key.
async function connect(talk, turn, signal) {
	if (!talk.id) await create(talk, turn, signal);
	if (turn.id) return call(talk, 'GET', `/messages/${turn.id}/stream`, { signal, headers: { 'Last-Event-ID': `${turn.received}` } });
	const message = turn.outputs ? { tool_outputs: turn.outputs } : turn.again ? {} : { message: turn.question };
	return request('POST', 'api/chat/stream', {
		signal, headers: { 'Idempotency-Key': turn.key, 'X-Session-ID': talk.id },
		body: { session_id: talk.id, ...message, ...(turn.replace && { replace: turn.replace }), ...turn.options },
	});
}

async function create(talk, turn, signal) {
	const title = [...inLine(turn.question)].slice(0, 60).join('');
	const prompt = systemPrompt(talk);
	const created = await request('POST', 'api/sessions', { signal, body: { metadata: toMetadata(talk, { title }), ...(prompt && { system_prompt: prompt }) } });
	const { session_id: id } = await created.json();
	outbox(talk, null);
	tab('settings new', null);
	Object.assign(talk, { id, restored: true });
	outbox(talk, turn);
	tell('created', talk);
	talks.set(id, talk);
	if (talk === state.current) history.replaceState(null, '', `#${id}`);
	setTitle(talk, title);
}

function take(talk, turn, { id, data }) {
	const { error, choices, usage, model } = JSON.parse(data);
	if (error) throw trouble(String(error.code), String(error.message ?? ''));
	turn.usage = usage ?? turn.usage;
	turn.model = model ?? turn.model;
	const [choice] = choices ?? [];
	const delta = choice?.delta ?? {};
	const { reasoning_content: thought, content: text, refusal, tool_calls: calls } = delta;
	if (thought || text || refusal || calls) turn.firstMs ??= turn.fresh ? performance.now() - turn.since : undefined;
	if (thought) {
		turn.reasoning = (turn.reasoning ?? '') + thought;
		turn.thoughts.think(thought);
	}
	if (text) {
		turn.thoughts.stop();
		turn.answer += text;
		turn.writer.push(text);
		if (talk === state.current) sayAnswer(turn, text);
	}
	if (refusal) {
		turn.refusal = (turn.refusal ?? '') + refusal;
		showRefusal(turn);
	}
	if (calls) takeCalls(talk, turn, calls);
	turn.finish = choice?.finish_reason ?? turn.finish;
	turn.received = id ?? turn.received;
}

function takeCalls(talk, turn, calls) {
	turn.thoughts.stop();
	for (const { index = 0, id, function: part = {} } of calls) {
		const one = turn.calls[index] ??= { id: '', name: '', arguments: '' };
		one.id = id || one.id;
		one.name = part.name || one.name;
		one.arguments += part.arguments ?? '';
	}
	turn.calls = turn.calls.filter(Boolean);
	turn.callsFrame ??= requestAnimationFrame(() => {
		turn.callsFrame = undefined;
		showCalls(talk, turn);
		tell('wrote', turn);
	});
}

// Asks the server to stop; whether somebody could be told.
export async function cancel(talk, turn) {
	try {
		// The reply's id comes with its first word; before, the session knows it.
		const id = turn.id ?? (talk.id && (await get(talk)).active_reply?.message_id);
		if (id) {
			await call(talk, 'POST', `/messages/${id}/cancel`);
			return;
		}
	} catch (error) {
		if (error.code !== 'unreachable') return;
	}
	// Nobody to tell. The server stops what nobody listens to.
	turn.abandoned = true;
	turn.abort?.();
	turn.wake?.();
}

export { body as optionsOf };
