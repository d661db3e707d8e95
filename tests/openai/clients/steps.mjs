// Runs a client's steps, each on its own, and says how many of them work.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

export const BASE_URL = process.env.BASE_URL;
export const equal = assert.deepEqual;
export const ok = assert.ok;

export function version(name) {
  const found = createRequire(path.join(process.cwd(), "x.mjs")).resolve.paths(name);
  for (const folder of found) {
    try {
      return JSON.parse(readFileSync(path.join(folder, name, "package.json"), "utf8")).version;
    } catch {}
  }
  return "?";
}

export async function run(client, steps) {
  let works = 0;
  for (const [name, step] of Object.entries(steps)) {
    try {
      await step();
      works += 1;
    } catch (error) {
      console.error(`FAILED ${client}: ${name}`, error);
    }
  }
  const count = Object.keys(steps).length;
  console.log(`${client}: ${works} of ${count} steps work`);
  process.exit(works === count ? 0 : 1);
}
