// Pictures and files for a message: pasted, dropped or chosen, made as small as a model takes them.

import { fileText } from './content.js';

const LONGEST = 2048;  // pixels; models scale down what is larger
const SMALL = 1.5e6;  // bytes; a picture below this and LONGEST is sent as it is
const LARGEST = 5.5e6;  // bytes; more would not fit into a request
const PICTURES = /^image\/(?:png|jpeg|gif|webp)$/;
const SOUNDS = { 'audio/wav': 'wav', 'audio/x-wav': 'wav', 'audio/mpeg': 'mp3', 'audio/mp3': 'mp3' };

const problem = (word) => Object.assign(new Error(word), { word });

// A File as a part of a message, as the chat-completions API has it.
export async function toPart(file) {
	if (/^image\//.test(file.type) && file.type !== 'image/svg+xml') {
		return { type: 'image_url', image_url: { url: await picture(file) } };
	}
	if (file.size > LARGEST) throw problem('bigFile');
	if (SOUNDS[file.type]) {
		const url = await dataUrl(file);
		return { type: 'input_audio', input_audio: { data: url.slice(url.indexOf(',') + 1), format: SOUNDS[file.type] } };
	}
	if (file.type === 'application/pdf') return { type: 'file', file: { filename: file.name, file_data: await dataUrl(file) } };
	const text = decode(await file.arrayBuffer());
	if (text === null) throw problem('badFile');
	return { type: 'text', text: fileText(file.name || 'text', text) };
}

function decode(buffer) {
	const bytes = new Uint8Array(buffer);
	for (const encoding of bytes[0] === 0xFF && bytes[1] === 0xFE ? ['utf-16le'] : ['utf-8', 'euc-kr']) {
		try {
			const text = new TextDecoder(encoding, { fatal: true }).decode(buffer);
			if (!/[\0-\x08\x0e-\x1a]/.test(text.slice(0, 10000))) return text.replace(/\r\n?/g, '\n');
		} catch {
			// Not in this encoding.
		}
	}
	return null;
}

function dataUrl(blob) {
	return new Promise((resolve, reject) => {
		const reader = new FileReader();
		reader.onload = () => resolve(reader.result);
		reader.onerror = () => reject(reader.error);
		reader.readAsDataURL(blob);
	});
}

async function picture(file) {
	let bitmap;
	try {
		bitmap = await createImageBitmap(file);
	} catch {
		throw problem('badPicture');
	}
	const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
	if (scale === 1 && file.size <= SMALL && PICTURES.test(file.type)) {
		bitmap.close();
		return dataUrl(file);
	}
	const canvas = document.createElement('canvas');
	canvas.width = Math.max(1, Math.round(bitmap.width * scale));
	canvas.height = Math.max(1, Math.round(bitmap.height * scale));
	const context = canvas.getContext('2d');
	// JPEG knows no transparency: what shines through is white, as on paper.
	context.fillStyle = '#fff';
	context.fillRect(0, 0, canvas.width, canvas.height);
	context.imageSmoothingQuality = 'high';
	context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
	bitmap.close();
	const toBlob = (type, quality) => new Promise((resolve) => { canvas.toBlob(resolve, type, quality); });
	const blob = await toBlob('image/jpeg', 0.85);
	if (!blob) throw problem('badPicture');
	return dataUrl(blob.size > LARGEST / 2 ? await toBlob('image/jpeg', 0.6) : blob);
}
