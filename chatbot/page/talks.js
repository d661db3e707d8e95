// Conversations and their turns, as the server tells them.
//
// A talk is {id, title, settings, turns, queue, log, running, …}; its id is null until its first message is sent. A turn
// is a question and its answer, known by the answer's id. It is running, done or failed; a failed one is nowhere but here.

import { get, trouble } from './api.js';
import { plain } from './content.js';
import { button, div, page, pause } from './dom.js';
import { showOutput } from './folds.js';
import { keepList, kept, listed, parts, tab } from './keep.js';
import { state, talks, tell } from './state.js';
import { failure } from './trouble.js';
import { addTurn, buildTurn, dropTurn, showVersions } from './turn.js';

const KEPT = 8;  // as many conversations stay drawn
export const texts = new Map();  // what was read of the others, to be searched

export function newTalk(id = null, title = '') {
	const talk = { id, title, settings: {}, turns: [], queue: (id && tab(`queue ${id}`)) || [], notice: div('notice'), older: div('older'), more: false };
	talk.log = div(id ? 'log' : 'log fresh', talk.older, talk.notice);
	if (id) talks.set(id, talk);
	return talk;
}

// Lets go of what was not looked at for longest.
export function tidy() {
	const idle = [...talks.values()].filter((talk) => talk !== state.current && !talk.running && !talk.queue.length && !talk.lost && talk.turns.every((turn) => turn.state === 'done'));
	for (const talk of idle.slice(0, Math.max(0, talks.size - KEPT))) {
		texts.set(talk.id, textOf(talk).slice(0, 100000));
		talks.delete(talk.id);
	}
	while (texts.size > 100) texts.delete(texts.keys().next().value);
}

export const textOf = (talk) => talk.turns.map((turn) => `${plain(turn.question)}\n${turn.answer}`).join('\n').toLowerCase();

// Messages to turns. Consecutive messages of the server's turn have ids that differ in their last three digits alone.
export function exchanges(messages, talk) {
	const turns = [];
	let open = null;
	const begin = () => turns.push(open = { state: 'done', said: [], question: '', answer: '', calls: [], answered: false });
	for (const message of messages) {
		const { message_id: id, role, content, versions } = message;
		if (role === 'system' || role === 'developer') {
			if (talk && role === 'system') talk.prompt = plain(content);
		} else if (role === 'tool') {
			const last = (list) => list.flatMap(({ calls }) => calls).findLast((call) => call.id === message.tool_call_id);
			for (const call of [last(turns), last(talk?.turns ?? [])]) if (call) showOutput(call, plain(content));
			if (!open || open.answered) begin();
			open.first ??= id;
		} else if (role === 'user') {
			if (!open || open.answered) begin();
			open.first ??= id;
			open.said.push({ id, content });
			Object.assign(open, { question: content, questionVersions: versions });
		} else if (role === 'assistant') {
			if (!open || open.answered) begin();
			open.first ??= id;
			const calls = (message.tool_calls ?? []).map((call) => ({ id: call.id, name: call.function?.name ?? '', arguments: call.function?.arguments ?? '' }));
			Object.assign(open, {
				id, answered: true, answer: plain(content), refusal: message.refusal ?? '', reasoning: message.reasoning ?? message.reasoning_content ?? '', calls,
				finish: message.finish_reason, usage: message.token_usage, model: message.model, firstMs: message.first_token_ms, at: message.created_at, versions,
			});
			if (open.refusal === open.answer) open.answer = '';
		}
	}
	for (const turn of turns) turn.id ??= turn.first;
	return turns;
}

// A turn cut in two by a page of the history comes whole with the next.
function whole(messages, more) {
	if (!more || !messages.length) return messages;
	const prefix = (message) => message.message_id.slice(0, -3);
	if (messages[0].message_id.endsWith('001') || prefix(messages[0]) === prefix(messages.at(-1))) return messages;
	return messages.filter((message) => prefix(message) !== prefix(messages[0]));
}

export const done = (talk) => talk.turns.filter((turn) => turn.state === 'done');

async function readPage(talk, cursor) {
	const { messages, has_more: more } = await get(talk, `/messages?parts=omit&limit=40${cursor}`);
	return { turns: exchanges(whole(messages, more), talk), more };
}

// load brings a talk up to date: opened, come back to, or worked in by another tab.
export async function load(talk) {
	// What this answer keeps from being shown is loaded when it ends.
	talk.behind = Boolean(talk.running);
	if (!talk.id || talk.behind || talk.loading || talk.lost) return;
	talk.loading = true;
	try {
		// The session first: a reply that ends between the two requests is then in the history.
		const session = await get(talk);
		const { turns, more } = await readPage(talk, '');
		talk.behind = Boolean(talk.running);
		if (talk.behind) return;
		talk.notice.replaceChildren();
		setTitle(talk, String(session.metadata?.title ?? talk.title));
		tell('session', talk, session);
		const known = done(talk);
		const ids = (list) => String(list.map(({ id }) => id));
		const at = known.findIndex((turn) => turn.id === turns[0]?.id);
		if (at < 0 || !turns.length) {
			for (const turn of known) dropTurn(talk, turn);
			for (const turn of turns) addTurn(talk, turn);
			talk.more = more;
		} else if (ids(turns) !== ids(known.slice(at))) {
			reconcile(talk, at, turns);
		}
		await restored(talk, session.active_reply);
		tell('stick');
	} catch (error) {
		if (!error.told) throw error;
		if (error.code === 'session_not_found') return lose(talk);
		talk.notice.replaceChildren(failure(error, button('again', () => load(talk))));
		if (error.code === 'unreachable') pause(3000).then(() => talk === state.current && load(talk));
	} finally {
		talk.loading = false;
	}
	tell('filled');
}

const restored = (talk, active) => new Promise((resolve) => { tell('restore', talk, active, resolve); });

// From turn number `at` on the talk consists of these; what is drawn already stays as it is.
export function reconcile(talk, at, turns) {
	const old = done(talk).slice(at);
	let same = 0;
	while (same < turns.length && old[same]?.id === turns[same].id) {
		const { versions, questionVersions } = turns[same];
		showVersions(Object.assign(old[same], { versions, questionVersions }));
		same += 1;
	}
	for (const turn of old.slice(same)) dropTurn(talk, turn);
	for (const turn of turns.slice(same)) addTurn(talk, turn);
}

// Reads anew what follows turn number `at - 1`: after other versions were chosen or made there.
export async function reread(talk, at) {
	const list = done(talk);
	if (!at && talk.more) return load(talk);
	const messages = [];
	let cursor = at ? list[at - 1].id : 'start';
	for (;;) {
		const part = await get(talk, `/messages?parts=omit&limit=200&after=${cursor}`);
		messages.push(...part.messages);
		if (!part.has_more || !part.messages.length) break;
		cursor = part.messages.at(-1).message_id;
	}
	return reconcile(talk, at, exchanges(messages, talk));
}

export async function loadOlder(talk) {
	if (talk.loading) return;
	talk.loading = true;
	try {
		const [oldest] = done(talk);
		const { turns, more } = await readPage(talk, oldest ? `&before=${oldest.first ?? oldest.id}` : '');
		const { scroller } = page;
		// The browser keeps the reader's place when something comes in above, but at the very top, and where it cannot.
		if (!scroller.scrollTop) scroller.scrollTop = 1;
		const height = scroller.scrollHeight;
		for (const turn of turns) buildTurn(talk, turn);
		talk.older.after(...turns.map((turn) => turn.node));
		talk.turns.unshift(...turns);
		talk.more = more;
		if (!CSS.supports('overflow-anchor', 'auto') && !state.pinned && talk === state.current) scroller.scrollTop += scroller.scrollHeight - height;
	} finally {
		talk.loading = false;
	}
	tell('filled');
}

export function lose(talk, turn) {
	talk.lost = true;
	talk.more = false;
	if (turn?.key && !turn.again) tell('give back', talk, turn.question);
	if (turn) dropTurn(talk, turn);
	talk.notice.replaceChildren(failure(trouble('session_not_found'), button('startOver', () => tell('start over', talk))));
	tell('stick');
}

// Moves a talk to the top of the list, and tells the other tabs, by a storage event, that there is news.
export function announce({ id, title }) {
	keepList([{ id, title, at: Date.now() }, ...listed().filter((entry) => entry.id !== id)]);
	tell('list');
}

export function setTitle(talk, title) {
	talk.title = title;
	if (listed().find(({ id }) => id === talk.id)?.title === title) return tell('list');
	const list = listed();
	const entry = list.find(({ id }) => id === talk.id);
	if (!entry) return announce(talk);
	entry.title = title;
	keepList(list);
	return tell('list');
}

export function forget(id) {
	talks.delete(id);
	texts.delete(id);
	for (const key of [`draft ${id}`, `sent ${id}`, `queue ${id}`]) {
		for (const keep of [kept, tab, parts]) keep(key, null);
	}
	keepList(listed().filter((entry) => entry.id !== id));
	tell('list');
}
