// What a person does in a conversation: ask, ask again, edit, stop, choose a version.

import { call, get } from './api.js';
import { parted } from './content.js';
import { button, page, say } from './dom.js';
import { draft, parts, tab } from './keep.js';
import { cancel, follow, fromOutbox, optionsOf, outbox } from './reply.js';
import { showCalls, showOutput } from './folds.js';
import { flush as flushLive } from './live.js';
import { on, state, talks, tell } from './state.js';
import { announce, done, forget, load, lose, reread } from './talks.js';
import { addTurn, dropTurn, showState } from './turn.js';
import { againButton, failure } from './trouble.js';
import { t } from './words.js';

// Not randomUUID, which only secure contexts have.
const newKey = () => [...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(16)).join('-');

export function send(talk, question, more = {}) {
	const turn = { question, key: newKey(), options: optionsOf(talk), fresh: true, ...more };
	state.pinned = true;
	outbox(talk, turn);
	begin(talk, turn);
}

async function begin(talk, turn) {
	const said = turn.question ? [{ content: turn.question }] : [];
	Object.assign(turn, { said, state: 'running', answer: '', reasoning: '', refusal: '', calls: [], received: 0 });
	addTurn(talk, turn);
	talk.running = turn;
	tell('running', talk);
	say(t('running'));
	const error = await follow(talk, turn);
	turn.tookMs = performance.now() - turn.since;
	if (turn.dropped) {
		release(talk, turn);
		// It was answered before the page was back; what waits goes on, unless the conversation was deleted.
		if (talks.has(talk.id)) tell('ended', talk);
	} else if (error) fail(talk, turn, error);
	else await finish(talk, turn);
}

function release(talk, turn) {
	if (talk.running !== turn) return;
	talk.running = null;
	tell('running', talk);
}

async function finish(talk, turn) {
	outbox(talk, null);
	turn.thoughts.stop();
	turn.writer.push('', true);
	turn.state = 'done';
	// The server names the question after its turn.
	if (turn.id) turn.first = `${turn.id.slice(0, -3)}001`;
	if (turn.said[0]) turn.said[0].id = turn.first;
	showState(turn);
	release(talk, turn);
	showCalls(talk, turn);
	announce(talk);
	flushLive(turn);
	say(turn.note.textContent || t('answered'));
	tell('wrote', turn);
	// The versions, as the server counts them, and what a tool put out.
	if (turn.replace || turn.outputs) await reread(talk, done(talk).indexOf(turn)).catch(ignore);
	// Asked elsewhere: what it replaced there is known only now.
	else if (!turn.fresh || talk.behind) await load(talk);
	tell('ended', talk);
}

function ignore(error) {
	if (!error.told) throw error;
}

function fail(talk, turn, error) {
	const busy = error.code === 'session_busy';
	turn.thoughts.stop();
	release(talk, turn);
	if (error.code === 'session_not_found') return lose(talk, turn);
	// Another tab is at work here, or took away what was to be replaced: show that instead.
	if (busy || (error.code === 'message_not_found' && (!turn.key || (turn.replace && !turn.id)))) {
		putBack(talk, turn);
		if (turn.key && !turn.again && !turn.outputs) giveBack(talk, turn.question);
		if (busy) tell('hint', error.code);
		return load(talk);
	}
	turn.writer.push('', true);
	turn.attempt = (turn.attempt ?? -1) + 1;
	Object.assign(turn, { state: 'failed', id: null });
	outbox(talk, turn);
	const again = againButton(error, turn.attempt, () => retry(talk, turn));
	const other = turn.replaced?.length ? button('back', () => putBack(talk, turn)) : turn.outputs ? null : button('edit', () => edit(turn));
	turn.note.replaceChildren(failure(error, ...[again, other].filter(Boolean)));
	showState(turn);
	tell('stick');
	// Who stopped it to send what waits is not kept waiting.
	if (error.code === 'reply_cancelled') tell('ended', talk);
}

function retry(talk, turn) {
	if (talk.running) return tell('hint', 'wait');
	dropTurn(talk, turn);
	page.message.focus();
	const { replace, again, outputs, replaced, attempt } = turn;
	return send(talk, turn.question, { replace, again, outputs, replaced, attempt });
}

// Nothing was changed on the server: what was to be replaced is there again.
function putBack(talk, turn) {
	dropTurn(talk, turn);
	outbox(talk, null);
	for (const old of turn.replaced ?? []) {
		old.dropped = false;
		addTurn(talk, old);
	}
	page.message.focus();
}

// Asks in place of a turn. What is replaced stays at hand until the new answer is there.
function replaceTurn(talk, turn, question, more) {
	const from = talk.turns.indexOf(turn);
	const failed = turn.state === 'failed';
	const replaced = failed ? turn.replaced : talk.turns.slice(from);
	for (const gone of failed ? [turn] : replaced) dropTurn(talk, gone);
	page.message.focus();
	send(talk, question, { replace: failed ? turn.replace : turn.id, replaced, ...more });
}

async function redo(talk, turn) {
	if (talk.running) return tell('hint', 'wait');
	if (turn.state === 'failed') return retry(talk, turn);
	// A turn that was answered here is asked as it stands; of one that was brought in the question is.
	const again = turn.id.endsWith('000') && turn.answered !== false;
	return replaceTurn(talk, turn, again ? turn.question : await wholeQuestion(talk, turn), again ? { again } : {});
}

// The history comes without what pictures and files hold; to be sent again they are needed whole.
async function wholeQuestion(talk, turn) {
	const omitted = Array.isArray(turn.question) && turn.state === 'done' && turn.said.at(-1)?.id && turn.question.some((part) => part?.type !== 'text');
	return omitted ? (await get(talk, `/messages/${turn.said.at(-1).id}`)).content : turn.question;
}

export async function edit(turn) {
	const talk = state.current;
	if (talk.running || !talk.turns.includes(turn)) return;
	const question = await wholeQuestion(talk, turn).catch(ignore) ?? '';
	if (talk !== state.current) return;
	state.editing = turn;
	tell('compose', question);
	tell('hint', 'editing');
	page.message.focus();
}

// The answer's or the question's other version; the server keeps where a conversation is.
async function choose(turn, id) {
	const talk = state.current;
	const at = done(talk).indexOf(turn);
	if (talk.running) return tell('hint', 'wait');
	if (!id || at < 0) return;
	try {
		await call(talk, 'PATCH', '', { body: { current: id } });
		const pinned = state.pinned;
		state.pinned = false;
		await reread(talk, at);
		state.pinned = pinned;
		const now = done(talk)[at];
		const row = now?.[id === now.id || now.versions?.ids.includes(id) ? 'versionsNode' : 'questionVersionsNode'];
		say(row?.querySelector('span')?.ariaLabel ?? '');
		row?.querySelector('button:enabled')?.focus();
		announce(talk);
	} catch (error) {
		ignore(error);
		tell('hint', error.code);
	}
}

// What was typed is never lost: it goes back into the box, before what stands there.
export async function giveBack(talk, content) {
	const { text, files } = parted(content);
	if (files.length) await parts(`draft ${talk.id}`, [...files, ...await parts(`draft ${talk.id}`)]);
	draft(talk.id, [text, draft(talk.id)].filter(Boolean).join('\n\n'));
	tell('draft', talk);
}

// Takes up what was on its way when the page was left.
async function restore(talk, active, resolve) {
	const sent = talk.restored ? null : await fromOutbox(talk);
	talk.restored = true;
	const words = (content) => JSON.stringify(content);
	const mine = sent && active && (sent.id ? sent.id === active.message_id : words(sent.question) === words(active.message) || sent.again || sent.large);
	if (sent && (sent.failed || (active && !mine))) {
		outbox(talk, null);
		if (!sent.again && !sent.outputs) await giveBack(talk, sent.question);
	}
	// What an answer replaces is on the server's path until the answer is there.
	const hide = (replace) => {
		const at = replace ? talk.turns.findIndex((turn) => turn.id === replace) : -1;
		const replaced = at < 0 ? undefined : talk.turns.slice(at);
		for (const gone of replaced ?? []) dropTurn(talk, gone);
		return replaced;
	};
	if (active) {
		const replace = active.replace ?? (mine ? sent.replace : undefined);
		const question = mine && sent.question ? sent.question : active.message ?? '';
		begin(talk, { id: active.message_id, question, key: mine && sent.key, replace, replaced: hide(replace), ...(mine && { again: sent.again, outputs: sent.outputs, options: sent.options }), ...(active.message == null && !mine && { outputs: [] }) });
	} else if (sent && !sent.failed) {
		// The key makes this safe: what is answered is not asked again.
		begin(talk, { ...sent, replaced: hide(sent.replace) });
	}
	talk.queue = tab(`queue ${talk.id}`) ?? talk.queue;
	tell('queue', talk);
	if (!talk.running) tell('ended', talk);
	resolve();
}

export async function stop(talk) {
	if (talk.running) await cancel(talk, talk.running);
}

// What stood in the box goes along, and what waited.
async function startOver(talk) {
	const text = draft(talk.id);
	const files = parts(`draft ${talk.id}`);
	history.pushState(null, '', '#');
	tell('route');
	const { current } = state;
	const left = [...talk.queue, ...await files, text].flatMap((part) => (typeof part === 'string' ? { type: 'text', text: part } : part)).filter((part) => part.text !== '');
	if (left.length) giveBack(current, left);
	forget(talk.id);
}

on('redo', redo);
on('edit', edit);
on('replace', replaceTurn);
on('choose', choose);
on('restore', restore);
on('give back', (talk, content) => {
	outbox(talk, null);
	giveBack(talk, content);
});
on('start over', startOver);
on('outputs', (talk, turn, outputs) => {
	if (talk.running) return tell('hint', 'wait');
	turn.calls.forEach((call, index) => showOutput(call, outputs[index].output));
	showCalls(talk, turn);
	return send(talk, '', { outputs });
});

export { startOver };
