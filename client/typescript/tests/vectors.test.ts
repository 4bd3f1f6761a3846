/** The cases that the clients of all languages share. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { fromJson } from "@bufbuild/protobuf";
import { PalaverClient, PalaverError } from "@palaver-chat/client";
import type { Event } from "@palaver-chat/client";
import { PostUserQueryResponseSchema } from "@palaver-chat/client/v1";

import { RetryBudget } from "#dist/retry_budget.js";
import { SERVICE_CONFIG } from "#dist/connection.js";

import { printable } from "../examples/printable.js";

import { Clock } from "./support/clock.js";
import { Failure, ScriptedServer, refusal } from "./support/scripted_server.js";
import type { Step } from "./support/scripted_server.js";
import { breaks, files, load, pauses, replays, targets, terminalTexts } from "./support/vectors.js";
import type { ErrorVector, Post } from "./support/vectors.js";

test("every file of vectors is read", async () => {
  assert.deepEqual(await files(), [
    "breaks.json",
    "local_targets.json",
    "pauses.json",
    "replay.json",
    "service_config.json",
    "terminal.json",
  ]);
});

/** The answer that ends a reply whose client does not stop posting. */
const NOT_A_BREAK = new Failure("FAILED_PRECONDITION", "there is one post too many");

describe("replay:", async () => {
  for (const vector of await replays()) {
    test(vector.name, async () => {
      await using server = await ScriptedServer.start();
      server.script("postUserQuery", ...vector.posts.map(answer), NOT_A_BREAK);
      using client = new PalaverClient(server.target);
      const delivered: Event[] = [];
      let error: unknown;
      try {
        for await (const event of client.postUserQuery({ id: "support", userMessage: "Hello!" })) {
          delivered.push(event);
        }
      } catch (thrown) {
        error = thrown;
      }
      const expected = vector.delivered.map((json) => fromJson(PostUserQueryResponseSchema, json).event);
      assert.deepEqual(delivered, expected);
      assert.deepEqual(
        error instanceof PalaverError ? { status: error.status, reason: error.reason } : error,
        vector.error,
      );
      assert.equal(server.calls.length, vector.posts.length);
    });
  }
});

/** Returns what a scripted server answers to a post. */
function answer({ events, status, reason }: Post): Step[] {
  const steps: Step[] = events.map((json) => fromJson(PostUserQueryResponseSchema, json));
  if (status !== undefined) {
    steps.push(reason === undefined ? new Failure(status, "scripted") : refusal(status, { reason }));
  }
  return steps;
}

describe("a break:", async () => {
  for (const vector of await breaks()) {
    test(vector.name, () => {
      assert.equal(new RetryBudget(Infinity, 10_000).delayAfter(errorOf(vector.error)) !== undefined, vector.is_break);
    });
  }
});

describe("delays:", async () => {
  for (const { name, timeout_ms, reconnect_timeout_ms, steps } of await pauses()) {
    for (const luck of [0, 1]) {
      test(`${name}, ${luck === 0 ? "the shortest" : "the longest"}`, () => {
        const clock = new Clock(1_000, luck);
        const budget = new RetryBudget(timeout_ms ?? Infinity, reconnect_timeout_ms, clock);
        for (const { at_ms, received, error, pause_ms } of steps) {
          clock.time = 1_000 + at_ms;
          assert.equal(received === true, error === undefined);
          if (error === undefined) {
            budget.reset();
          } else {
            assert.equal(budget.delayAfter(errorOf(error)), pause_ms?.[luck], `at ${at_ms} ms`);
          }
        }
      });
    }
  }
});

function errorOf({ status, reason = "", message = "", retry_delay_ms: retryDelayMs }: ErrorVector): PalaverError {
  return new PalaverError(message, status, { reason, retryDelayMs });
}

describe("a token in the clear is sent only to this machine:", async () => {
  for (const { name, target, local, unsupported_in } of await targets()) {
    test(name, () => {
      const connect = () => {
        new PalaverClient(target, { token: "s3cret" }).close();
      };
      if (local && unsupported_in?.includes("typescript") !== true) {
        connect();
      } else {
        assert.throws(connect, /in the clear: use TLS/);
      }
    });
  }
});

describe("the terminal chat prints", async () => {
  for (const { name, text, printed } of await terminalTexts()) {
    test(name, () => {
      assert.equal(printable(text), printed);
    });
  }
});

test("the service config is the shared one", async () => {
  assert.deepEqual(SERVICE_CONFIG, await load("service_config.json"));
});
