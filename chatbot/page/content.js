// What a person said, as it is seen: text, pictures, sounds and files.

import { get } from './api.js';
import { button, div, make } from './dom.js';
import { icon } from './icons.js';
import { state } from './state.js';
import { t } from './words.js';

// A text file goes to the model as text, in these marks.
const FILE = /^<file name="([^"\n]{0,200})">\n([^]*)\n<\/file>$/;
// What of a message's content is text.
export const plain = (content) => (typeof content === 'string' ? content : (content ?? []).map((part) => part?.text ?? '').join('\n'));

// What was typed of it, and what came with that.
export function parted(content) {
	if (typeof content === 'string') return { text: content, files: [] };
	const typed = (part) => part.type === 'text' && !FILE.test(part.text);
	return { text: content.filter(typed).map(({ text }) => text).join('\n'), files: content.filter((part) => !typed(part)) };
}

export const nameOf = (part) => FILE.exec(part?.text)?.[1] ?? part?.file?.filename ?? t({ image_url: 'picture', input_audio: 'audio' }[part?.type] ?? 'file');

// A message in a line: what was typed, or else the names of what it holds.
export function inLine(content) {
	const { text, files } = parted(content);
	return (text.trim() || files.map(nameOf).join(', ')).replace(/\s+/g, ' ');
}

export const fileText = (name, text) => `<file name="${name.replace(/["\n]/g, ' ')}">\n${text}\n</file>`;

export function showContent(content, id) {
	if (!Array.isArray(content)) return div('bubble', String(content ?? ''));
	const texts = [];
	const others = div('attachments');
	content.forEach((part, index) => {
		const [, name, text] = (part?.type === 'text' && FILE.exec(part.text)) || [];
		if (name !== undefined) others.append(textFile(name, text));
		else if (part?.type === 'text') texts.push(part.text);
		else if (part) others.append(attachment(part, id, index));
	});
	const bubble = texts.join('\n').trim() ? div('bubble', texts.join('\n')) : null;
	return div('said', others.childNodes.length ? others : null, bubble);
}

const textFile = (name, text) => make('details', { className: 'chip' }, make('summary', {}, icon('file'), make('span', { textContent: name })), make('pre', { textContent: text, tabIndex: 0, dir: 'auto' }));

function attachment(part, id, index) {
	const url = part.image_url?.url ?? part.image_url;
	if (part.type === 'image_url' && typeof url === 'string') return picture(url);
	if (part.type === 'image_url' && id) return omitted(id, index);
	return div('chip', icon('file'), make('span', { textContent: String(nameOf(part)) }));
}

// Only what came with the message is shown: a picture elsewhere would be fetched from there.
function picture(url) {
	if (/^(?:data:image\/|blob:)/i.test(url)) return make('img', { src: url, alt: t('picture'), className: 'picture-said' });
	const link = make('a', { textContent: url.slice(0, 200), target: '_blank', rel: 'noopener noreferrer' });
	if (/^https?:/i.test(url)) link.href = url;
	return div('chip', icon('file'), link);
}

// The history comes without pictures; each is fetched when it is about to be seen.
const seen = new IntersectionObserver((entries) => {
	for (const { isIntersecting, target } of entries) if (isIntersecting) target.fetch();
}, { rootMargin: '300px' });

function omitted(id, index) {
	const box = div('chip picture-to-be', icon('file'), make('span', { textContent: t('picture') }));
	const { current: talk } = state;
	box.fetch = async () => {
		seen.unobserve(box);
		try {
			const { content } = await get(talk, `/messages/${id}`);
			const part = content[index];
			box.replaceWith(picture(part.image_url?.url ?? part.image_url));
		} catch {
			box.append(button('again', () => box.fetch(), 'act'));
		}
	};
	seen.observe(box);
	return box;
}
