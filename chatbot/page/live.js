// Lets a screen reader hear an answer as it comes, a sentence at a time and no faster than it can be read.

import { page, make } from './dom.js';

const END = /[.!?…](?=\s)|[。！？\n]/;
const LONG = 400;  // what has no end by then is read as it is

const waiting = new WeakMap();
let timer = null;
const queue = [];

export function sayAnswer(turn, text) {
	let rest = (waiting.get(turn) ?? '') + text;
	for (let match = END.exec(rest); match || rest.length > LONG; match = END.exec(rest)) {
		const end = match ? match.index + 1 : rest.length;
		put(rest.slice(0, end));
		rest = rest.slice(end);
	}
	waiting.set(turn, rest);
}

// The answer is over: what is left is its last sentence.
export function flush(turn) {
	put(waiting.get(turn) ?? '');
	waiting.delete(turn);
}

function put(sentence) {
	// Its marks are for the eye.
	const words = sentence.replace(/```[^\n]*|[*_`#>|~]+|!?\[([^\]]*)\]\([^)]*\)/g, '$1').trim();
	if (!words) return;
	queue.push(words);
	timer ??= setTimeout(show, 400);
}

function show() {
	timer = null;
	// A reader that cannot keep up hears several at once, not each later and later.
	page.live.append(make('p', { textContent: queue.splice(0).join(' ').slice(0, 2000) }));
	while (page.live.childNodes.length > 5) page.live.firstChild.remove();
}
