// The worker of one round: brings the files, measures, tells the page. A fresh one for each round, so that nothing of the
// round before is left in memory.

import { measure } from "./measure.js";
import { fetchFile } from "./store.js";

const TOKENS_MS = 400;

onmessage = async ({ data: { job, settings } }) => {
  try {
    const files = new Map();
    const { artifact } = job;
    const graphs = artifact.graphs.map((spec) => (settings.unpack && spec.unpacked !== null ? spec.unpacked : spec.packed));
    for (const file of [...graphs, ...artifact.weights]) {
      files.set(file.sha256, await fetchFile(new URL(`../files/${file.sha256}`, import.meta.url), file, throttled((have, size, from) => {
        postMessage({ step: `${from === "kept" ? "checking" : "downloading"} ${file.name}, ${Math.round(size / 1e6)} MB`, share: have / size });
      })));
    }
    postMessage({ result: await measure(job, files, settings, batched(postMessage)) });
  } catch (error) {
    console.error(error);
    postMessage({ error: String(error?.message ?? error) });
  }
};

function throttled(report) {
  let last = 0;
  return (have, size, from) => {
    if (have < size && performance.now() - last < 200) return;
    last = performance.now();
    report(have, size, from);
  };
}

// Passes tokens on a few times a second: a page that draws each one takes the cores that the model is to run on.
function batched(post) {
  let tokens = [];
  let last = 0;
  return (news) => {
    if (news.token !== undefined) tokens.push(news.token);
    if (news.token !== undefined && performance.now() - last < TOKENS_MS) return;
    last = performance.now();
    const { token, ...rest } = news;
    post(tokens.length ? { ...rest, tokens } : rest);
    tokens = [];
  };
}
