// What all modules speak of: the conversation that is shown, those opened here, and who wants to hear of changes.

export const talks = new Map();  // by id
export const state = {
	current: null,  // the conversation that is shown
	blank: null,  // the one that has not begun
	editing: null,  // the turn whose question is in the box
	pinned: true,  // whether the reader is at the end and wants to stay there
};

const listeners = new Map();

export function on(name, listener) {
	listeners.set(name, [...listeners.get(name) ?? [], listener]);
}

export function tell(name, ...details) {
	for (const listener of listeners.get(name) ?? []) listener(...details);
}
