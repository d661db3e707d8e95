// While a line is being written its marks have no ends yet: "**bo" would show its stars until the bold is closed. This
// closes for the eye what is open, and leaves out marks that may yet become something else.

// A line of marks alone: a rule, an item, a heading or a fence to be.
const UNDECIDED = /(?:^|\n)[ \t>]{0,40}(?:[-*+_=~#`|]{1,6}|\d{1,9}[.)]?)?[ \t]*$/;

export function complete(text) {
	const start = text.lastIndexOf('\n\n') + 1;
	let line = text.slice(Math.max(start, text.length - 4000));
	const head = text.slice(0, text.length - line.length);
	line = line.replace(UNDECIDED, '');
	// A table's head alone is a line of text; it is shown when it is known to be one.
	if (/(?:^|\n)[ \t]*\|[^\n]*(?:\n[ \t]*\|?[ \t:|-]*)?$/.test(line) && !/\n[ \t]*\|?[ \t]*:?-[^\n]*\n/.test(line)) line = line.replace(/(?:^|\n)[ \t]*\|[^\n]*(?:\n[ \t:|-]*)?$/, '');
	const ticks = (line.match(/`+/g) ?? []).at(-1);
	const bare = line.replace(/(`+)[^`]*?\1(?!`)/g, (code) => 'x'.repeat(code.length));
	const open = bare.indexOf('`');
	// In code that is not closed nothing else is a mark.
	if (open >= 0 && ticks && ticks.length < 3) return head + (line.endsWith(ticks) ? line.slice(0, -ticks.length) : line + ticks);
	// Links: the words are shown, the address is not until it is whole.
	const link = /!?\[([^[\]\n]*)(?:\](?:\([^()\s]*)?)?$/.exec(bare);
	if (link && link[1] && !/^[ xX]$/.test(link[1])) line = line.slice(0, link.index) + line.slice(link.index + link[0].indexOf('[') + 1, link.index + link[0].indexOf('[') + 1 + link[1].length);
	for (const mark of ['~~', '**', '*']) {
		const marks = bare.split(mark === '*' ? /(?<![*\\\s])\*(?!\*)|(?<!\*)\*(?![*\s])/ : mark).length - 1;
		if (marks % 2 === 0) continue;
		line = line.endsWith(mark) ? line.slice(0, -mark.length) : line.replace(/[*~]?\s*$/, '') + mark;
	}
	return head + line;
}
