/** The test vectors that the clients of all languages share. The README of `client/vectors` describes their fields. */
import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";

import type { JsonValue } from "@bufbuild/protobuf";
import type { StatusName } from "@palaver-chat/client";

const FOLDER = new URL("../../../../vectors/", import.meta.url);

export interface ErrorVector {
  readonly status: StatusName;
  readonly reason?: string;
  readonly message?: string;
  readonly retry_delay_ms?: number;
}

export interface Post {
  readonly events: JsonValue[];
  readonly status?: StatusName;
  readonly reason?: string;
}

export interface ReplayVector {
  readonly name: string;
  readonly posts: Post[];
  readonly delivered: JsonValue[];
  readonly error?: ErrorVector;
}

export interface BreakVector {
  readonly name: string;
  readonly error: ErrorVector;
  readonly is_break: boolean;
}

export interface Step {
  readonly at_ms: number;
  readonly received?: true;
  readonly error?: ErrorVector;
  readonly pause_ms?: [number, number];
}

export interface PausesVector {
  readonly name: string;
  readonly timeout_ms?: number;
  readonly reconnect_timeout_ms: number;
  readonly steps: Step[];
}

export interface TargetVector {
  readonly name: string;
  readonly target: string;
  readonly local: boolean;
  readonly unsupported_in?: string[];
}

export interface TerminalVector {
  readonly name: string;
  readonly text: string;
  readonly printed: string;
}

/** Returns the names of all files of vectors. */
export async function files(): Promise<string[]> {
  return (await readdir(FOLDER)).filter((name) => name.endsWith(".json")).sort();
}

/** Returns the content of a file. */
export async function load(file: string): Promise<unknown> {
  return JSON.parse(await readFile(new URL(file, FOLDER), "utf8"));
}

export async function replays(): Promise<ReplayVector[]> {
  const vectors = await array<ReplayVector>("replay.json");
  for (const { posts, error, ...others } of vectors) {
    only(others, ["name", "delivered"]);
    for (const post of posts) {
      only(post, ["events", "status", "reason"]);
    }
    onlyError(error);
  }
  return vectors;
}

export async function breaks(): Promise<BreakVector[]> {
  const vectors = await array<BreakVector>("breaks.json");
  for (const { error, ...others } of vectors) {
    only(others, ["name", "is_break"]);
    onlyError(error);
  }
  return vectors;
}

export async function pauses(): Promise<PausesVector[]> {
  const vectors = await array<PausesVector>("pauses.json");
  for (const { steps, ...others } of vectors) {
    only(others, ["name", "timeout_ms", "reconnect_timeout_ms"]);
    for (const { error, ...rest } of steps) {
      only(rest, ["at_ms", "received", "pause_ms"]);
      onlyError(error);
    }
  }
  return vectors;
}

export async function targets(): Promise<TargetVector[]> {
  const vectors = await array<TargetVector>("local_targets.json");
  for (const vector of vectors) {
    only(vector, ["name", "target", "local", "unsupported_in"]);
  }
  return vectors;
}

export async function terminalTexts(): Promise<TerminalVector[]> {
  const vectors = await array<TerminalVector>("terminal.json");
  for (const vector of vectors) {
    only(vector, ["name", "text", "printed"]);
  }
  return vectors;
}

async function array<Vector>(file: string): Promise<Vector[]> {
  const vectors = (await load(file)) as Vector[];
  assert.ok(vectors.length > 0, `${file} is empty`);
  return vectors;
}

/** Fails on a field that the tests don't know. */
function only<Value extends object>(value: Value, fields: (keyof Value)[]): void {
  for (const field of Object.keys(value)) {
    assert.ok((fields as string[]).includes(field), `unknown field "${field}" in ${JSON.stringify(value)}`);
  }
}

function onlyError(error: ErrorVector = { status: "UNKNOWN" }): void {
  only(error, ["status", "reason", "message", "retry_delay_ms"]);
}
