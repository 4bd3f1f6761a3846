/** Where the to-dos are kept: one JSON file for all assistants. */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { dirname } from "node:path";

/**
 * How many calls are remembered for each assistant. A call is repeated soon after it was made, and the file is written anew
 * with each effect, so that the memory must not grow for ever.
 */
export const MAX_CALLS = 1000;

/** One thing to do. The identifiers of an assistant's to-dos count from 1. */
export interface Todo {
  readonly id: number;
  readonly task: string;
  readonly done: boolean;
}

/** A call that took effect, and what it was answered. */
export interface Call {
  readonly id: string;
  readonly skill: string;
  readonly content: string;
}

/** What is kept for one assistant: the to-dos and, from old to new, the calls that made them what they are. */
interface List {
  readonly todos: readonly Todo[];
  readonly calls: readonly Call[];
}

/** What a call makes of the to-dos, and what it is answered. */
export interface Change {
  readonly todos: readonly Todo[];
  readonly content: string;
}

/** An effect could not be stored. */
export class StorageError extends Error {}

/**
 * Keeps the lists of all assistants in one file, which no other process may write at the same time.
 *
 * It writes synchronously: what a call reads, changes and stores is one step, which no other call gets into.
 */
export class Store {
  readonly #path: string;
  #lists: ReadonlyMap<string, List>;

  /** Reads the file, or writes the first one, so that a place that can't be written to is found at the start. */
  constructor(path: string) {
    this.#path = path;
    const text = read(path);
    this.#lists = text === undefined ? new Map<string, List>() : parse(path, text);
    if (text === undefined) {
      save(path, this.#lists);
    }
  }

  /** The to-dos of an assistant. */
  todos(assistant: string): readonly Todo[] {
    return this.#lists.get(assistant)?.todos ?? [];
  }

  /** The calls of an assistant that are remembered, from old to new. */
  calls(assistant: string): readonly Call[] {
    return this.#lists.get(assistant)?.calls ?? [];
  }

  /**
   * Runs a change of an assistant's to-dos, unless the call took effect before. Returns the call that counts, which is the
   * earlier one if there is one. The change and the memory of its call reach the disk in one write, so that there is never
   * one without the other; after an exception, neither is there.
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

/** Replaces the file at once: whoever reads it, even after a crash, finds all of the old lists or all of the new. */
function save(path: string, lists: ReadonlyMap<string, List>): void {
  const draft = `${path}.tmp`; // one name, so that a crash leaves no more than one draft behind
  const file = openSync(draft, "w", 0o600);
  try {
    writeAll(file, Buffer.from(JSON.stringify(Object.fromEntries(lists))));
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  renameSync(draft, path);
  // That makes the new name outlast a loss of power.
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
