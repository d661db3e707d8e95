// Finds what is what in code, with Prism's grammars, each fetched when it is first needed. It runs beside the page, so
// that a grammar that takes long keeps nobody waiting.

self.Prism = { manual: true, disableWorkerMessageHandler: true };
importScripts('../vendor/prism/prism-core.min.js');

const NEEDS = {
	javascript: 'clike', jsx: 'markup javascript', typescript: 'javascript', tsx: 'jsx typescript', c: 'clike', cpp: 'c', java: 'clike',
	csharp: 'clike', go: 'clike', ruby: 'clike', php: 'markup-templating', kotlin: 'clike', markdown: 'markup', scala: 'java',
	dart: 'clike', 'markup-templating': 'markup', markup: '', css: '', clike: '', python: '', bash: '', json: '', yaml: '', sql: '', rust: '',
	swift: '', diff: '', toml: '', ini: '', docker: '', lua: '', r: '', powershell: '', perl: '', haskell: '', graphql: '', latex: '',
	makefile: '', nginx: '', elixir: '',
};
const NAMES = {
	js: 'javascript', mjs: 'javascript', cjs: 'javascript', node: 'javascript', ts: 'typescript', py: 'python', python3: 'python', sh: 'bash',
	shell: 'bash', zsh: 'bash', console: 'bash', 'shell-session': 'bash', html: 'markup', xml: 'markup', svg: 'markup', vue: 'markup',
	yml: 'yaml', 'c++': 'cpp', cc: 'cpp', h: 'c', hpp: 'cpp', cs: 'csharp', 'c#': 'csharp', golang: 'go', rs: 'rust', rb: 'ruby', kt: 'kotlin',
	md: 'markdown', patch: 'diff', dockerfile: 'docker', ps1: 'powershell', pl: 'perl', hs: 'haskell', tex: 'latex', make: 'makefile',
	jsonc: 'json', json5: 'json', jsonl: 'json', conf: 'ini', cfg: 'ini', env: 'bash', postgresql: 'sql', mysql: 'sql', sqlite: 'sql', gql: 'graphql', ex: 'elixir',
};
// The page has a colour for each of these; other kinds of Prism's are shown as one of them.
const KINDS = {
	comment: 'comment', prolog: 'comment', doctype: 'comment', cdata: 'comment', keyword: 'keyword', boolean: 'number', number: 'number', string: 'string', char: 'string',
	'attr-value': 'string', 'template-string': 'string', 'triple-quoted-string': 'string', regex: 'string', url: 'string', function: 'function', 'class-name': 'type',
	builtin: 'type', tag: 'keyword', selector: 'keyword', atrule: 'keyword', rule: 'keyword', 'attr-name': 'type', property: 'type', key: 'type', variable: 'variable',
	symbol: 'number', constant: 'number', decorator: 'function', annotation: 'function', macro: 'function', inserted: 'inserted', deleted: 'deleted', 'inserted-sign': 'inserted',
	'deleted-sign': 'deleted', title: 'keyword', important: 'keyword', directive: 'keyword', namespace: 'type', section: 'keyword',
};

function load(language) {
	if (Prism.languages[language] || NEEDS[language] === undefined) return;
	for (const needed of NEEDS[language].split(' ').filter(Boolean)) load(needed);
	importScripts(`../vendor/prism/prism-${language}.min.js`);
}

function runs(tokens, kind, into) {
	for (const token of [tokens].flat()) {
		const own = typeof token === 'string' ? kind : KINDS[token.type] ?? kind;
		if (typeof token !== 'string') runs(token.content, own, into);
		else if (into.at(-2) === own) into[into.length - 1] += token.length;
		else if (token) into.push(own, token.length);
	}
	return into;
}

onmessage = ({ data: { language, text } }) => {
	const name = NAMES[language] ?? language;
	load(name);
	const grammar = NEEDS[name] === undefined ? null : Prism.languages[name];
	postMessage(grammar ? runs(Prism.tokenize(text, grammar), '', []) : null);
};
