// Writes an answer as it comes. What is settled is never touched again; only the last block is read anew, and no more
// often than the machine can bear. A text that is there whole takes the same way, a slice a frame.

import { complete } from './complete.js';
import { parse, ready, unescape } from './parse.js';
import { patch } from './patch.js';
import { tree } from './tree.js';

// What reading a text costs: as many as its characters, and much more for those that may mean something.
const MARKS = /[[\]*_`~$<!:@&|\n\\]/g;
const cost = (text) => text.length + 15 * (text.match(MARKS)?.length ?? 0);

const SLICE = 12000;  // what is read in one frame may cost this
const LONG = 12000;  // a block that costs more is cut where it hurts least: no text may take long to read
const TOO_LONG = 4 * LONG;  // and one that costs this, wherever it is
const DEFINITION = /^ {0,3}\[[^\]\n]+\]:/m;

export class Writer {
	static spent = 0;  // milliseconds, in this turn of the event loop

	// `wrote` is called after each change.
	constructor(root, wrote = () => {}) {
		Object.assign(this, { root, wrote, queue: '', ended: false, frame: 0, resting: 0, references: {} });
		this.begin();
	}

	begin() {
		Object.assign(this, { all: '', text: '', base: 0, was: [], fence: null });
	}

	push(text, ended = false) {
		this.queue += text;
		this.ended ||= ended;
		this.schedule();
	}

	// A text that is there whole. What is short is read at once, as long as that keeps nobody waiting, so that a page of
	// history stands still when it is put in.
	load(text) {
		if (cost(text) > SLICE || !parse('') || Writer.spent > 30) return this.push(text, true);
		const start = performance.now();
		this.finish(text);
		if (!Writer.spent) setTimeout(() => { Writer.spent = 0; });
		Writer.spent += performance.now() - start;
	}

	finish(text) {
		this.push(text, true);
		if (!parse('')) return;
		while (this.step());
		this.wrote();
	}

	schedule() {
		if (!parse('')) return this.showPlain();
		this.frame ||= requestAnimationFrame(() => {
			this.frame = 0;
			const start = performance.now();
			// A frame that took long is followed by a pause, so that the page stays quick.
			if (start < this.resting && !this.ended) return this.schedule();
			const more = this.step();
			this.resting = performance.now() + 3 * (performance.now() - start);
			this.wrote();
			if (more) this.schedule();
		});
	}

	// The text as it is, until there is a parser.
	showPlain() {
		this.root.textContent = this.queue;
		this.plain ??= ready.then(() => {
			this.root.replaceChildren();
			this.schedule();
		});
		this.wrote();
	}

	// Reads a slice of what has come; whether there is more to do.
	step() {
		let size = Math.min(SLICE, this.queue.length);
		while (size > 200 && cost(this.queue.slice(0, size)) > SLICE) size = Math.ceil(size / 2);
		if (size < this.queue.length) {
			// To the end of a line if there is one near, and never between the halves of a character.
			const line = this.queue.lastIndexOf('\n', size - 1) + 1;
			if (line > size / 2) size = line;
			else if (/[\ud800-\udbff]/.test(this.queue[size - 1])) size -= 1;
		}
		const slice = this.queue.slice(0, size);
		this.queue = this.queue.slice(size);
		this.all += slice;
		this.text += slice;
		const last = this.ended && !this.queue;
		if (this.fence) this.writeCode(last);
		if (!this.fence) this.read(last);
		if (last) this.startAgain();
		return Boolean(this.queue);
	}

	read(last) {
		const env = { references: { ...this.references }, open: !last };
		const { children, blocks } = tree(parse(last ? this.text : complete(this.text), env));
		patch(this.root, this.was, children, this.base);
		this.was = children;
		if (last) this.references = env.references;
		else this.settle(blocks);
	}

	// Lets go of the blocks that nothing can change any more.
	settle(blocks) {
		const { text } = this;
		const starts = lines(text);
		// Blank lines and definitions are nothing to be seen.
		if (!blocks.length) return void (text.length > 1000 && this.drop(0, starts.at(-1)));
		const tail = blocks.at(-1);
		let count = blocks.length - 1;
		// The line that is being written may turn out to belong to the block before it.
		// A formula without its end may turn out to be text.
		if (count && (tail.from >= starts.length - 1 || tail.type === 'formula_block')) count -= 1;
		if (tail.type === 'fence' && this.openFence(starts[tail.from])) return;
		if (count) this.drop(count, starts[blocks[count].from]);
		else if (cost(text) > LONG) this.cut(tail.type, starts);
	}

	drop(count, length) {
		const dropped = this.text.slice(0, length);
		if (DEFINITION.test(dropped)) parse(dropped, this);
		this.base += count;
		this.was = this.was.slice(count);
		this.text = this.text.slice(length);
	}

	// A block that has grown too long goes on as another of its kind: a list from an item on, a table with its head.
	cut(type, starts) {
		const { text } = this;
		const head = type === 'table_open' ? text.slice(0, starts[2]) : '';
		const begins = { bullet_list_open: /^ {0,3}[-*+][ \t]/gm, ordered_list_open: /^ {0,3}\d{1,9}[.)][ \t]/gm, table_open: /^/gm, blockquote_open: /^>/gm }[type];
		const near = text.length - 100;
		let at = begins ? [...text.matchAll(begins)].at(-1)?.index ?? 0 : text.lastIndexOf('\n', near) + 1 || text.lastIndexOf(' ', near) + 1;
		// Near its end there is no good place.
		if (at <= Math.max(head.length, text.length / 4)) {
			if (begins && cost(text) < TOO_LONG) return;
			at = text.lastIndexOf('\n') + 1;
			if (at <= Math.max(head.length, text.length / 4)) at = text.length;
			if (/[\ud800-\udbff]/.test(text[at - 1])) at -= 1;
		}
		const { children } = tree(parse(text.slice(0, at), { references: { ...this.references } }));
		patch(this.root, this.was, children, this.base);
		this.was = children;
		this.drop(children.length, at);
		if (!this.text) return;
		this.text = head + this.text;
		this.read(false);
	}

	// What is defined below a text holds above it too: if anything was defined, all is read again with it.
	startAgain() {
		if (this.again || !this.base || !Object.keys(this.references).length) return;
		this.again = true;
		this.queue = this.all;
		this.root.replaceChildren();
		this.begin();
	}

	// Code that is being written is appended to, and not read again.
	openFence(start) {
		const newline = this.text.indexOf('\n', start);
		const [, indent, marks, language] = /^( {0,3})(`{3,}(?=[^`\n]*$)|~{3,})(.*)$/.exec(this.text.slice(start, newline)) ?? [];
		if (newline < 0 || !marks) return false;
		const closing = new RegExp(`^ {0,3}\\${marks[0]}{${marks.length},}[ \\t]*$`, 'm');
		const code = this.root.childNodes[this.base + this.was.length - 1];
		this.drop(this.was.length, newline + 1);
		code.update({ tag: '#code', language: unescape(language.trim()), text: '' });
		this.fence = { code, closing, indent: indent && new RegExp(`^ {1,${indent.length}}`, 'gm') };
		this.writeCode(false);
		if (!this.fence && this.text) this.read(false);
		return true;
	}

	writeCode(last) {
		const { code, closing, indent } = this.fence;
		// Only whole lines: the last may be the one that closes it.
		const whole = last ? this.text : this.text.slice(0, this.text.lastIndexOf('\n') + 1);
		const close = closing.exec(whole);
		const body = close ? whole.slice(0, close.index) : whole;
		code.grow(indent ? body.replace(indent, '') : body, Boolean(close) || last);
		this.text = this.text.slice(close ? close.index + close[0].length : whole.length);
		if (close || last) this.fence = null;
	}
}

// Where each line begins.
function lines(text) {
	const starts = [0];
	for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) starts.push(at + 1);
	return starts;
}
