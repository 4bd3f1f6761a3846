/** Errors: statuses and their details. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { inspect } from "node:util";

import { create, toBinary } from "@bufbuild/protobuf";
import { status as Code } from "@grpc/grpc-js";
import { PalaverClient, PalaverError } from "@palaver-chat/client";
import type { StatusName } from "@palaver-chat/client";

import { StatusSchema } from "#dist/gen/google/rpc/status_pb.js";

import { fails } from "./support/expect.js";
import { started } from "./support/replies.js";
import { Failure, ScriptedServer, refusal } from "./support/scripted_server.js";

const NAMES = Object.keys(Code).filter((name) => !/^\d|^OK$/.test(name)) as StatusName[];

test("there are sixteen statuses besides OK", () => {
  assert.equal(NAMES.length, 16);
});

test("a status comes with its reason, field violations and retry delay", async () => {
  await using server = await ScriptedServer.start();
  using client = new PalaverClient(server.target);
  const fieldViolations = [
    { field: "id", description: "must not be empty" },
    { field: "history.max_messages", description: "must be at most 65,535" },
  ];
  const sent = { reason: "SOME_REASON", fieldViolations, retryDelay: { seconds: 2n, nanos: 500_000_000 } };
  for (const status of NAMES) {
    server.script("deleteAssistant", refusal(status, sent, "that went wrong"));
    server.script("postUserQuery", [started(), refusal(status, sent, "that went wrong")]);
    for (const call of [client.deleteAssistant({ id: "a" }), client.postUserQuery({ id: "a" })]) {
      const error = await fails(call, {
        name: "PalaverError",
        message: "that went wrong",
        status,
        code: Code[status],
        reason: "SOME_REASON",
        fieldViolations,
        retryDelayMs: 2_500,
      });
      assert.ok(error.cause instanceof Error);
    }
  }
});

test("an error without details has none", async () => {
  await using server = await ScriptedServer.start();
  using client = new PalaverClient(server.target);
  server.script("deleteAssistant", new Failure("NOT_FOUND", "no such thing"));
  const none = { status: "NOT_FOUND", reason: "", fieldViolations: [], retryDelayMs: undefined } as const;
  await fails(client.deleteAssistant({ id: "a" }), { ...none, message: "no such thing" });
});

test("a reason of another domain is ignored", async () => {
  await using server = await ScriptedServer.start();
  using client = new PalaverClient(server.target);
  server.script("deleteAssistant", refusal("ABORTED", { reason: "BUSY", domain: "proxy.example" }));
  await fails(client.deleteAssistant({ id: "a" }), { status: "ABORTED", reason: "" });
});

describe("invalid details do not hide the status:", () => {
  const other = toBinary(StatusSchema, create(StatusSchema, { code: Code.NOT_FOUND }));
  const details = refusal("NOT_FOUND", { reason: "ASSISTANT_NOT_FOUND" }).details ?? other;
  for (const [name, bytes] of Object.entries({
    unreadable: Uint8Array.of(0xff, 0xff),
    "cut off": details.slice(0, -3),
    "of another status": details,
  })) {
    test(name, async () => {
      await using server = await ScriptedServer.start();
      using client = new PalaverClient(server.target);
      server.script("deleteAssistant", new Failure("UNAVAILABLE", "no upstream", bytes));
      await fails(client.deleteAssistant({ id: "a" }), { status: "UNAVAILABLE", message: "no upstream", reason: "" });
    });
  }
});

test("without a server, every call is UNAVAILABLE", async () => {
  using client = new PalaverClient("127.0.0.1:1", { reconnectTimeoutMs: 300 });
  const unavailable = { status: "UNAVAILABLE", reason: "" } as const;
  await fails(client.deleteAssistant({ id: "a" }), unavailable);
  await fails(client.postUserQueryUnary({ id: "a" }), unavailable);
  await fails(client.postUserQuery({ id: "a" }), unavailable);
});

describe("an invalid response is INTERNAL:", () => {
  for (const [name, bytes] of Object.entries({
    "it does not parse": Uint8Array.of(0xff, 0xff, 0xff),
    "it lacks its contents": new Uint8Array(),
  })) {
    test(name, async () => {
      await using server = await ScriptedServer.start();
      using client = new PalaverClient(server.target);
      for (const method of ["createAssistant", "getAssistant", "postUserQueryUnary"] as const) {
        server.script(method, bytes);
        await fails(client[method]({ id: "a" }), { status: "INTERNAL", reason: "" });
      }
    });
  }
});

test("an error has a stack that includes the call, and prints its properties", async () => {
  await using server = await ScriptedServer.start();
  using client = new PalaverClient(server.target);
  server.script("deleteAssistant", refusal("ABORTED", { reason: "ASSISTANT_BUSY", retryDelay: { seconds: 1n } }));
  async function aFunctionOfMine(): Promise<void> {
    await client.deleteAssistant({ id: "a" });
  }
  const error = await fails(aFunctionOfMine());
  assert.match(error.stack ?? "", /^PalaverError: refused[^]*aFunctionOfMine/);
  assert.match(inspect(error), /status: 'ABORTED'[^]*reason: 'ASSISTANT_BUSY'[^]*retryDelayMs: 1000/);
  assert.ok(error instanceof PalaverError && error instanceof Error);
});
