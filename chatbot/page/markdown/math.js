// Formulas, by KaTeX, which is fetched when the first one comes. Until then, and where it cannot read one, its source
// is shown.

import { tell } from '../state.js';
import { late } from './late.js';

const KATEX = new URL('../vendor/katex/', import.meta.url);
const queue = [];
let loading = null;

const fetched = (tag, properties) => new Promise((resolve, reject) => {
	document.head.append(Object.assign(document.createElement(tag), properties, { onload: resolve, onerror: reject }));
});

function load() {
	loading ??= late(() => Promise.all([
		fetched('link', { rel: 'stylesheet', href: new URL('katex.min.css', KATEX) }),
		fetched('script', { src: new URL('katex.min.js', KATEX) }),
	]));
	return loading;
}

export function formula({ text, display, open }) {
	const node = document.createElement(display ? 'div' : 'span');
	node.dir = 'ltr';
	node.update = (is) => {
		if (is.display !== display) return false;
		if (is.text === node.tex && is.open === node.open) return true;
		Object.assign(node, { tex: is.text, open: is.open });
		if (!node.shown) source(node, display);
		if (is.open) return true;
		if (!queue.includes(node)) queue.push(node);
		load().then(() => idle(work));
		return true;
	};
	node.update({ text, display, open });
	return node;
}

function source(node, display) {
	node.className = `formula source${display ? ' display' : ''}`;
	node.textContent = node.tex;
}

const idle = (action) => (window.requestIdleCallback ? requestIdleCallback(action, { timeout: 200 }) : setTimeout(action, 10, { timeRemaining: () => 8 }));
let working = false;

function work(deadline) {
	if (working) return;
	working = true;
	do {
		const node = queue.shift();
		if (node) show(node);
	} while (queue.length && deadline.timeRemaining() > 4);
	working = false;
	tell('stick');
	if (queue.length) idle(work);
}

function show(node) {
	const display = node.localName === 'div';
	try {
		if (node.tex.length > 4000) throw new Error('too long');
		// trust: false refuses what could fetch or carry styles; maxExpand bounds macros, maxSize rules and blanks.
		katex.render(node.tex, node, { displayMode: display, throwOnError: true, trust: false, maxExpand: 300, maxSize: 20, strict: 'ignore' });
		node.className = `formula${display ? ' display' : ''}`;
		node.shown = true;
		if (display) node.tabIndex = 0;
	} catch {
		source(node, display);
	}
}
