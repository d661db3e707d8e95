// Finds formulas: $…$, \(…\), $$…$$ and \[…\], in a line or as blocks.

const FAR = 4000;  // a formula is no longer than that

export function addMath(md) {
	md.inline.ruler.before('escape', 'formula', inline);
	md.block.ruler.before('paragraph', 'formula', block, { alt: ['paragraph', 'list'] });
}

function inline(state, silent) {
	const { src, pos } = state;
	const two = src.slice(pos, pos + 2);
	const close = { '$$': '$$', '\\(': '\\)', '\\[': '\\]' }[two];
	let text = null;
	let end = -1;
	if (close) {
		end = find(src, close, pos + 2);
		if (end > 0) text = src.slice(pos + 2, end);
		end += 2;
	} else if (src[pos] === '$') {
		// As pandoc reads it, so that "$5 and $10" stays money: no blank inside the marks, no digit after them.
		end = find(src, '$', pos + 1);
		if (end > 0 && !/^\s|\s$/.test(src.slice(pos + 1, end)) && !/[\w$]/.test(src[end + 1] ?? '') && !/[\w$]/.test(src[pos - 1] ?? '')) text = src.slice(pos + 1, end);
		end += 1;
	}
	// Without a letter or a digit they are escaped brackets.
	if (!text || !/[\p{L}\p{N}]/u.test(text)) return false;
	if (!silent) {
		const token = state.push('formula', '', 0);
		token.content = text;
		token.markup = close && two !== '\\(' ? '$$' : '$';
	}
	state.pos = end;
	return true;
}

function find(src, close, from) {
	// Most that look like a beginning have no end at all.
	if (src.indexOf(close, from) < 0) return -1;
	const limit = Math.min(src.length, from + FAR);
	for (let at = from; at < limit; at += 1) {
		if (src.startsWith(close, at)) return at;
		if (src[at] === '\\') at += 1;
		else if (src[at] === '\n' && src[at + 1] === '\n') return -1;
	}
	return -1;
}

function block(state, first, last, silent) {
	const lineAt = (line) => state.src.slice(state.bMarks[line] + state.tShift[line], state.eMarks[line]).trimEnd();
	if (state.sCount[first] - state.blkIndent >= 4) return false;
	const head = lineAt(first);
	const open = head.slice(0, 2);
	if (open !== '$$' && open !== '\\[') return false;
	const close = open === '$$' ? '$$' : '\\]';
	const lines = [];
	let line = first;
	let closed = false;
	for (; line < last && !closed; line += 1) {
		let text = line === first ? head.slice(2) : lineAt(line);
		if (line > first && (!text || state.sCount[line] < state.blkIndent)) break;
		const at = text.indexOf(close);
		closed = at >= 0;
		// Something stands after it: this is a line of text with a formula in it.
		if (closed && at + 2 < text.length) return false;
		if (closed) text = text.slice(0, at);
		lines.push(text);
	}
	// While it is being written its end is yet to come.
	if (!closed && !(state.env.open && line === last)) return false;
	if (silent) return true;
	const token = state.push('formula_block', '', 0);
	token.content = lines.join('\n').trim();
	token.markup = closed ? '$$' : '';
	token.map = [first, line];
	token.block = true;
	state.line = line;
	return true;
}
