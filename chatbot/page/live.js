// Lets a screen reader hear an answer as it comes, a sentence at a time and no faster than it can be read.

import { page, make } from './dom.js';

const SENTENCE = /[^]*?(?:[.!?…](?=\s)|[。！？]|\n\s*\n|다\.)/;
const waiting = new WeakMap();
let timer = null;
const queue = [];

export function sayAnswer(turn, text) {
	let rest = (waiting.get(turn) ?? '') + text;
	for (let match = SENTENCE.exec(rest); match; match = SENTENCE.exec(rest)) {
		put(match[0]);
		rest = rest.slice(match[0].length);
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
