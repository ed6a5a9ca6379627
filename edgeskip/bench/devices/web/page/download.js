// Downloads that can be interrupted and continue: into the browser's own file system if the page is secure, else into
// memory. Every file is identified by its sha256; stored bytes are hashed again as they are read.

import { createSHA256 } from "../lib/index.esm.min.js";
import { FinalError, sleep } from "./errors.js";

const CHUNK = 4 << 20; // bytes read and hashed at once
const MAX_TRIES = 6; // without a new byte
const MIN_STORED = 1 << 16; // smaller files are not worth storing

class ChecksumError extends Error {
  /** @param {string} message @param {boolean} resumed */
  constructor(message, resumed) {
    super(message);
    this.resumed = resumed; // whether some bytes came from an earlier download
  }
}

/**
 * Return a file's bytes.
 *
 * @param {URL} url
 * @param {StoredFile} file
 * @param {DownloadProgress} progress
 */
export async function downloadFile(url, file, progress) {
  const stored = file.size >= MIN_STORED ? await StoredCopy.open(file.sha256) : null;
  try {
    try {
      return await download(url, file, stored, progress);
    } catch (error) {
      if (!(error instanceof ChecksumError) || !error.resumed) throw error;
      return await download(url, file, stored, progress); // the stored copy was damaged and is deleted now: start over
    }
  } finally {
    stored?.close();
  }
}

/** @param {URL} url @param {StoredFile} file @param {StoredCopy | null} stored @param {DownloadProgress} progress */
async function download(url, file, stored, progress) {
  const data = new Uint8Array(file.size);
  const hash = await createSHA256();
  hash.init();
  let have = 0;
  for (const size = stored?.usableSize(file.size) ?? 0; have < size; ) {
    const chunk = data.subarray(have, Math.min(have + CHUNK, size));
    stored?.read(chunk, have);
    hash.update(chunk);
    have += chunk.length;
    progress(have, file.size, "stored");
  }
  const resumed = have > 0;
  for (let tries = 0; have < file.size; ) {
    const before = have;
    try {
      for await (const chunk of stream(url, have)) {
        if (have + chunk.length > file.size) throw new Error("the server sends more bytes than the file has");
        data.set(chunk, have);
        hash.update(chunk);
        stored?.write(chunk, have);
        have += chunk.length;
        progress(have, file.size, "network");
      }
    } catch (error) {
      if (error instanceof FinalError) throw error;
    }
    if (have === file.size) break;
    tries = have > before ? 0 : tries + 1;
    if (tries === MAX_TRIES) {
      throw new Error(
        `cannot download ${file.name}: the connection breaks again and again at ${have} of ${file.size} bytes`,
      );
    }
    await sleep(500 * (tries + 1));
  }
  if (hash.digest("hex") !== file.sha256) {
    stored?.clear();
    throw new ChecksumError(
      `${file.name} is damaged (its checksum differs) and was deleted; if this repeats, export the artifact again`,
      resumed,
    );
  }
  stored?.flush();
  return data;
}

/** @param {URL} url @param {number} from - byte offset */
async function* stream(url, from) {
  const response = await fetch(url, { headers: from ? { Range: `bytes=${from}-` } : {}, cache: "no-store" });
  if (response.status !== (from ? 206 : 200) || response.body === null) {
    throw new FinalError(`the server answers ${response.status}: ${(await response.text()).trim()}`);
  }
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

// A copy in the browser's own file system. A file that does not fit there is downloaded all the same.
class StoredCopy {
  full = false;

  /** @param {FileSystemSyncAccessHandle} handle */
  constructor(handle) {
    this.handle = handle;
  }

  /**
   * Open a copy, or return null if the browser stores nothing: an insecure page, a private window, or another tab that has
   * the same file open.
   *
   * @param {string} name
   */
  static async open(name) {
    try {
      const root = await navigator.storage.getDirectory();
      const folder = await root.getDirectoryHandle("edgeskip", { create: true });
      const file = await folder.getFileHandle(name, { create: true });
      return new StoredCopy(await file.createSyncAccessHandle());
    } catch {
      return null;
    }
  }

  /**
   * Return how many bytes are stored; a copy that is longer than the file is dropped.
   *
   * @param {number} limit
   */
  usableSize(limit) {
    const size = this.handle.getSize();
    if (size <= limit) return size;
    this.clear();
    return 0;
  }

  /** @param {Uint8Array<ArrayBuffer>} chunk - filled @param {number} at */
  read(chunk, at) {
    this.handle.read(chunk, { at });
  }

  /** @param {Uint8Array<ArrayBuffer>} chunk @param {number} at */
  write(chunk, at) {
    if (this.full) return;
    try {
      if (this.handle.write(chunk, { at }) < chunk.length) throw new Error("no space left");
      if ((at + chunk.length) >> 23 !== at >> 23) this.flush(); // every 8 MiB: flushed bytes survive a closed page
    } catch {
      this.full = true;
      this.clear();
    }
  }

  clear() {
    this.handle.truncate(0);
  }

  flush() {
    this.handle.flush();
  }

  close() {
    this.handle.close();
  }
}
