// A tree to DOM nodes, changing only what differs from the tree before: while an answer is written its last block is
// read again and again, and what stands already must neither flicker nor lose the reader's selection.

import { codeBlock } from './code.js';
import { formula } from './math.js';
import { t } from '../words.js';

const WIDGETS = { '#code': codeBlock, '#formula': formula };

// Brings the children of `parent` from index `at` on from the tree `was` to the tree `is`.
export function patch(parent, was, is, at = 0) {
	for (let index = 0; index < is.length; index += 1) {
		const node = is[index];
		const old = was[index];
		if (old === undefined) parent.insertBefore(build(node), parent.childNodes[at + index] ?? null);
		else if (!update(parent.childNodes[at + index], old, node)) parent.replaceChild(build(node), parent.childNodes[at + index]);
	}
	for (let index = was.length; index > is.length; index -= 1) parent.childNodes[at + index - 1].remove();
}

function update(dom, old, node) {
	if (typeof node === 'string' || typeof old === 'string') {
		if (typeof node !== typeof old) return false;
		if (node === old) return true;
		if (node.startsWith(old)) dom.appendData(node.slice(old.length));
		else dom.data = node;
		return true;
	}
	if (old.tag !== node.tag) return false;
	if (WIDGETS[node.tag]) return dom.update(node);
	if (!same(old.attributes, node.attributes)) return false;
	patch(inside(dom), old.children, node.children);
	return true;
}

function same(one, other) {
	const names = Object.keys(one);
	return names.length === Object.keys(other).length && names.every((name) => one[name] === other[name]);
}

// A wide table scrolls within a box of its own, and begins where its language does.
const inside = (dom) => (dom.className === 'wide' ? dom.firstChild : dom);

function build(node) {
	if (typeof node === 'string') return document.createTextNode(node);
	if (WIDGETS[node.tag]) return WIDGETS[node.tag](node);
	const dom = document.createElement(node.tag);
	const { href, image, align, ...plain } = node.attributes;
	Object.assign(dom, plain);
	// tree.js lets nothing through that a link may not be.
	if (href !== undefined) Object.assign(dom, { href, target: '_blank', rel: 'noopener noreferrer' });
	if (image) dom.className = 'image';
	if (node.tag === 'input') dom.ariaLabel = t(plain.checked ? 'taskDone' : 'taskOpen');
	if (align) dom.classList.add(align);
	for (const child of node.children) dom.append(build(child));
	if (node.tag !== 'table') return dom;
	const box = document.createElement('div');
	Object.assign(box, { className: 'wide', dir: 'auto', tabIndex: 0, role: 'group', ariaLabel: t('table') });
	box.append(dom);
	return box;
}
