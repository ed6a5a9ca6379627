// The worker of one round: downloads the files, measures, and reports to the page. Each round gets a new worker, so that
// nothing of the previous round remains in memory.

import { downloadFile } from "./download.js";
import { messageOf } from "./errors.js";
import { measureRound } from "./measure.js";

const PROGRESS_MS = 200;
const TOKENS_MS = 400;

/** @type {(message: WorkerMessage) => void} */
const post = (message) => postMessage(message);

addEventListener(
  "message",
  async (/** @type {MessageEvent<{ job: Job, settings: RunSettings }>} */ { data: { job, settings } }) => {
    try {
      /** @type {Map<string, Uint8Array>} */
      const files = new Map();
      const { artifact } = job;
      const graphs = artifact.graphs.map((spec) => (settings.unpack && spec.unpacked ? spec.unpacked : spec.packed));
      for (const file of [...graphs, ...artifact.weights]) {
        const url = new URL(`../files/${file.sha256}`, import.meta.url);
        files.set(file.sha256, await downloadFile(url, file, reportDownload(file)));
      }
      post({ result: await measureRound(job, files, settings, batchTokens()) });
    } catch (error) {
      console.error(error);
      post({ error: messageOf(error) });
    }
  },
);

/** @param {StoredFile} file @returns {DownloadProgress} */
function reportDownload(file) {
  let last = 0;
  return (have, size, from) => {
    if (have < size && performance.now() - last < PROGRESS_MS) return;
    last = performance.now();
    const action = from === "stored" ? "checking" : "downloading";
    post({ step: `${action} ${file.name}, ${Math.round(size / 1e6)} MB`, share: have / size });
  };
}

/**
 * Forward tokens a few times per second: a page that draws each one uses the cores that the model should run on.
 *
 * @returns {(progress: Progress) => void}
 */
function batchTokens() {
  /** @type {number[]} */
  let tokens = [];
  let last = 0;
  return ({ token, ...progress }) => {
    if (token !== undefined) tokens.push(token);
    if (token !== undefined && performance.now() - last < TOKENS_MS) return;
    last = performance.now();
    post(tokens.length ? { ...progress, tokens } : progress);
    tokens = [];
  };
}
