// The page: puts its parts together, and shows the conversation that the address names.

import { hint, leaveEdit, start as startComposer } from './composer.js';
import { copy, openMenu, page, toast } from './dom.js';
import { icon } from './icons.js';
import { isId, listed, tab } from './keep.js';
import { start as startKeys } from './keys.js';
import { menu, showList, showMenu, start as startList } from './list.js';
import { sane, showDifferences, start as startSettings } from './settings.js';
import { on, state, talks, tell } from './state.js';
import { load, loadOlder, newTalk, tidy } from './talks.js';
import { all, start as startTransfer } from './transfer.js';
import { stick } from './turn.js';
import { korean, t } from './words.js';

const { scroller, message } = page;
let lastTop = 0;

// What follows the # is never sent to a server.
function route() {
	const id = location.hash.slice(1);
	if (isId(id)) {
		const talk = talks.get(id) ?? newTalk(id, listed().find((entry) => entry.id === id)?.title);
		// The one that was looked at last is the last to go.
		talks.delete(id);
		talks.set(id, talk);
		return show(talk);
	}
	if (!state.blank || state.blank.id || state.blank.running) {
		// What was on its way when the page was left is taken up once.
		state.blank = Object.assign(newTalk(), { restored: Boolean(state.blank) });
		state.blank.settings = sane(tab('settings new'));
	}
	return show(state.blank);
}

function show(talk) {
	state.current = talk;
	state.pinned = true;
	scroller.replaceChildren(talk.log);
	leaveEdit();
	showMenu(false);
	showRunning(talk);
	showDifferences(talk);
	tell('queue', talk);
	stick();
	tidy();
	if (talk.id) load(talk);
	else if (!talk.restored) tell('restore', talk, null, () => {});
	// On a phone the keyboard would cover half of it.
	if (matchMedia('(pointer: fine)').matches) message.focus();
}

function showRunning(talk) {
	showList();
	if (talk !== state.current) return;
	const running = Boolean(talk.running);
	page.main.classList.toggle('busy', running);
	page.stop.hidden = !running;
	if (running) return;
	hint(state.editing ? 'editing' : 'keysHint');
	if (document.activeElement === document.body) message.focus();
}

function fillUp() {
	const { current } = state;
	current.older.textContent = current.more ? t('older') : '';
	if (current.more && scroller.scrollTop < 400) loadOlder(current).catch((error) => error.told || Promise.reject(error));
}

function onScroll() {
	const { scrollTop, scrollHeight, clientHeight } = scroller;
	// Only a reader scrolls up: text that grew faster than it was followed does not.
	if (scrollTop < lastTop - 1) state.pinned = false;
	if (scrollHeight - scrollTop - clientHeight < 32) state.pinned = true;
	lastTop = scrollTop;
	page.jump.hidden = state.pinned || scrollHeight - scrollTop - clientHeight < 200;
	fillUp();
}

// A phone's keyboard covers the page's foot where the browser does not make room by itself.
function fitKeyboard() {
	const { height, offsetTop } = window.visualViewport;
	document.body.style.height = innerHeight - height > 80 ? `${height}px` : '';
	if (offsetTop && document.body.style.height) scrollTo(0, 0);
}

function label() {
	document.documentElement.lang = korean ? 'ko' : 'en';
	for (const node of document.querySelectorAll('[data-icon]')) node.prepend(icon(node.dataset.icon));
	for (const node of document.querySelectorAll('[data-text]')) node.append(t(node.dataset.text));
	for (const node of document.querySelectorAll('[data-label]')) node.ariaLabel = t(node.dataset.label);
	for (const node of document.querySelectorAll('button[data-label]')) node.title = t(node.dataset.label);
	for (const node of document.querySelectorAll('[data-placeholder]')) node.placeholder = t(node.dataset.placeholder);
	scroller.dataset.empty = t('empty');
}

function start() {
	label();
	startComposer();
	startList();
	startSettings();
	startTransfer();
	startKeys();
	on('stick', stick);
	on('wrote', stick);
	on('running', showRunning);
	on('filled', fillUp);
	on('route', route);
	scroller.onscroll = onScroll;
	// A picture takes its room when it is there.
	scroller.addEventListener('load', stick, true);
	page.jump.onclick = () => {
		state.pinned = true;
		stick();
		message.focus();
	};
	page.menu.onclick = () => showMenu(true);
	page.close.onclick = page.veil.onclick = () => {
		showMenu(false);
		page.menu.focus();
	};
	page.new.onclick = () => {
		showMenu(false);
		message.focus();
	};
	page.more.onclick = () => menu(page.more, state.current.id, [['copyLink', 'link', copyLink]]);
	page.everything.onclick = () => openMenu(page.everything, [
		['exportAllMarkdown', 'export', () => all('markdown')], ['exportAllJson', 'export', () => all('json')], ['importJson', 'import', () => page.backup.click()],
	]);
	onhashchange = route;
	// The window, or what is written below, took of its height.
	new ResizeObserver(stick).observe(scroller);
	window.visualViewport?.addEventListener('resize', fitKeyboard);
	onstorage = (event) => {
		if (event.key !== 'talks') return;
		showList();
		load(state.current);
	};
	document.onvisibilitychange = () => document.hidden || load(state.current);
	route();
	performance.mark('ready');
}

async function copyLink() {
	await copy(location.href);
	toast(t('linkCopied'));
}

start();
