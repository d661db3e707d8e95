// The list of conversations: by day, searched, renamed in place, deleted with a way back.

import { call, get, request, unless } from './api.js';
import { composing, iconButton, make, openMenu, page, pause, toast } from './dom.js';
import { isId, kept, listed } from './keep.js';
import { on, state, talks, tell } from './state.js';
import { forget, setTitle, textOf, texts } from './talks.js';
import { dropTurn } from './turn.js';
import { save } from './transfer.js';
import { korean, t } from './words.js';

const DAY = 86400000;
const UNDO = 7000;  // milliseconds
const month = new Intl.DateTimeFormat(korean ? 'ko' : 'en', { year: 'numeric', month: 'long' });
const hidden = new Set();  // deleted, as long as it can be undone
let renaming = null;

function dayOf(at) {
	const today = new Date().setHours(0, 0, 0, 0);
	if (!(at < today)) return t('today');
	if (at >= today - DAY) return t('yesterday');
	if (at >= today - 7 * DAY) return t('week');
	if (at >= today - 30 * DAY) return t('month');
	return month.format(at);
}

// All words, in the title or in what is loaded.
function found({ id, title }, words) {
	if (!words.length) return true;
	const talk = talks.get(id);
	const text = `${String(title).toLowerCase()}\n${talk ? textOf(talk) : texts.get(id) ?? ''}`;
	return words.every((word) => text.includes(word));
}

export function showList() {
	const { current } = state;
	if (!current) return;
	document.title = page.title.textContent = current.title || t('new');
	page.more.hidden = !current.id;
	if (renaming) return;
	const focused = document.activeElement?.closest?.('#list') ? [document.activeElement.dataset.id, document.activeElement.className] : null;
	const words = page.search.value.toLowerCase().split(/\s+/).filter(Boolean);
	const groups = [];
	for (const entry of listed().filter(({ id }) => !hidden.has(id))) {
		if (!found(entry, words)) continue;
		const day = dayOf(entry.at);
		if (groups.at(-1)?.day !== day) groups.push({ day, items: [] });
		groups.at(-1).items.push(item(entry));
	}
	page.list.replaceChildren(...groups.map(({ day, items }, index) => make('section', {}, make('h2', { id: `day-${index}`, textContent: day }), make('ul', {}, ...items))));
	if (!groups.length && words.length) page.list.append(make('p', { className: 'none', textContent: t('nothingFound') }));
	// Somebody may be standing in the list.
	if (focused) [...page.list.querySelectorAll('[data-id]')].find((node) => node.dataset.id === focused[0] && node.className === focused[1])?.focus();
}

function item(entry) {
	const { id } = entry;
	const title = String(entry.title || t('new'));
	const anchor = make('a', { href: `#${id}`, textContent: title, title });
	anchor.dataset.id = id;
	anchor.dir = 'auto';
	if (id === state.current.id) anchor.ariaCurrent = 'page';
	if (talks.get(id)?.running) anchor.dataset.busy = '';
	anchor.ondblclick = (event) => {
		event.preventDefault();
		rename(id);
	};
	anchor.onkeydown = (event) => {
		if (event.key === 'F2') rename(id);
		if (event.key === 'Delete') remove(id);
	};
	const more = iconButton('more', 'moreOf', () => menu(more, id), 'act');
	more.ariaLabel = more.title = t('moreOf', title);
	more.ariaHasPopup = 'menu';
	more.ariaExpanded = 'false';
	more.dataset.id = id;
	return make('li', {}, anchor, more);
}

export function menu(anchor, id, more = []) {
	openMenu(anchor, [
		['rename', 'edit', () => rename(id, anchor)],
		...more,
		['exportMarkdown', 'export', () => save([id], 'markdown')],
		['exportJson', 'export', () => save([id], 'json')],
		['remove', 'remove', () => remove(id)],
	]);
}

const titleOf = (id) => talks.get(id)?.title || listed().find((entry) => entry.id === id)?.title || '';

// In the list, in the place of the title; from the header's menu in the header, for there the list may be out of sight.
export function rename(id, anchor) {
	const inHeader = anchor === page.more;
	const place = inHeader ? page.title : [...page.list.querySelectorAll('a')].find((node) => node.dataset.id === id);
	if (!place || renaming) return;
	const before = titleOf(id);
	const box = make('input', { value: before, className: 'rename', ariaLabel: t('rename'), maxLength: 200 });
	renaming = box;
	place.replaceWith(box);
	box.select();
	box.focus();
	let over = false;
	const end = (title) => {
		if (over) return;
		over = true;
		renaming = null;
		const focus = document.activeElement === box;
		box.replaceWith(place);
		if (title && title !== before) setName(id, title).catch((error) => tell('hint', error.code));
		else showList();
		if (focus) (inHeader ? page.more : [...page.list.querySelectorAll('a')].find((node) => node.dataset.id === id))?.focus();
	};
	box.onblur = () => end(box.value.trim());
	box.onkeydown = (event) => {
		if (composing(event)) return;
		// The button that is focused next must not be pressed by the same key.
		if (event.key === 'Enter' || event.key === 'Escape') event.preventDefault();
		if (event.key === 'Enter') end(box.value.trim());
		if (event.key === 'Escape') end('');
		event.stopPropagation();
	};
}

async function setName(id, title) {
	const talk = talks.get(id) ?? { id };
	setTitle(talk, title);
	// A patch replaces all metadata; some may be another client's.
	const { metadata } = await get(talk);
	await call(talk, 'PATCH', '', { body: { metadata: { ...metadata, title } } });
}

// The server is asked when there is no way back any more, also in another tab; by the next page if this one is left.
export async function remove(id) {
	const title = titleOf(id) || t('new');
	hidden.add(id);
	kept('deleting', [...deleting(), id]);
	if (state.current.id === id) location.hash = '';
	showList();
	page.message.focus();
	const undone = await toast(t('removed', title), 'undo', UNDO);
	hidden.delete(id);
	if (!undone) return erase(id);
	settle(id);
	location.hash = id;
	return showList();
}

const deleting = () => [kept('deleting') ?? []].flat().filter(isId);
const settle = (id) => kept('deleting', deleting().filter((other) => other !== id));

async function erase(id) {
	const talk = talks.get(id);
	forget(id);
	try {
		await request('DELETE', `api/sessions/${id}`).catch(unless('session_not_found'));
		settle(id);
	} catch (error) {
		if (!error.told) throw error;
	}
	if (talk?.running) dropTurn(talk, talk.running);
	if (state.current?.id === id) location.hash = '';
}

// The list is a drawer where the screen is narrow.
export function showMenu(open) {
	const narrow = matchMedia('(max-width: 48rem)').matches;
	document.body.classList.toggle('drawer', open && narrow);
	page.menu.ariaExpanded = String(open && narrow);
	page.main.inert = open && narrow;
	if (open && narrow) page.new.focus();
}

export function start() {
	page.search.oninput = showList;
	page.search.onkeydown = (event) => {
		if (composing(event)) return;
		if (event.key === 'Enter') page.list.querySelector('a')?.click();
		if (event.key !== 'Escape' || !page.search.value) return;
		event.stopPropagation();
		page.search.value = '';
		showList();
	};
	on('list', showList);
	const left = deleting();
	for (const id of left) hidden.add(id);
	pause(UNDO + 1000).then(() => {
		for (const id of left) {
			hidden.delete(id);
			if (deleting().includes(id)) erase(id);
		}
		showList();
	});
}

