// Makes nodes. Text only ever goes through text nodes and properties, never through markup.

import { t } from './words.js';
import { icon } from './icons.js';

export const page = Object.fromEntries(Array.from(document.querySelectorAll('[id]'), (node) => [node.id, node]));
export const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

export function make(tag, properties, ...children) {
	const node = Object.assign(document.createElement(tag), properties);
	node.append(...children.filter((child) => child != null));
	return node;
}

export const div = (className, ...children) => make('div', { className }, ...children);

// A button with words.
export const button = (word, onclick, className = '') => make('button', { type: 'button', textContent: t(word), onclick, className });

// A button with a picture, whose word is its name and its tip.
export function iconButton(name, word, onclick, className = '') {
	const node = make('button', { type: 'button', onclick, className: `icon ${className}`, ariaLabel: t(word), title: t(word) });
	node.append(icon(name));
	return node;
}

// The Enter that ends a composition is the input method's; Safari tells it by the key code alone.
export const composing = ({ isComposing, keyCode }) => isComposing || keyCode === 229;

// The live region for what happens: short, and one thing at a time.
export function say(text) {
	page.status.textContent = text;
}

export async function copy(text, near) {
	try {
		await navigator.clipboard.writeText(text);
	} catch {
		// No clipboard API at http://192.168.…: the old command copies a selection.
		const box = make('textarea', { value: text, className: 'quiet' });
		(near ?? document.body).after(box);
		box.select();
		document.execCommand('copy');
		box.remove();
		near?.focus();
	}
}

// A button that copies, and shows for two seconds that it did.
export function copier(text, className = '') {
	const node = iconButton('copy', 'copy', async () => {
		await copy(text(), node);
		node.replaceChildren(icon('check'));
		node.ariaLabel = node.title = t('copied');
		say(t('copied'));
		await pause(2000);
		node.replaceChildren(icon('copy'));
		node.ariaLabel = node.title = t('copy');
	}, `act copy ${className}`);
	return node;
}

// ask resolves to what was typed, true if nothing is to be, or ''. Questions wait for one another.
let asking = Promise.resolve();
export function ask(question, value, type = 'text') {
	asking = asking.then(() => new Promise((resolve) => {
		page.question.textContent = question;
		Object.assign(page.input, { type, value: value ?? '', hidden: value === undefined });
		page.ask.returnValue = '';
		page.ask.onclose = () => resolve(page.ask.returnValue && (page.input.hidden || page.input.value.trim()));
		page.ask.showModal();
	}));
	return asking;
}
export const asked = () => asking;

// A line at the foot of the page, which goes by itself; `undo` adds a button. Resolves to whether it was undone.
export function toast(text, undo, ms = 7000) {
	return new Promise((resolve) => {
		const end = (undone) => {
			clearTimeout(timer);
			node.remove();
			resolve(undone);
		};
		const node = div('toast', make('span', { textContent: text }), undo && button(undo, () => end(true), 'act'));
		const timer = setTimeout(end, ms, false);
		page.toasts.append(node);
		say(text);
	});
}

// A menu under a button: entries are [word, icon, action].
export function openMenu(anchor, entries) {
	const menu = make('div', { className: 'menu', role: 'menu', popover: 'auto' });
	const items = entries.map(([word, name, action]) => {
		const item = make('button', { type: 'button', role: 'menuitem', onclick: () => { menu.hidePopover(); action(); } }, icon(name), t(word));
		return item;
	});
	menu.append(...items);
	menu.onkeydown = (event) => {
		const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
		if (!step) return;
		event.preventDefault();
		items.at((items.indexOf(document.activeElement) + step) % items.length).focus();
	};
	menu.ontoggle = (event) => {
		if (event.newState !== 'closed') return;
		anchor.ariaExpanded = 'false';
		const inside = menu.contains(document.activeElement) || document.activeElement === document.body;
		menu.remove();
		if (inside && anchor.isConnected) anchor.focus();
	};
	anchor.after(menu);
	anchor.ariaExpanded = 'true';
	menu.showPopover();
	const at = anchor.getBoundingClientRect();
	const { offsetWidth: width, offsetHeight: height } = menu;
	menu.style.left = `${Math.max(8, Math.min(at.right - width, innerWidth - width - 8))}px`;
	menu.style.top = `${at.bottom + height + 8 > innerHeight ? Math.max(8, at.top - height - 4) : at.bottom + 4}px`;
	items[0].focus();
}
