/** Common assertions. */
import assert from "node:assert/strict";

import { PalaverError } from "@palaver-chat/client";

export async function collect<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const collected: Item[] = [];
  for await (const item of items) {
    collected.push(item);
  }
  return collected;
}

/** Waits for a call to fail, checks properties of the error, and returns it. */
export async function fails(
  call: Promise<unknown> | AsyncIterable<unknown>,
  expected: Partial<PalaverError> = {},
): Promise<PalaverError> {
  const error: unknown = await ("then" in call ? call : collect(call)).then(
    () => assert.fail("it did not fail"),
    (error: unknown) => error,
  );
  if (!(error instanceof PalaverError)) {
    throw error;
  }
  for (const [name, value] of Object.entries(expected)) {
    assert.deepEqual(error[name as keyof PalaverError], value, name);
  }
  return error;
}
