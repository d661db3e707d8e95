// Trouble, in a person's words, with what to do about it.

import { button, div, make, pause, say } from './dom.js';
import { t } from './words.js';

// A model that is loading, or has too much to do, will have time later.
const LATER = /load|busy|overload|capacity|starting|warm|try again|wait|\b503\b|\b529\b/i;

export function explain(error) {
	const { code, message } = error;
	if (code === 'unreachable' && navigator.onLine === false) return t('offline');
	if (code === 'llm_unavailable' && isLater(error)) return t('llm_loading');
	return t(code, code === 'origin_not_allowed' ? location.origin : message);
}

const isLater = ({ wait, message }) => wait > 0 || LATER.test(message);

// Whether asking again by itself is what a person would do.
export const mayRetry = (error) => error.code === 'overloaded' || error.code === 'shutting_down' || (error.code === 'llm_unavailable' && isLater(error));

export function failure(error, ...buttons) {
	const text = explain(error);
	say(text);
	const words = error.message && error.message !== text && error.code !== 'unreachable' ? make('p', { className: 'words', textContent: error.message }) : null;
	return div('failure', make('p', { textContent: text }), words, div('buttons', ...buttons));
}

// A button that waits, and at last presses itself if it may.
export function againButton(error, attempt, again) {
	let over = false;
	const node = button('again', () => {
		over = true;
		again();
	});
	const alone = mayRetry(error) && attempt < 10;
	countDown(node, alone ? Math.max(error.wait, Math.min(5 * 2 ** attempt, 60)) : error.wait, !alone).then(() => {
		if (alone && !over && node.isConnected) node.click();
	});
	return node;
}

async function countDown(node, seconds, disabled) {
	for (let left = seconds; left > 0; left -= 1) {
		node.disabled = disabled;
		node.textContent = t('againIn', left);
		await pause(1000);
	}
	node.textContent = t('again');
	if (node.disabled) say(t('again'));
	node.disabled = false;
}
