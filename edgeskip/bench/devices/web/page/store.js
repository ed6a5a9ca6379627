// Downloads that can be cut and go on: into the browser's own file system where the page is secure, else into memory.
// Every file is known by its sha256; what lies there already is hashed again as it is read.

import { createSHA256 } from "../lib/index.esm.min.js";

const PIECE = 4 << 20; // bytes read, written and hashed at once
const TRIES = 6; // without a byte in between
const SMALL = 1 << 16; // not worth keeping

export class ChecksumError extends Error {}

// A file's bytes. `progress(bytes so far, bytes in all, where they come from)`.
export async function fetchFile(url, file, progress) {
  const kept = file.size >= SMALL ? await openKept(file.sha256) : null;
  try {
    try {
      return await bring(url, file, kept, progress);
    } catch (error) {
      if (!(error instanceof ChecksumError) || !error.resumed) throw error;
      return await bring(url, file, kept, progress); // what lay here was damaged; it is deleted: once more from the start
    }
  } finally {
    kept?.close();
  }
}

async function bring(url, file, kept, progress) {
  const data = new Uint8Array(file.size);
  const hash = await createSHA256();
  hash.init();
  let have = 0;
  if (kept !== null) {
    const stored = kept.getSize();
    if (stored > file.size) kept.truncate(0);
    else while (have < stored) {
      const piece = data.subarray(have, Math.min(have + PIECE, stored));
      kept.read(piece, { at: have });
      hash.update(piece);
      have += piece.length;
      progress(have, file.size, "kept");
    }
  }
  const resumed = have > 0;
  for (let tries = 0; have < file.size; ) {
    const before = have;
    try {
      for await (const piece of stream(url, have)) {
        if (have + piece.length > file.size) throw new Error("the server sends more than the file has");
        data.set(piece, have);
        hash.update(piece);
        keep(kept, piece, have);
        have += piece.length;
        progress(have, file.size, "network");
      }
    } catch (error) {
      if (error.final) throw error;
    }
    if (have === file.size) break;
    tries = have > before ? 0 : tries + 1;
    if (tries === TRIES) throw new Error(`${file.name} does not come: the connection is cut again and again after ${have} of ${file.size} bytes`);
    await new Promise((resolve) => setTimeout(resolve, 500 * (tries + 1)));
  }
  if (hash.digest("hex") !== file.sha256) {
    kept?.truncate(0);
    const error = new ChecksumError(`${file.name} is not the file it should be (its checksum differs): it was deleted; export the artifact again if this stays`);
    error.resumed = resumed;
    throw error;
  }
  kept?.flush();
  return data;
}

async function* stream(url, from) {
  const response = await fetch(url, { headers: from ? { Range: `bytes=${from}-` } : {}, cache: "no-store" });
  if (response.status !== (from ? 206 : 200)) {
    throw Object.assign(new Error(`the server answers ${response.status}: ${(await response.text()).trim()}`), { final: true });
  }
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

// A file that cannot be kept (no room left) still arrives.
function keep(kept, piece, at) {
  if (kept === null || kept.full) return;
  try {
    if (kept.write(piece, { at }) < piece.length) throw new Error("no room");
    if (((at + piece.length) >> 23) !== (at >> 23)) kept.flush(); // now and then: what is flushed survives a closed page
  } catch {
    kept.full = true;
    kept.truncate(0);
  }
}

// Null where the browser keeps nothing: an insecure page, a private window, another tab at the same file.
async function openKept(name) {
  try {
    const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("edgeskip", { create: true });
    return await (await folder.getFileHandle(name, { create: true })).createSyncAccessHandle();
  } catch {
    return null;
  }
}
