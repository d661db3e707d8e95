// Colours code by what a worker finds in it. The page is never kept waiting: a language that takes too long has none.

const LIMIT = 60000;  // characters; longer code stays as it is
const PATIENCE = 3000;
const EVERY = 400;  // milliseconds between two readings of code that is being written

let worker = null;
let waiting = null;  // what the worker is at
const queue = new Map();  // boxes that want colours, with their code nodes

export function colours(box, code) {
	if (!box.language || box.text.length > LIMIT || box.hopeless) return;
	queue.set(box, code);
	next();
}

function next() {
	if (waiting || !queue.size) return;
	const [box, code] = queue.entries().next().value;
	queue.delete(box);
	if (!box.isConnected && box.coloured === undefined) {
		// Not yet shown, or gone again.
		requestAnimationFrame(() => box.isConnected && colours(box, code));
		return void next();
	}
	worker ??= start();
	waiting = { box, code, text: box.text, timer: setTimeout(giveUp, PATIENCE) };
	worker.postMessage({ language: box.language.split(/[\s,{]/)[0].toLowerCase(), text: box.text });
}

function start() {
	const made = new Worker(new URL('./colour_worker.js', import.meta.url));
	made.onmessage = ({ data }) => {
		const { box, code, text, timer } = waiting;
		clearTimeout(timer);
		box.coloured = text.length;
		if (!data) box.hopeless = true;
		else if (box.text.startsWith(text)) idle(() => paint(code, data));
		setTimeout(() => {
			waiting = null;
			next();
		}, box.closed ? 0 : EVERY);
	};
	made.onerror = giveUp;
	return made;
}

function giveUp() {
	worker?.terminate();
	worker = null;
	if (waiting) waiting.box.hopeless = true;
	waiting = null;
	next();
}

const idle = (work) => (window.requestIdleCallback ?? setTimeout)(work, { timeout: 500 });

// `runs` are [kind, length, kind, length, …]; a part is painted again only if something changed in it.
function paint(code, runs) {
	let index = 0;
	let left = runs[1] ?? 0;
	for (const part of code.children) {
		const pieces = [];
		let need = part.length;
		while (need > 0 && index < runs.length) {
			const size = Math.min(need, left);
			pieces.push(runs[index], size);
			need -= size;
			left -= size;
			if (!left) {
				index += 2;
				left = runs[index + 1] ?? 0;
			}
		}
		const signature = pieces.join();
		if (part.signature === signature) continue;
		part.signature = signature;
		const text = part.textContent;
		const nodes = [];
		let at = 0;
		for (let piece = 0; piece < pieces.length; piece += 2) {
			const words = text.slice(at, at += pieces[piece + 1]);
			if (pieces[piece]) {
				const span = document.createElement('span');
				span.className = `c-${pieces[piece]}`;
				span.append(words);
				nodes.push(span);
			} else {
				nodes.push(words);
			}
		}
		// What has come meanwhile.
		if (at < text.length) nodes.push(text.slice(at));
		part.replaceChildren(...nodes);
	}
}
