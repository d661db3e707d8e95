// The box that is written in: drafts, pictures and files, and what waits until an answer ends.

import { edit, giveBack, send, startOver, stop } from './actions.js';
import { toPart } from './attach.js';
import { inLine, parted, showContent } from './content.js';
import { button, composing, div, iconButton, make, page, say, toast } from './dom.js';
import { draft, parts, tab } from './keep.js';
import { on, state, tell } from './state.js';
import { t } from './words.js';

const { message, tray } = page;
let typed = message.value;
let files = [];  // parts attached to what is in the box

const keyOf = (talk) => `draft ${talk.id}`;

function setText(text) {
	message.value = text;
	fit();
}

function fit() {
	message.style.height = 'auto';
	message.style.height = `${message.scrollHeight}px`;
}

export function hint(word = 'keysHint') {
	page.hint.textContent = t(word);
	// A phone has neither room for the keys' hint nor an Esc key.
	page.hint.classList.toggle('keys', word === 'keysHint');
	if (word === 'editing') page.hint.append(' ', button('cancel', leaveEdit, 'act'));
	if (word !== 'keysHint') say(t(word));
}

async function showDraft(talk) {
	if (talk !== state.current || state.editing) return;
	// What was typed before this script was there is a draft too.
	if (typed) draft(talk.id, [draft(talk.id), typed].filter(Boolean).join('\n'));
	typed = '';
	setText(draft(talk.id));
	const found = await parts(keyOf(talk));
	if (talk === state.current && !state.editing) setFiles(found);
}

function setFiles(list) {
	files = list;
	tray.replaceChildren(...files.map((part) => {
		const shown = showContent([part]).firstChild;
		return held(shown, part, shown.textContent.split('\n')[0].slice(0, 60) || t('picture'));
	}));
}

function held(shown, part, name) {
	const remove = iconButton('close', 'close', () => {
		keepFiles(files.filter((other) => other !== part));
		message.focus();
	}, 'act');
	remove.ariaLabel = remove.title = t('detach', name);
	return div('held', shown, remove);
}

function keepFiles(list) {
	setFiles(list);
	if (!state.editing) parts(keyOf(state.current), list);
}

export async function add(list) {
	const talk = state.current;
	const added = [];
	for (const file of list) {
		try {
			added.push(await toPart(file));
		} catch (error) {
			// A folder, or a file that is gone, cannot be read.
			if (!error.word && !(error instanceof DOMException)) throw error;
			toast(t(error.word ?? 'badFile', file.name || t('file')));
		}
	}
	if (!added.length || talk !== state.current) return;
	keepFiles([...files, ...added]);
	say(t('attached', added.length));
	message.focus();
}

export function leaveEdit() {
	state.editing = null;
	hint();
	showDraft(state.current);
}

// What is in the box, as a message: text alone is text.
function content() {
	if (!files.length) return message.value;
	return [...files, ...(message.value.trim() ? [{ type: 'text', text: message.value }] : [])];
}

export function submit(event) {
	event.preventDefault();
	const question = content();
	const turn = state.editing;
	if (!files.length && !message.value.trim()) return;
	let talk = state.current;
	if (!turn) {
		draft(talk.id, '');
		parts(keyOf(talk), null);
	}
	if (talk.lost) {
		startOver(talk);
		talk = state.current;
	}
	state.editing = null;
	setText('');
	setFiles([]);
	hint();
	if (turn) {
		showDraft(talk);
		if (talk.turns.includes(turn) && !talk.running) return tell('replace', talk, turn, question);
	}
	if (waits(talk) || talk.queue.length) return enqueue(talk, question);
	send(talk, question);
}

// ---- Questions that wait for an answer to end, or for what was said before ----

const waits = (talk) => talk.running || (talk.id && !talk.restored);

function enqueue(talk, question) {
	setQueue(talk, [...talk.queue, question]);
	say(t('queued'));
	next(talk);
}

function setQueue(talk, queue) {
	talk.queue = queue;
	tab(`queue ${talk.id}`, queue.length ? queue : null);
	showQueue(talk);
}

function showQueue(talk) {
	if (talk !== state.current) return;
	page.queue.replaceChildren(...talk.queue.map((question, index) => {
		const rest = () => talk.queue.filter((other, place) => place !== index);
		return div('queued', div('words', make('small', { textContent: t('queued') }), make('p', { textContent: inLine(question).slice(0, 300) })),
			button('sendNow', () => {
				setQueue(talk, [question, ...rest()]);
				if (talk.running) stop(talk);
				else next(talk);
			}, 'act now'),
			iconButton('edit', 'edit', () => {
				setQueue(talk, rest());
				giveBack(talk, question);
				message.focus();
			}, 'act'),
			iconButton('remove', 'remove', () => {
				setQueue(talk, rest());
				message.focus();
			}, 'act'));
	}));
}

function next(talk) {
	if (waits(talk) || talk.lost || !talk.queue.length) return;
	const [question, ...rest] = talk.queue;
	setQueue(talk, rest);
	send(talk, question);
}

// What was written before the conversation had an id goes with it.
async function carry(talk) {
	tab('queue null', null);
	setQueue(talk, talk.queue);
	if (talk !== state.current) return;
	draft(talk.id, draft(null));
	draft(null, '');
	await parts(keyOf(talk), await parts('draft null'));
	parts('draft null', null);
}

// ---- What happens to the box ----

export function start() {
	page.composer.onsubmit = submit;
	message.oninput = () => {
		fit();
		if (!state.editing) draft(state.current.id, message.value);
	};
	message.onkeydown = (event) => {
		if (composing(event)) return;
		if (event.key === 'Enter' && !event.shiftKey) submit(event);
		if (event.key === 'ArrowUp' && !message.value && !state.editing) {
			const last = state.current.turns.findLast((turn) => turn.said.length);
			if (!last || state.current.running) return;
			event.preventDefault();
			edit(last);
		}
	};
	message.onpaste = (event) => {
		const pasted = [...event.clipboardData.files];
		// A table copied from a spreadsheet is text first, and a picture of it too.
		if (!pasted.length || event.clipboardData.getData('text/plain')) return;
		event.preventDefault();
		add(pasted);
	};
	page.attach.onclick = () => page.files.click();
	page.files.onchange = () => {
		add([...page.files.files]);
		page.files.value = '';
	};
	page.stop.onclick = () => stop(state.current);
	page.main.ondragover = (event) => {
		if (![...event.dataTransfer.types].includes('Files')) return;
		event.preventDefault();
		page.drop.hidden = false;
	};
	page.main.ondragleave = (event) => { if (!page.main.contains(event.relatedTarget)) page.drop.hidden = true; };
	page.main.ondrop = (event) => {
		page.drop.hidden = true;
		if (!event.dataTransfer.files.length) return;
		event.preventDefault();
		add([...event.dataTransfer.files]);
	};
	on('hint', hint);
	on('draft', showDraft);
	on('queue', showQueue);
	on('ended', next);
	on('created', carry);
	on('compose', (question) => {
		const { text, files: attached } = parted(question);
		setText(text);
		setFiles(attached);
	});
}
