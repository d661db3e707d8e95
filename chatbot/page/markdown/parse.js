// Markdown to tokens: markdown-it, set to GitHub's dialect, with formulas. HTML stays text.

import { addMath } from './formulas.js';

let md = null;

// The parser is large and comes after the page is drawn; until then texts are shown as they are.
export const ready = import('../vendor/markdown-it/markdown-it.esm.min.mjs').then(({ default: MarkdownIt }) => {
	md = new MarkdownIt({ html: false, linkify: true });
	// An address that could run something, or that no browser knows, makes no link: its Markdown stays to be read.
	md.validateLink = isLink;
	md.linkify.set({ fuzzyLink: false });
	md.linkify.add('ftp:', 'http:');
	md.linkify.add('//', null);
	md.linkify.add('www.', {
		validate: (text, at, self) => self.testSchemaAt(`http://www.${text.slice(at, at + 2000)}`, 'http:', 5) - 6,
		normalize: (match) => { match.url = `http://${match.url}`; },
	});
	md.inline.ruler.before('html_inline', 'break', lineBreak);
	addMath(md);
});

// The tokens of a text; null while there is no parser.
export const parse = (text, env = {}) => md && md.parse(text, env);

// Addresses without a scheme are this site's own; those with one are of these.
export function isLink(address) {
	const [, scheme] = /^[\0-\x20]*([^\/?#:]*):/.exec(address) ?? [];
	return scheme === undefined || /^(?:https?|mailto|tel|ftp|xmpp)$/i.test(scheme) || /^data:image\/(?:png|gif|jpeg|webp);/i.test(address);
}

// Models write <br> into the cells of tables, where nothing else breaks a line.
function lineBreak(state, silent) {
	if (state.src.charCodeAt(state.pos) !== 0x3C) return false;
	const [mark] = /^<br\s*\/?>/i.exec(state.src.slice(state.pos, state.pos + 12)) ?? [];
	if (!mark) return false;
	if (!silent) state.push('hardbreak', 'br', 0);
	state.pos += mark.length;
	return true;
}
