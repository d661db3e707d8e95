// What stands beside an answer, folded: what was thought, and which tools were called with what.

import { div, make } from './dom.js';
import { icon } from './icons.js';
import { Writer } from './markdown/writer.js';
import { tell } from './state.js';
import { t } from './words.js';

// Open while it is thought, with its seconds; closed when the answer begins, unless the reader opened it.
export class Thoughts {
	constructor(turn) {
		this.turn = turn;
		this.label = make('span');
		this.body = div('text thoughts');
		this.summary = make('summary', {}, icon('right'), this.label);
		this.node = make('details', { className: 'fold thinking', hidden: true }, this.summary, this.body);
		this.summary.onclick = () => { this.touched = true; };
		this.writer = new Writer(this.body, () => tell('wrote', turn));
	}

	show(text) {
		this.node.hidden = false;
		this.label.textContent = t('thought');
		// Most are never opened: they are drawn when they are.
		this.node.ontoggle = () => {
			this.node.ontoggle = null;
			this.writer.push(text, true);
		};
	}

	think(text) {
		if (this.node.hidden) {
			this.node.hidden = false;
			this.node.open = true;
			this.since = performance.now();
			this.tick = setInterval(() => this.count(), 1000);
			this.count();
		}
		this.writer.push(text);
	}

	count() {
		const seconds = Math.round((performance.now() - this.since) / 1000);
		this.label.textContent = seconds ? t('thinkingFor', seconds) : t('thinking');
	}

	// The answer has begun, or it is over.
	stop() {
		if (!this.tick) return;
		clearInterval(this.tick);
		this.tick = null;
		this.writer.push('', true);
		this.label.textContent = t('thoughtFor', Math.max(1, Math.round((performance.now() - this.since) / 1000)));
		if (!this.touched) this.node.open = false;
	}
}

export function showCalls(talk, turn) {
	turn.folds.replaceChildren(...turn.calls.map((call) => showCall(call)));
	const open = turn.state === 'done' && turn.finish === 'tool_calls' && turn.calls.some((call) => call.output === undefined);
	if (!open || (talk.turns.length && talk.turns.at(-1) !== turn && talk.turns.includes(turn))) return;
	// No program gives these outputs: a person may.
	const form = make('form', { className: 'outputs' });
	const boxes = turn.calls.map((call) => make('textarea', { rows: 2, ariaLabel: t('giveOutput', call.name), placeholder: t('giveOutput', call.name) }));
	form.append(...boxes, div('buttons', make('button', { textContent: t('sendOutputs') })));
	form.onsubmit = (event) => {
		event.preventDefault();
		tell('outputs', talk, turn, turn.calls.map((call, index) => ({ tool_call_id: call.id, output: boxes[index].value })));
	};
	turn.folds.append(form);
}

export function showOutput(call, output) {
	call.output = output;
	if (call.node) showCall(call);
}

function showCall(call) {
	if (!call.node) {
		call.label = make('span');
		call.shown = { arguments: make('pre', { tabIndex: 0, dir: 'ltr', ariaLabel: t('arguments') }), output: make('pre', { tabIndex: 0, ariaLabel: t('output') }) };
		call.node = make('details', { className: 'fold call' }, make('summary', {}, icon('right'), icon('tool'), call.label), div('body',
			make('h3', { textContent: t('arguments') }), call.shown.arguments, call.outputTitle = make('h3', { textContent: t('output') }), call.shown.output));
	}
	call.label.textContent = t(call.output === undefined ? 'calls' : 'called', call.name);
	call.shown.arguments.textContent = pretty(call.arguments);
	call.shown.output.textContent = pretty(call.output ?? '');
	call.outputTitle.hidden = call.shown.output.hidden = call.output === undefined;
	return call.node;
}

function pretty(text) {
	if (text.length > 100000) return text;
	try {
		return JSON.stringify(JSON.parse(text), null, 2);
	} catch {
		return text;
	}
}

