// Markdown to tokens: markdown-it, set to GitHub's dialect, with formulas. HTML stays text.

import { addMath } from './formulas.js';
import { late } from './late.js';

let md = null;

// The address changes, because a module that failed is not fetched again by the same one.
const load = (tries) => import(`../vendor/markdown-it/markdown-it.esm.min.mjs${tries ? `?${tries}` : ''}`);

// The parser is large and comes after the page is drawn; until then texts are shown as they are.
export const ready = late(load).then(({ default: MarkdownIt }) => {
	md = new MarkdownIt({ html: false, linkify: true });
	// An address that could run something, or that no browser knows, makes no link: its Markdown stays to be read.
	md.validateLink = isLink;
	md.linkify.set({ fuzzyLink: false });
	md.linkify.add('//', null);
	md.linkify.add('www.', {
		validate: (text, at, self) => self.testSchemaAt(`http://www.${text.slice(at, at + 2000)}`, 'http:', 5) - 6,
		normalize: (match) => { match.url = `http://${match.url}`; },
	});
	md.inline.ruler.before('html_inline', 'break', lineBreak);
	md.inline.State = unspaced(md.inline.State);
	addMath(md);
});

// The tokens of a text; null while there is no parser.
export const parse = (text, env = {}) => md && md.parse(text, env);

const PROTOCOLS = new Set(['http:', 'https:', 'mailto:', 'tel:', 'ftp:', 'xmpp:']);

// As the browser itself will read it. An address without a scheme is this site's own.
export function isLink(address) {
	if (/^data:image\/(?:png|gif|jpeg|webp);/i.test(address)) return true;
	try {
		return PROTOCOLS.has(new URL(address, 'https://page.invalid/').protocol);
	} catch {
		return false;
	}
}

// The words behind the marks of a block of code may have escapes.
export const unescape = (text) => md.utils.unescapeAll(text);

const UNSPACED = /[\p{sc=Hangul}\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}]/u;

// A particle follows its word without a space: without this, who reads "**사과(apple)**는" would see the stars.
const unspaced = (State) => class extends State {
	scanDelims(start, split) {
		const found = super.scanDelims(start, split);
		const [before = ' ', after = ' '] = [this.src[start - 1], this.src[start + found.length]];
		if (split && UNSPACED.test(before) && /\S/.test(after)) found.can_open = true;
		if (split && UNSPACED.test(after) && /\S/.test(before)) found.can_close = true;
		return found;
	}
};

// Models write <br> into the cells of tables, where nothing else breaks a line.
function lineBreak(state, silent) {
	if (state.src.charCodeAt(state.pos) !== 0x3C) return false;
	const [mark] = /^<br\s*\/?>/i.exec(state.src.slice(state.pos, state.pos + 12)) ?? [];
	if (!mark) return false;
	if (!silent) state.push('hardbreak', 'br', 0);
	state.pos += mark.length;
	return true;
}
