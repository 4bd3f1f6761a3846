/** The to-dos of all assistants, in one JSON file. */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { dirname } from "node:path";

/**
 * How many calls are remembered for each assistant. Calls are repeated soon, if at all, and the whole file is rewritten
 * with each change, so the number must be limited.
 */
export const MAX_CALLS = 1000;

/** A task. The identifiers of an assistant's to-dos count from 1. */
export interface Todo {
  readonly id: number;
  readonly task: string;
  readonly done: boolean;
}

/** A call that took effect, with its result. */
export interface Call {
  readonly id: string;
  readonly skill: string;
  readonly content: string;
}

/** The to-dos of one assistant and the calls that changed them, oldest first. */
interface List {
  readonly todos: readonly Todo[];
  readonly calls: readonly Call[];
}

/** The to-dos after a call, and the result of the call. */
export interface Change {
  readonly todos: readonly Todo[];
  readonly content: string;
}

/** A change could not be stored. */
export class StorageError extends Error {}

/**
 * Keeps the lists of all assistants in one file, which no other process may write.
 *
 * It writes synchronously, so that calls can't interleave.
 */
export class Store {
  readonly #path: string;
  #lists: ReadonlyMap<string, List>;

  /** Reads the file or creates it. If the path is not writable, this fails at the start. */
  constructor(path: string) {
    this.#path = path;
    const text = read(path);
    this.#lists = text === undefined ? new Map<string, List>() : parse(path, text);
    if (text === undefined) {
      save(path, this.#lists);
    }
  }

  /** Returns the to-dos of an assistant. */
  todos(assistant: string): readonly Todo[] {
    return this.#lists.get(assistant)?.todos ?? [];
  }

  /** Returns the remembered calls of an assistant, oldest first. */
  calls(assistant: string): readonly Call[] {
    return this.#lists.get(assistant)?.calls ?? [];
  }

  /**
   * Changes an assistant's to-dos unless the call already took effect. Returns the call, or the earlier one. The change
   * and the record of its call are written together, so that neither exists without the other. After an exception,
   * neither exists.
   */
  once(assistant: string, callId: string, skill: string, change: (todos: readonly Todo[]) => Change): Call {
    const earlier = this.calls(assistant).find(({ id }) => id === callId);
    if (earlier) {
      return earlier;
    }
    const { todos, content } = change(this.todos(assistant));
    const call = { id: callId, skill, content };
    const calls = [...this.calls(assistant), call].slice(-MAX_CALLS);
    const lists = new Map(this.#lists).set(assistant, { todos, calls });
    try {
      save(this.#path, lists);
    } catch (cause) {
      throw new StorageError(String(cause), { cause });
    }
    this.#lists = lists;
    return call;
  }
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") {
      return undefined;
    }
    throw error;
  }
}

function parse(path: string, text: string): ReadonlyMap<string, List> {
  let lists: unknown;
  try {
    lists = JSON.parse(text);
  } catch (cause) {
    throw new Error(`${path} is not a file of to-dos: ${(cause as Error).message}`, { cause });
  }
  if (typeof lists !== "object" || lists === null || Array.isArray(lists) || !Object.values(lists).every(isList)) {
    throw new Error(`${path} is not a file of to-dos: it holds something else`);
  }
  return new Map(Object.entries(lists as Record<string, List>));
}

function isList(value: unknown): boolean {
  return (
    typeof value === "object" &&
    value !== null &&
    "todos" in value &&
    "calls" in value &&
    Array.isArray(value.todos) &&
    Array.isArray(value.calls)
  );
}

/** Replaces the file atomically: even after a crash, it holds either all old or all new lists. */
function save(path: string, lists: ReadonlyMap<string, List>): void {
  const draft = `${path}.tmp`; // a fixed name, so that crashes leave at most one draft behind
  const file = openSync(draft, "w", 0o600);
  try {
    writeAll(file, Buffer.from(JSON.stringify(Object.fromEntries(lists))));
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(draft, path);
  // This makes the rename survive a loss of power.
  const folder = openSync(dirname(path), "r");
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}

function writeAll(file: number, data: Buffer): void {
  for (let written = 0; written < data.length;) {
    written += writeSync(file, data, written);
  }
}
