// The pictures on buttons, drawn as strokes on a field of 24 by 24.

const SHAPES = {
	add: 'M12 5v14M5 12h14',
	again: 'M20 11a8 8 0 1 0-2.3 6.3M20 5v6h-6',
	attach: 'M20 11.5l-8 8a5 5 0 0 1-7-7l8.5-8.5a3.3 3.3 0 0 1 4.7 4.7L9.7 17a1.6 1.6 0 0 1-2.3-2.3L15 7',
	check: 'M5 12.5l4.5 4.5L19 7.5',
	close: 'M6 6l12 12M18 6L6 18',
	copy: 'M9 9h10v11H9zM6 15H5V4h10v2',
	down: 'M12 5v14M6 13l6 6 6-6',
	edit: 'M4 20l1-4L16 5l3 3L8 19zM14 7l3 3',
	export: 'M12 15V4M8 8l4-4 4 4M5 14v6h14v-6',
	file: 'M7 3h7l5 5v13H7zM14 3v5h5',
	import: 'M12 4v11M8 11l4 4 4-4M5 14v6h14v-6',
	info: 'M12 11v6M12 7v.5M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18z',
	keys: 'M3 7h18v11H3zM7 14.5h10M7 11h.5M11 11h.5M15 11h.5',
	left: 'M14.5 6l-6 6 6 6',
	link: 'M10 14a4 4 0 0 0 6 .4l3-3a4 4 0 0 0-5.6-5.6l-1 1M14 10a4 4 0 0 0-6-.4l-3 3a4 4 0 0 0 5.6 5.6l1-1',
	menu: 'M4 7h16M4 12h16M4 17h16',
	more: 'M6 12h.01M12 12h.01M18 12h.01',
	remove: 'M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5',
	right: 'M9.5 6l6 6-6 6',
	search: 'M11 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12zM15.5 15.5L20 20',
	send: 'M12 19V5M6 11l6-6 6 6',
	settings: 'M4 7h9M17 7h3M13 5v4M4 17h3M11 17h9M7 15v4',
	stop: 'M7.5 7.5h9v9h-9z',
	tool: 'M14.5 6.5a4 4 0 0 1 5 5L17 9l-2 2 2.5 2.5a4 4 0 0 1-5-.5L6 19.5 4.5 18l6.5-6.5a4 4 0 0 1 3.5-5z',
};

const SVG = 'http://www.w3.org/2000/svg';

export function icon(name) {
	const svg = document.createElementNS(SVG, 'svg');
	const path = document.createElementNS(SVG, 'path');
	svg.setAttribute('viewBox', '0 0 24 24');
	svg.setAttribute('aria-hidden', 'true');
	svg.classList.add('picture', name);
	path.setAttribute('d', SHAPES[name]);
	svg.append(path);
	return svg;
}
