// Tokens to a tree of what is to be seen: strings, and {tag, attributes, children}. Only what stands in these tables can
// ever become a node, and only with these attributes: what a model writes cannot come to life.

import { unescape } from './parse.js';

const DEEP = 40;

const PLAIN = new Set(['p', 'em', 'strong', 'del', 'ul', 'ol', 'li', 'blockquote', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6']);

// The tree, and of each block at its top the type and the first line.
export function tree(tokens) {
	const root = { children: [] };
	const path = [root];
	const blocks = [];
	for (const token of tokens) {
		const into = path.at(-1).children;
		if (token.nesting === 1) {
			const node = block(token);
			// The paragraphs of a tight list are none.
			const known = token.hidden || path.length > 2 * DEEP;
			if (!known) into.push(node);
			path.push(known ? { ...node, children: into } : node);
		} else if (token.nesting === -1) {
			path.pop();
		} else if (token.type === 'inline') {
			inlines(token.children, into);
			if (path.at(-1).tag === 'p' || path.at(-1).hidden) task(path);
		} else {
			into.push(leaf(token));
		}
		if (token.level === 0 && token.map && token.nesting >= 0) blocks.push({ from: token.map[0], type: token.type });
	}
	return { children: root.children, blocks };
}

function block({ tag, attrs, hidden }) {
	// The marks of a list and the bar of a quote stand where its text begins.
	const node = { tag: PLAIN.has(tag) ? tag : 'div', attributes: /^(?:[uo]l|blockquote)$/.test(tag) ? { dir: 'auto' } : {}, children: [], hidden };
	for (const [name, value] of attrs ?? []) {
		if (name === 'start' && tag === 'ol') node.attributes.start = Number(value);
		if (name === 'style' && /^text-align:(?:left|right|center)$/.test(value)) node.attributes.align = value.slice(11);
	}
	return node;
}

function leaf(token) {
	switch (token.type) {
		case 'hr': return { tag: 'hr', attributes: {}, children: [] };
		case 'fence': return { tag: '#code', language: unescape(token.info.trim()), text: token.content, attributes: {}, children: [] };
		case 'code_block': return { tag: '#code', language: '', text: token.content, attributes: {}, children: [] };
		case 'formula_block': return { tag: '#formula', text: token.content, display: true, open: !token.markup, attributes: {}, children: [] };
		default: return token.content;
	}
}

// Strings that touch are one, so that each stands for one text node.
function put(into, child) {
	if (typeof child === 'string' && typeof into.at(-1) === 'string') into[into.length - 1] += child;
	else if (child !== '') into.push(child);
}

function inlines(tokens, target) {
	const path = [target];
	let bold = 0;
	for (const token of tokens) {
		const into = path.at(-1);
		if (token.nesting === 1) {
			const tag = token.tag === 's' ? 'del' : token.tag;
			// Bold within bold is bold, and what is nested deeper than anybody can see is not nested.
			const known = (tag === 'strong' && bold > 0) || path.length > DEEP;
			bold += tag === 'strong';
			const node = token.type === 'link_open' ? link(token) : { tag: PLAIN.has(tag) ? tag : 'span', attributes: {}, children: [] };
			if (!known) put(into, node);
			path.push(known ? into : node.children);
		} else if (token.nesting === -1) {
			bold -= token.tag === 'strong';
			path.pop();
		} else {
			put(into, inline(token));
		}
	}
}

function inline(token) {
	switch (token.type) {
		case 'softbreak': return '\n';
		case 'hardbreak': return { tag: 'br', attributes: {}, children: [] };
		case 'code_inline': return { tag: 'code', attributes: {}, children: [token.content] };
		case 'formula': return { tag: '#formula', text: token.content, display: token.markup === '$$', attributes: {}, children: [] };
		case 'image': return image(token);
		default: return token.content;
	}
}

function link(token) {
	const attributes = { href: token.attrGet('href') };
	const title = token.attrGet('title');
	if (title) attributes.title = title;
	return { tag: 'a', attributes, children: [] };
}

// A picture that a model names is not fetched: the request would tell its server who reads, and could carry what was
// said here. Its description is a link. One that is there whole is shown.
function image(token) {
	const src = token.attrGet('src');
	const alt = plain(token.children);
	const title = token.attrGet('title');
	if (/^data:image\//i.test(src)) return { tag: 'img', attributes: { src, alt, ...(title && { title }) }, children: [] };
	return { tag: 'a', attributes: { href: src, image: true, ...(title && { title }) }, children: [alt || src] };
}

const plain = (tokens) => tokens.map((token) => (token.type === 'image' ? plain(token.children) : token.type.endsWith('break') ? '\n' : token.content)).join('');

// [ ] and [x] at the head of an item: its own text, or that of its first paragraph.
function task(path) {
	const item = path.findLast((node) => node.tag === 'li');
	const { children } = path.at(-1);
	const [mark, sign] = typeof children[0] === 'string' ? /^\[([ xX])\](?=\s)/.exec(children[0]) ?? [] : [];
	if (!mark || !item || (item.children !== children && item.children[0] !== path.at(-1))) return;
	children[0] = children[0].slice(mark.length);
	children.unshift({ tag: 'input', attributes: { type: 'checkbox', checked: sign !== ' ', disabled: true }, children: [] });
	item.attributes.className = 'task';
}
