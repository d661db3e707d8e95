// Speaks with the server: one request, an answer or an error with a code, and the events of a stream.

import { ask, asked } from './dom.js';
import { tab } from './keep.js';
import { t } from './words.js';

// The page may be served below a path of somebody's proxy.
export const base = new URL('.', location.href);

export const trouble = (code, message = '', more = {}) => Object.assign(new Error(message), { code, wait: 0, told: true, ...more });

// How long a Retry-After asks to wait, in seconds: it is a number or a date.
function seconds(value) {
	if (!value) return 0;
	return Math.max(0, Math.ceil(Number.isNaN(+value) ? (Date.parse(value) - Date.now()) / 1000 || 0 : +value));
}

export async function request(method, path, { body, headers, signal, keepalive } = {}) {
	for (;;) {
		const key = tab('key');
		const response = await fetch(new URL(path, base), {
			method, signal, keepalive, body: body && JSON.stringify(body),
			headers: { ...(body && { 'Content-Type': 'application/json' }), ...headers, ...(key && { Authorization: `Bearer ${key}` }) },
		}).catch((error) => { throw trouble('unreachable', error.message); });
		if (response.ok) return response;
		// No JSON: a proxy whose server is away.
		const unknown = { code: response.status > 500 ? 'unreachable' : response.status === 413 ? 'request_too_large' : 'other' };
		const { error = unknown } = await response.json().catch(() => ({}));
		if (error.code !== 'unauthorized') {
			throw trouble(String(error.code), String(error.message ?? ''), { wait: seconds(response.headers.get('Retry-After')), param: error.param, messageId: error.message_id });
		}
		// Requests refused together share one question.
		await asked();
		if (tab('key') !== key) continue;
		const given = await ask(t('unauthorized'), '', 'password');
		if (!/^[!-~]+$/.test(given)) throw trouble('unauthorized');
		tab('key', given);
	}
}

// One conversation's requests, and the JSON of a GET.
export const call = (talk, method, rest = '', options) => request(method, `api/sessions/${talk.id}${rest}`, options);
export const get = async (talk, rest) => (await call(talk, 'GET', rest)).json();

// What is gone already need not be deleted.
export const unless = (code) => (error) => { if (error.code !== code) throw error; };

// The events of a stream, as they come. A heartbeat is a sign of life and nothing else.
export async function* events(body, alive) {
	const reader = body.pipeThrough(new TextDecoderStream()).getReader();
	let rest = '';
	let event = {};
	for (;;) {
		const { value, done } = await reader.read();
		if (done) return;
		alive();
		const lines = (rest + value).split('\n');
		rest = lines.pop();
		for (const line of lines) {
			if (line.startsWith('id: ')) event.id = Number(line.slice(4));
			if (line.startsWith('data: ')) event.data = line.slice(6);
			if (line || !event.data) continue;
			yield event;
			event = {};
		}
	}
}
