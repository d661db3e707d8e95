// Settings: a default for all conversations, and what differs from it in each. The server keeps a conversation's own
// with it, as metadata; the system prompt is the server's in any case.

import { call, get, request } from './api.js';
import { div, make, page, say, toast } from './dom.js';
import { kept, tab } from './keep.js';
import { on, state } from './state.js';
import { plain } from './content.js';
import { t } from './words.js';

const FIELDS = [
	{ name: 'model', tag: 'input', list: 'models' },
	{ name: 'system', tag: 'textarea', rows: 4, hint: 'systemHint' },
	{ name: 'temperature', tag: 'input', type: 'number', min: 0, max: 2, step: 'any', number: true },
	{ name: 'max_tokens', tag: 'input', type: 'number', min: 1, step: 1, number: true },
	{ name: 'reasoning_effort', tag: 'select', options: ['', 'none', 'minimal', 'low', 'medium', 'high', 'xhigh'] },
	{ name: 'other', tag: 'textarea', rows: 2, placeholder: '{"top_p": 0.9}', json: true },
];
let models = null;

// What was stored may be anything; only what has the right form is taken.
export function sane(value) {
	const settings = {};
	for (const { name, number, json } of FIELDS) {
		const given = value?.[name];
		if (number ? given === '' || Number.isFinite(given) : json ? given && typeof given === 'object' && !Array.isArray(given) : typeof given === 'string') settings[name] = given;
	}
	return settings;
}

export const defaults = () => sane(kept('defaults'));
const effective = (talk) => ({ ...defaults(), ...talk.settings });

// The fields of a request.
export function body(talk) {
	const { model, temperature, max_tokens: longest, reasoning_effort: effort, other } = effective(talk);
	return {
		...(model && { model }), ...(Number.isFinite(temperature) && { temperature }), ...(Number.isFinite(longest) && { max_tokens: longest }),
		...(effort && { reasoning_effort: effort }), ...(other && Object.keys(other).length && { extra_body: other }),
	};
}

export const systemPrompt = (talk) => effective(talk).system?.trim() ?? '';

// The settings go with the conversation; its prompt is not among them.
export function toMetadata(talk, metadata) {
	const { system, ...own } = talk.settings;
	const { settings, ...others } = metadata;
	return Object.keys(own).length ? { ...others, settings: own } : others;
}

export function take(talk, metadata) {
	talk.settings = { ...(talk.settings.system !== undefined && { system: talk.settings.system }), ...sane(metadata?.settings) };
	showDifferences(talk);
}

const words = (name, value) => (value === '' || value === undefined ? t('unset') : name === 'other' ? Object.keys(value).join(', ') || t('unset') : String(value));

export function showDifferences(talk) {
	if (talk !== state.current) return;
	const base = defaults();
	const different = FIELDS.filter(({ name }) => talk.settings[name] !== undefined && JSON.stringify(talk.settings[name]) !== JSON.stringify(base[name] ?? ''));
	const model = effective(talk).model;
	const others = different.filter(({ name }) => name !== 'model').map(({ name }) => (name === 'system' ? t('system') : `${t(name)} ${words(name, talk.settings[name])}`));
	const shown = [model, ...others].filter(Boolean);
	page.differs.hidden = !shown.length;
	page.differs.textContent = shown.join(' · ');
	page.differs.title = [...different.map(({ name }) => `${t(name)}: ${words(name, talk.settings[name])}`)].join('\n');
	page.differs.ariaLabel = `${t('settings')}: ${shown.join(', ')}`;
	page.differs.classList.toggle('other', different.length > 0);
}

async function loadModels() {
	try {
		const { data } = await (await request('GET', 'v1/models')).json();
		models = data.map(({ id }) => String(id)).sort();
	} catch {
		models = null;
	}
	document.getElementById('models')?.replaceChildren(...(models ?? []).map((value) => make('option', { value })));
}

// The prompt is the session's first message, if it has one.
async function loadPrompt(talk) {
	if (!talk.id || talk.settings.system !== undefined) return;
	try {
		const { messages } = await get(talk, '/messages?parts=omit&after=start&limit=1');
		const [first] = messages;
		const prompt = first?.role === 'system' ? plain(first.content) : '';
		if (prompt !== (defaults().system ?? '')) talk.settings.system = prompt;
	} catch (error) {
		if (!error.told) throw error;
	}
}

function field(spec, talk) {
	const { name, tag, options, hint, number, json, ...properties } = spec;
	const base = defaults()[name];
	const value = talk.settings[name] ?? base;
	const id = `set-${name}`;
	const control = make(tag, { id, name, ...(tag === 'input' && { autocomplete: 'off' }) });
	for (const [key, given] of Object.entries(properties)) {
		if (key === 'list') control.setAttribute('list', given);
		else control[key] = given;
	}
	if (options) control.append(...options.map((option) => make('option', { value: option, textContent: option || t('unset') })));
	control.value = value === undefined ? '' : json ? JSON.stringify(value, null, 2) : String(value);
	if (tag !== 'select') control.placeholder = properties.placeholder ?? (name === 'model' ? t('defaultModel') : hint ? t(hint) : t('unset'));
	const dot = make('span', { className: 'dot', title: t('differs'), ariaLabel: t('differs'), role: 'img' });
	control.oninput = () => { dot.hidden = control.value === (base === undefined ? '' : json ? JSON.stringify(base, null, 2) : String(base)); };
	control.oninput();
	return div('field', make('label', { htmlFor: id }, t(name), ' ', dot), control, name === 'model' ? make('datalist', { id: 'models' }) : null);
}

export async function open() {
	const talk = state.current;
	await loadPrompt(talk);
	page.fields.replaceChildren(...FIELDS.map((spec) => field(spec, talk)));
	page.settingsError.textContent = '';
	page.settings.returnValue = '';
	page.settings.showModal();
	loadModels();
}

function read() {
	const settings = {};
	for (const { name, number, json } of FIELDS) {
		const value = document.getElementById(`set-${name}`).value.trim();
		if (json) {
			const parsed = value ? JSON.parse(value) : {};
			if (!parsed || typeof parsed !== 'object' || Array.isArray(parsed)) throw new SyntaxError('no object');
			settings[name] = parsed;
		} else {
			settings[name] = number ? (value === '' ? undefined : Number(value)) : value;
		}
	}
	return settings;
}

async function save(talk, settings, asDefault) {
	const before = systemPrompt(talk);
	if (asDefault) kept('defaults', sane(settings));
	const base = defaults();
	const empty = (value) => value === undefined || value === '' || (typeof value === 'object' && !Object.keys(value).length);
	talk.settings = {};
	for (const [name, value] of Object.entries(settings)) {
		if (JSON.stringify(value) === JSON.stringify(base[name]) || (empty(value) && empty(base[name]))) continue;
		// Set by default, and not here.
		talk.settings[name] = value ?? '';
	}
	showDifferences(talk);
	if (!talk.id) return void tab('settings new', talk.settings);
	const { metadata } = await get(talk);
	const prompt = systemPrompt(talk);
	await call(talk, 'PATCH', '', { body: { metadata: toMetadata(talk, metadata), ...(prompt !== before && { system_prompt: prompt }) } });
	if (!asDefault && prompt === (base.system ?? '')) delete talk.settings.system;
}

export function start() {
	page.settingsForm.onsubmit = (event) => {
		try {
			save(state.current, read(), event.submitter.value === 'default').catch((error) => toast(error.told ? t(error.code) : t('unknown')));
		} catch {
			event.preventDefault();
			page.settingsError.textContent = t('badJson');
			document.getElementById('set-other').focus();
		}
	};
	page.reset.onclick = () => {
		const talk = state.current;
		page.fields.replaceChildren(...FIELDS.map((spec) => field(spec, { ...talk, settings: {} })));
		loadModels();
		say(t('reset'));
	};
	page.adjust.onclick = page.differs.onclick = () => open();
	on('session', (talk, session) => take(talk, session.metadata));
}
