// What is kept in the browser. A storage may be full, forbidden, or written by others; the page works without.

const storage = (name) => (key, value) => {
	try {
		if (value === null) window[name].removeItem(key);
		else if (value !== undefined) window[name].setItem(key, JSON.stringify(value));
		return JSON.parse(window[name].getItem(key));
	} catch {
		return null;
	}
};

export const kept = storage('localStorage');  // the list, the defaults, drafts
export const tab = storage('sessionStorage');  // the access key, what is on its way

// A draft is the tab's own while it is open, and outlives it.
export function draft(id, value) {
	const key = `draft ${id}`;
	if (value === undefined) return tab(key) ?? kept(key) ?? '';
	tab(key, value);
	kept(key, value || null);
	return value;
}

// Pictures and files are too large for a storage of strings. Without a database they last as long as the page.
const memory = new Map();
let opening;

function database() {
	opening ??= new Promise((resolve, reject) => {
		const request = indexedDB.open('chatbot', 1);
		request.onupgradeneeded = () => request.result.createObjectStore('parts');
		request.onsuccess = () => resolve(request.result);
		request.onerror = () => reject(request.error);
	});
	return opening;
}

async function transact(mode, action) {
	const store = (await database()).transaction('parts', mode).objectStore('parts');
	return new Promise((resolve, reject) => {
		const request = action(store);
		request.onsuccess = () => resolve(request.result);
		request.onerror = () => reject(request.error);
	});
}

// Attached parts, by the draft or the message they are for.
export async function parts(key, value) {
	try {
		if (value === undefined) return await transact('readonly', (store) => store.get(key)) ?? memory.get(key) ?? [];
		if (value?.length) memory.set(key, value);
		else memory.delete(key);
		await transact('readwrite', (store) => (value?.length ? store.put(value, key) : store.delete(key)));
	} catch {
		// Forbidden, or full.
	}
	return memory.get(key) ?? [];
}

const isId = (id) => /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/.test(id);
export { isId };

// The list of conversations, newest first. It is read anew each time: other tabs write it too.
export function listed() {
	const list = kept('talks');
	return Array.isArray(list) ? list.filter((entry) => isId(entry?.id)) : [];
}

export function keepList(list) {
	kept('talks', list.slice(0, 1000));
}
