// The keyboard, and the sheet that explains it.

import { leaveEdit } from './composer.js';
import { stop } from './actions.js';
import { composing, copy, div, make, page, say } from './dom.js';
import { showMenu } from './list.js';
import { open as openSettings } from './settings.js';
import { state } from './state.js';
import { t } from './words.js';

const apple = /Mac|iP/.test(navigator.platform);
const mod = apple ? '⌘' : 'Ctrl';
const shift = apple ? '⇧' : 'Shift';

// [the word that explains it, the keys as they are shown]
const SHEET = [
	['keySend', ['Enter']], ['keyLine', [shift, 'Enter']], ['keyStop', ['Esc']], ['keyEdit', ['↑']], ['keyNew', [mod, shift, 'O']],
	['keySearch', [mod, 'K']], ['keyCopy', [mod, shift, 'C']], ['keySettings', [mod, ',']], ['keyBox', [shift, 'Esc']], ['keySheet', ['?']],
];

export function showSheet() {
	page.keys.replaceChildren(...SHEET.map(([word, keys]) => div('', make('dt', { textContent: t(word) }), make('dd', {}, ...keys.map((key) => make('kbd', { textContent: key }))))));
	page.sheet.showModal();
}

async function copyLast() {
	const last = state.current.turns.findLast((turn) => turn.answer);
	if (!last) return;
	await copy(last.answer);
	say(t('copied'));
}

function newTalk() {
	location.hash = '';
	showMenu(false);
	page.message.focus();
}

function search() {
	showMenu(true);
	page.search.focus();
	page.search.select();
}

// [modifier, shift, key] to what it does
const COMMANDS = [
	[true, true, 'o', newTalk], [true, false, 'k', search], [true, true, 'c', copyLast], [true, false, ',', openSettings], [true, false, '/', showSheet],
	[false, true, 'escape', () => page.message.focus()],
];

function onKey(event) {
	if (composing(event)) return;
	const modal = document.querySelector('dialog[open], [popover]:popover-open');
	if (modal) return;
	// While Korean, Greek or Russian is written the key's own letter is none of those below: its place is.
	const key = (/^[ -~]+$/.test(event.key) ? event.key : event.code.slice(3)).toLowerCase();
	const modifier = apple ? event.metaKey : event.ctrlKey;
	const writing = /^(?:INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName);
	const command = COMMANDS.find(([wants, wantsShift, name]) => wants === modifier && wantsShift === event.shiftKey && name === key && !event.altKey);
	if (command) {
		event.preventDefault();
		command[3]();
	} else if (event.key === '?' && !writing && !modifier) {
		event.preventDefault();
		showSheet();
	} else if (key === 'escape') {
		if (document.body.classList.contains('drawer')) {
			showMenu(false);
			page.menu.focus();
		} else if (state.editing) {
			leaveEdit();
		} else {
			stop(state.current);
		}
	}
}

export function start() {
	addEventListener('keydown', onKey);
	page.help.onclick = showSheet;
}

