// Fetches what is not needed until the page is drawn. The server may be away then, so it is fetched until it comes.

export const late = (fetch, tries = 0) => fetch(tries).catch(async () => {
	await new Promise((resolve) => { setTimeout(resolve, 2000); });
	return late(fetch, tries + 1);
});
