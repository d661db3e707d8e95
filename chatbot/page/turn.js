// A turn as it is seen: the question, the answer with its thoughts and calls, and what can be done with them.

import { copier, div, iconButton, make, page } from './dom.js';
import { factsOf } from './facts.js';
import { showCalls, Thoughts } from './folds.js';
import { Writer } from './markdown/writer.js';
import { state, tell } from './state.js';
import { plain, showContent } from './content.js';
import { t } from './words.js';

const ENDS = new Set(['cancelled', 'length', 'content_filter']);

export function buildTurn(talk, turn) {
	turn.said ??= [{ content: turn.question }];
	turn.calls ??= [];
	turn.text = div('text');
	turn.refused = div('refusal');
	turn.folds = div('folds');
	turn.note = div('note');
	turn.thoughts = new Thoughts(turn);
	turn.versionsNode = div('versions');
	turn.questionVersionsNode = div('versions');
	turn.node = make('section', { className: 'turn' }, turn.said.length ? user(turn) : null, reply(talk, turn));
	turn.writer = new Writer(turn.text, () => tell('wrote', turn));
	if (turn.reasoning) turn.thoughts.show(turn.reasoning);
	if (turn.answer) turn.writer.load(turn.answer);
	showRefusal(turn);
	showCalls(talk, turn);
	showVersions(turn);
	showState(turn);
}

function user(turn) {
	return make('article', { className: 'user' },
		make('h2', { className: 'quiet', textContent: t('you') }),
		div('said', ...turn.said.map(({ id, content }) => showContent(content, id))),
		div('acts', turn.questionVersionsNode, copier(() => plain(turn.question)), iconButton('edit', 'edit', () => tell('edit', turn), 'act edit')));
}

function reply(talk, turn) {
	return make('article', { className: 'reply' },
		make('h2', { className: 'quiet', textContent: t('bot') }),
		turn.thoughts.node, turn.text, turn.refused, turn.folds, turn.note,
		div('acts', turn.versionsNode, copier(() => turn.answer || turn.refusal || ''), iconButton('again', 'redo', () => tell('redo', talk, turn), 'act redo'), ...factsOf(turn)));
}

export function showRefusal(turn) {
	turn.refused.hidden = !turn.refusal;
	if (!turn.refusal) return;
	turn.refused.replaceChildren(make('strong', { textContent: t('refused') }), make('p', { textContent: turn.refusal }));
}

// Arrows between the versions of a message.
export function showVersions(turn) {
	for (const [node, versions] of [[turn.versionsNode, turn.versions], [turn.questionVersionsNode, turn.questionVersions]]) {
		const { ids, index } = versions ?? {};
		node.hidden = !(ids?.length > 1);
		if (node.hidden) continue;
		const go = (name, word, to) => {
			const arrow = iconButton(name, word, () => tell('choose', turn, ids[to]), 'act');
			arrow.disabled = ids[to] === undefined;
			return arrow;
		};
		const place = `${index + 1}/${ids.length}`;
		node.replaceChildren(go('left', 'previous', index - 1), make('span', { textContent: place, ariaLabel: t('version', place), role: 'img' }), go('right', 'next', index + 1));
	}
}

export function addTurn(talk, turn) {
	buildTurn(talk, turn);
	talk.turns.push(turn);
	talk.notice.before(turn.node);
	tell('stick');
}

export function dropTurn(talk, turn) {
	turn.dropped = true;
	turn.thoughts?.stop();
	turn.node.remove();
	talk.turns = talk.turns.filter((other) => other !== turn);
}

export function showState(turn) {
	turn.node.dataset.state = turn.state;
	turn.node.classList.toggle('wordless', !turn.answer && !turn.refusal);
	turn.text.ariaBusy = String(turn.state === 'running');
	if (turn.state !== 'done') return;
	turn.note.textContent = ENDS.has(turn.finish) ? t(turn.finish) : '';
}

export function stick() {
	const { scroller } = page;
	if (state.pinned) scroller.scrollTop = scroller.scrollHeight;
}
