/** When a turn is posted again: the pure logic. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { PalaverError } from "@palaver-chat/client";
import type { StatusName } from "@palaver-chat/client";

import { Attempts } from "#dist/attempts.js";

const BREAK = new PalaverError("Connection dropped", "UNAVAILABLE");

class Clock {
  constructor(
    public time = 1_000,
    public luck = 1,
  ) {}
  readonly now = () => this.time;
  readonly random = () => this.luck;
}

function pauses(attempts: Attempts, count: number, error = BREAK): (number | undefined)[] {
  return Array.from({ length: count }, () => attempts.pauseAfter(error));
}

describe("the pause", () => {
  test("doubles from 0.1 s to 2 s", () => {
    const attempts = new Attempts(Infinity, 10_000, new Clock());
    assert.deepEqual(pauses(attempts, 7), [100, 200, 400, 800, 1_600, 2_000, 2_000]);
  });

  test("is random between a half and the whole", () => {
    assert.deepEqual(pauses(new Attempts(Infinity, 10_000, new Clock(0, 0)), 2), [50, 100]);
    assert.deepEqual(pauses(new Attempts(Infinity, 10_000, new Clock(0, 0.5)), 2), [75, 150]);
  });

  test("begins anew once the server has sent something", () => {
    const attempts = new Attempts(Infinity, 10_000, new Clock());
    pauses(attempts, 3);
    attempts.succeeded();
    assert.equal(attempts.pauseAfter(BREAK), 100);
  });

  test("is no less than the error's retry delay", () => {
    const told = new PalaverError("refused", "UNAVAILABLE", { reason: "SHUTTING_DOWN", retryDelayMs: 5_000 });
    assert.deepEqual(pauses(new Attempts(Infinity, 10_000, new Clock()), 1, told), [5_000]);
    const short = new PalaverError("refused", "UNAVAILABLE", { reason: "SHUTTING_DOWN", retryDelayMs: 5 });
    assert.deepEqual(pauses(new Attempts(Infinity, 10_000, new Clock()), 1, short), [100]);
  });
});

describe("the end of posting", () => {
  test("comes when the pause would outlast the reconnect timeout after the first break", () => {
    const clock = new Clock();
    const attempts = new Attempts(Infinity, 1_000, clock);
    assert.equal(attempts.pauseAfter(BREAK), 100);
    clock.time += 800;
    assert.equal(attempts.pauseAfter(BREAK), 200);
    clock.time += 1;
    assert.equal(attempts.pauseAfter(BREAK), undefined);
  });

  test("is put off by whatever arrives", () => {
    const clock = new Clock();
    const attempts = new Attempts(Infinity, 1_000, clock);
    assert.equal(attempts.pauseAfter(BREAK), 100);
    clock.time += 5_000;
    attempts.succeeded();
    assert.equal(attempts.pauseAfter(BREAK), 100);
  });

  test("comes when the pause would outlast the deadline", () => {
    const clock = new Clock();
    const attempts = new Attempts(3_000, 10_000, clock);
    clock.time += 2_900;
    assert.equal(attempts.pauseAfter(BREAK), 100);
    assert.equal(attempts.pauseAfter(BREAK), undefined);
  });

  test("is at once with a reconnect timeout of 0", () => {
    assert.equal(new Attempts(Infinity, 0, new Clock()).pauseAfter(BREAK), undefined);
  });

  test("never comes when both are endless", () => {
    assert.equal(new Attempts(Infinity, Infinity, new Clock()).pauseAfter(BREAK), 100);
  });
});

test("each post gets what is left of the deadline, and never less than nothing", () => {
  const clock = new Clock();
  const attempts = new Attempts(3_000, 10_000, clock);
  assert.equal(attempts.timeLeftMs, 3_000);
  clock.time += 1_000;
  assert.equal(attempts.timeLeftMs, 2_000);
  clock.time += 5_000;
  assert.equal(attempts.timeLeftMs, 0);
  assert.equal(new Attempts(Infinity, 0, clock).timeLeftMs, Infinity);
});

describe("an error is a break", () => {
  const rows: [StatusName, string, string, boolean][] = [
    ["UNAVAILABLE", "", "Connection dropped", true],
    ["UNAVAILABLE", "SHUTTING_DOWN", "refused", true],
    ["INTERNAL", "", "Received RST_STREAM with code 2 (Internal server error)", true],
    ["CANCELLED", "", "Call cancelled", true],
    ["UNAVAILABLE", "MODEL_UNAVAILABLE", "refused", false],
    ["INTERNAL", "INTERNAL", "RST_STREAM", false],
    ["INTERNAL", "", "somebody else's", false],
    ["CANCELLED", "", "somebody cancelled it", false],
    ["CANCELLED", "TURN_CANCELLED", "Call cancelled", false],
    ["DEADLINE_EXCEEDED", "", "Deadline exceeded", false],
    ["UNAUTHENTICATED", "", "who are you?", false],
  ];
  for (const [status, reason, message, expected] of rows) {
    test(`${expected ? "" : "not "}when it is ${status} ${reason} "${message}"`, () => {
      const error = new PalaverError(message, status, { reason });
      assert.equal(new Attempts(Infinity, 10_000).pauseAfter(error) !== undefined, expected);
    });
  }
});
