// A block of code: its language, a button that copies it, and colours when there is time for them.

import { copier, div, make } from '../dom.js';
import { t } from '../words.js';
import { colours } from './colours.js';

const LINES = 60;  // as many stand in one node: what is above the end is not laid out again

export function codeBlock({ language, text }) {
	const code = make('code');
	const name = make('span', { className: 'language' });
	const pre = make('pre', { tabIndex: 0, role: 'group', dir: 'ltr' }, code);
	const box = div('code', div('bar', name, copier(() => box.text)), pre);
	Object.assign(box, { text: '', language: null, closed: true });

	function setLanguage(info) {
		if (box.language === info) return;
		box.language = info;
		name.textContent = info.split(/[\s,{]/)[0];
		pre.ariaLabel = `${t('code')} ${name.textContent}`.trim();
	}

	function append(more) {
		if (!more) return;
		for (const line of more.match(/[^\n]*\n|[^\n]+$/g)) {
			let part = code.lastChild;
			if (!part || part.lines >= LINES) {
				part = make('span', { className: 'part', lines: 0, from: part ? part.from + part.length : 0, length: 0 });
				code.append(part);
			}
			if (part.lastChild instanceof Text) part.lastChild.appendData(line);
			else part.append(line);
			part.length += line.length;
			if (line.endsWith('\n')) part.lines += 1;
		}
	}

	function set(whole) {
		if (!whole.startsWith(box.text)) {
			code.replaceChildren();
			box.text = '';
		}
		const more = whole.slice(box.text.length);
		append(more);
		box.text = whole;
		return more;
	}

	// The last line break ends the last line, and is not one of the code's.
	box.update = (node) => {
		setLanguage(node.language);
		const more = set(node.text.replace(/\n$/, ''));
		if (more || !node.text) colours(box, code);
		return true;
	};
	box.grow = (more, closed) => {
		append(more);
		box.text += more;
		if (closed && box.text.endsWith('\n')) {
			box.text = box.text.slice(0, -1);
			box.closed = true;
		}
		colours(box, code);
	};
	box.update({ language, text });
	return box;
}
