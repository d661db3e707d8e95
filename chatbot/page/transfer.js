// Conversations to a file and back: as Markdown to read, as JSON to bring in again.

import { get, request } from './api.js';
import { make, page, toast } from './dom.js';
import { listed } from './keep.js';
import { nameOf, plain } from './content.js';
import { announce } from './talks.js';
import { sane, toMetadata } from './settings.js';
import { korean, t } from './words.js';

const FORMAT = 'chatbot conversations';

async function read(id) {
	const talk = { id };
	const { metadata, created_at: createdAt } = await get(talk);
	const messages = [];
	for (let cursor = 'start'; ;) {
		const part = await get(talk, `/messages?limit=1000&after=${cursor}`);
		messages.push(...part.messages);
		if (!part.has_more || !part.messages.length) break;
		cursor = part.messages.at(-1).message_id;
	}
	return { title: String(metadata?.title ?? ''), created_at: createdAt, metadata, messages };
}

export async function save(ids, format) {
	toast(t('exporting'), '', 1500);
	const conversations = [];
	let trouble = null;
	for (const id of ids) {
		try {
			conversations.push(await read(id));
		} catch (error) {
			if (!error.told) throw error;
			// What is gone is left out of "all"; the rest is still wanted.
			trouble = error;
		}
	}
	if (!conversations.length) return trouble && toast(t(trouble.code));
	const text = format === 'json'
		? JSON.stringify({ format: FORMAT, version: 1, exported_at: new Date().toISOString(), conversations }, null, 1)
		: conversations.map(markdown).join('\n\n---\n\n');
	const name = conversations.length === 1 ? conversations[0].title.replace(/[^\p{L}\p{N} _.-]+/gu, ' ').trim().slice(0, 60) || 'conversation' : 'conversations';
	const url = URL.createObjectURL(new Blob([text], { type: format === 'json' ? 'application/json' : 'text/markdown' }));
	make('a', { href: url, download: `${name}.${format === 'json' ? 'json' : 'md'}` }).click();
	setTimeout(() => URL.revokeObjectURL(url), 60000);
	return null;
}

function markdown({ title, created_at: createdAt, messages }) {
	const names = { system: t('system'), user: t('you'), assistant: t('bot'), tool: t('output') };
	const parts = messages.map((message) => {
		const text = plain(message.content);
		const others = Array.isArray(message.content) ? message.content.filter((part) => part?.type !== 'text').map((part) => `*[${nameOf(part)}]*`) : [];
		const calls = (message.tool_calls ?? []).map((call) => `\`${call.function?.name}(${call.function?.arguments})\``);
		return [`## ${names[message.role] ?? message.role}`, ...others, text, message.refusal, ...calls].filter(Boolean).join('\n\n');
	});
	return [`# ${title || t('new')}`, new Date(createdAt).toLocaleString(korean ? 'ko' : 'en'), ...parts].join('\n\n');
}

// ---- Import ----

// A message as the items of OpenAI's API, through which a conversation that was held elsewhere comes in.
function items({ role, content, refusal, tool_call_id: callId, tool_calls: calls }) {
	if (role === 'tool') return [{ type: 'function_call_output', call_id: callId, output: plain(content) }];
	const parts = typeof content === 'string' ? [{ type: 'text', text: content }] : (content ?? []).map((part) => {
		const { type, text, image_url: image, file } = part ?? {};
		if (type === 'text') return { type, text: String(text) };
		if (type === 'input_audio') return part;
		if (type === 'image_url') return { type: 'input_image', image_url: String(image?.url ?? image), detail: 'auto' };
		if (type === 'file') return { type: 'input_file', filename: file?.filename, file_data: file?.file_data };
		return null;
	}).filter(Boolean);
	if (refusal) parts.push({ type: 'refusal', refusal: String(refusal) });
	const message = parts.length ? [{ type: 'message', role, content: parts }] : [];
	return [...message, ...(calls ?? []).map((call) => ({ type: 'function_call', call_id: call.id, name: call.function?.name, arguments: call.function?.arguments }))];
}

async function bringIn({ title, metadata, messages }) {
	if (!Array.isArray(messages)) throw new SyntaxError('no messages');
	const known = messages.filter((message) => ['system', 'user', 'assistant', 'tool'].includes(message?.role));
	const prompt = plain(known.find(({ role }) => role === 'system')?.content ?? '');
	const talk = { settings: sane(metadata?.settings) };
	const created = await request('POST', 'api/sessions', { body: { metadata: toMetadata(talk, { title: String(title ?? '').slice(0, 200) }), ...(prompt && { system_prompt: prompt }) } });
	const { session_id: id } = await created.json();
	// A question and its answer at a time, so that each can be asked again as one.
	let batch = [];
	const post = async () => {
		if (batch.length) await request('POST', `v1/conversations/conv_${id}/items`, { body: { items: batch } });
		batch = [];
	};
	for (const message of known.filter(({ role }) => role !== 'system')) {
		const open = batch.at(-1);
		if (message.role === 'user' && open && open.role !== 'user') await post();
		batch.push(...items(message));
		if (batch.length > 15) await post();
	}
	await post();
	announce({ id, title: String(title ?? '') || t('new') });
	return id;
}

export async function load(file) {
	let last = null;
	let count = 0;
	try {
		const { format, conversations } = JSON.parse(await file.text());
		if (format !== FORMAT || !Array.isArray(conversations)) throw new SyntaxError('another format');
		toast(t('importing'), '', 1500);
		for (const conversation of conversations.toReversed()) {
			last = await bringIn(conversation);
			count += 1;
		}
	} catch (error) {
		toast(error.told ? `${t(error.code)} ${error.message}` : t('badImport'));
		if (!error.told && !(error instanceof SyntaxError) && !(error instanceof TypeError)) throw error;
	}
	if (!count) return;
	toast(t('imported', count));
	location.hash = last;
}

export function start() {
	page.backup.onchange = () => {
		const [file] = page.backup.files;
		page.backup.value = '';
		if (file) load(file);
	};
}

export const all = (format) => save(listed().map(({ id }) => id), format);
