// What is known of an answer, seen when one looks for it: model, tokens, how much was cached, time to the first token.

import { div, iconButton, make } from './dom.js';
import { korean, t } from './words.js';

const number = new Intl.NumberFormat(korean ? 'ko' : 'en');
const time = new Intl.DateTimeFormat(korean ? 'ko' : 'en', { dateStyle: 'medium', timeStyle: 'short' });

export function facts({ model, usage, firstMs, tookMs, at }) {
	const found = [];
	const add = (word, value) => { if (value !== undefined && value !== null && value !== '') found.push([t(word), String(value)]); };
	const { prompt_tokens: read, completion_tokens: written } = usage ?? {};
	const cached = usage?.prompt_tokens_details?.cached_tokens;
	const thought = usage?.completion_tokens_details?.reasoning_tokens;
	add('model', model);
	if (read !== undefined) add('tokensIn', number.format(read));
	if (cached > 0) add('tokensCached', `${number.format(cached)} (${Math.round(100 * cached / read)} %)`);
	if (written !== undefined) add('tokensOut', number.format(written));
	if (thought > 0) add('tokensThought', number.format(thought));
	if (firstMs >= 0) add('firstToken', `${(firstMs / 1000).toFixed(firstMs < 10000 ? 2 : 0)} s`);
	if (written > 1 && tookMs - firstMs > 250) add('speed', t('perSecond', Math.round(1000 * (written - 1) / (tookMs - firstMs))));
	if (at && !Number.isNaN(Date.parse(at))) add('time', time.format(new Date(at)));
	return found;
}

// A button, and the line that it shows below.
export function factsOf(turn) {
	const panel = make('dl', { className: 'facts', hidden: true });
	const node = iconButton('info', 'about', () => {
		panel.hidden = !panel.hidden;
		if (!panel.hidden) panel.replaceChildren(...facts(turn).map(([word, value]) => div('', make('dt', { textContent: word }), make('dd', { textContent: value }))));
		panel.scrollIntoView({ block: 'nearest' });
		node.ariaExpanded = String(!panel.hidden);
	}, 'act about');
	node.ariaExpanded = 'false';
	return [node, panel];
}
