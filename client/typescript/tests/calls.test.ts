/** Every method: what goes over the wire, and what comes back. */
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { IfExists, Order, PalaverClient, Role, timestampDate, timestampFromDate } from "@palaver-chat/client";
import {
  AssistantService,
  CancelTurnRequestSchema,
  CreateAssistantRequestSchema,
  CreateAssistantResponseSchema,
  DeleteAssistantRequestSchema,
  GetAssistantRequestSchema,
  GetAssistantResponseSchema,
  ListMessagesRequestSchema,
  ListMessagesResponseSchema,
  PostUserQueryRequestSchema,
  PostUserQueryUnaryResponseSchema,
} from "@palaver-chat/client/v1";
import type { ListMessagesRequest, ListMessagesResponse, PostUserQueryRequest } from "@palaver-chat/client/v1";

import { serverStream } from "#dist/calls.js";
import { Connection } from "#dist/connection.js";

import { collect, fails } from "./support/expect.js";
import { TIME, assistant, message, turn, turnCompleted } from "./support/replies.js";
import { HANG, ScriptedServer } from "./support/scripted_server.js";

const STORAGE = { chatStorageConnectionSetting: "Archive", collectionName: "Chats" };
const NOTHING = new Uint8Array();

test("an assistant is created", async () => {
  await using server = await ScriptedServer.start();
  server.script(
    "createAssistant",
    create(CreateAssistantResponseSchema, { assistant: assistant("support"), created: true }),
  );
  using client = new PalaverClient(server.target);
  const request = { id: "support", instructions: "Be kind.", ifExists: IfExists.RESET, ...STORAGE };
  const { assistant: made, created } = await client.createAssistant(request);
  assert.equal(created, true);
  assert.equal(made.id, "support");
  assert.equal(made.totalTokens, 42);
  assert.deepEqual(made.createTime && timestampDate(made.createTime), new Date("2026-01-02T03:04:05.678Z"));
  assert.deepEqual(server.requests("createAssistant"), [create(CreateAssistantRequestSchema, request)]);
});

test("instructions that are empty are not those that are unset", async () => {
  await using server = await ScriptedServer.start();
  server.script("createAssistant", create(CreateAssistantResponseSchema, { assistant: assistant() }));
  using client = new PalaverClient(server.target);
  await client.createAssistant({ id: "support" });
  await client.createAssistant({ id: "support", instructions: "" });
  assert.deepEqual(server.requests("createAssistant"), [
    create(CreateAssistantRequestSchema, { id: "support" }),
    create(CreateAssistantRequestSchema, { id: "support", instructions: "" }),
  ]);
});

test("an assistant is read, deleted, and its turn cancelled", async () => {
  await using server = await ScriptedServer.start();
  server.script("getAssistant", create(GetAssistantResponseSchema, { assistant: assistant("support") }));
  server.script("deleteAssistant", NOTHING);
  server.script("cancelTurn", NOTHING);
  using client = new PalaverClient(server.target);
  const request = { id: "support", ...STORAGE };
  assert.deepEqual(await client.getAssistant(request), assistant("support"));
  await client.deleteAssistant(request);
  await client.cancelTurn({ ...request, requestId: "r1" });
  assert.deepEqual(server.requests("getAssistant"), [create(GetAssistantRequestSchema, request)]);
  assert.deepEqual(server.requests("deleteAssistant"), [create(DeleteAssistantRequestSchema, request)]);
  assert.deepEqual(server.requests("cancelTurn"), [create(CancelTurnRequestSchema, { ...request, requestId: "r1" })]);
});

test("temperature, limits and history of zero are sent, and unset ones are not", async () => {
  await using server = await ScriptedServer.start();
  server.script("postUserQuery", turn("Hi"));
  server.script("postUserQueryUnary", create(PostUserQueryUnaryResponseSchema, { completed: turnCompleted() }));
  using client = new PalaverClient(server.target);
  const zero = { id: "support", requestId: "r", temperature: 0, topP: 0, maxTokens: 0, history: { maxMessages: 0 } };
  const unset = { id: "support", requestId: "r" };
  for (const request of [zero, unset]) {
    await collect(client.postUserQuery(request));
    assert.equal((await client.postUserQueryUnary(request)).messages[1]?.content, "Hi there");
  }
  const sent = [create(PostUserQueryRequestSchema, zero), create(PostUserQueryRequestSchema, unset)];
  assert.deepEqual(server.requests("postUserQuery"), sent);
  assert.deepEqual(server.requests("postUserQueryUnary"), sent);
});

test("a request may be changed while it is being sent, and is not modified", async () => {
  await using server = await ScriptedServer.start();
  server.script("postUserQuery", turn("Hi"));
  using client = new PalaverClient(server.target);
  const request = create(PostUserQueryRequestSchema, { id: "support", userMessage: "one" });
  const reply = client.postUserQuery(request);
  assert.equal(request.requestId, "");
  request.userMessage = "two";
  await collect(reply);
  const [sent] = server.requests("postUserQuery") as PostUserQueryRequest[];
  assert.equal(sent?.userMessage, "one");
});

// Listing.

function pages(...sizes: number[]): ListMessagesResponse[] {
  let index = 1;
  return sizes.map((size, number) =>
    create(ListMessagesResponseSchema, {
      messages: Array.from({ length: size }, () => message(index++)),
      nextPageToken: number + 1 < sizes.length ? `page ${number + 2}` : "",
    }),
  );
}

test("messages are listed over all pages, including an empty one", async () => {
  await using server = await ScriptedServer.start();
  server.script("listMessages", ...pages(2, 0, 1));
  using client = new PalaverClient(server.target);
  const after = timestampFromDate(new Date("2026-01-02T03:04:05.678Z"));
  const request = { id: "support", afterTime: after, order: Order.NEWEST_FIRST, pageSize: 2, ...STORAGE };
  const messages = await collect(client.listMessages(request));
  assert.deepEqual(
    messages.map(({ index, role }) => [index, role]),
    [
      [1, Role.USER],
      [2, Role.USER],
      [3, Role.USER],
    ],
  );
  assert.deepEqual(
    server.requests("listMessages"),
    ["", "page 2", "page 3"].map((pageToken) =>
      create(ListMessagesRequestSchema, { ...request, afterTime: TIME, pageToken }),
    ),
  );
});

test("pages are fetched when the iteration reaches them, and not after it is ended", async () => {
  await using server = await ScriptedServer.start();
  server.script("listMessages", ...pages(2, 2, 2));
  using client = new PalaverClient(server.target);
  const messages = client.listMessages({ id: "support" });
  assert.equal(server.calls.length, 0);
  let number = 0;
  for await (const { index } of messages) {
    assert.equal(index, ++number);
    assert.equal(server.calls.length, Math.ceil(number / 2));
    if (number === 3) {
      break;
    }
  }
  assert.equal(server.calls.length, 2);
});

test("listing starts at the caller's page", async () => {
  await using server = await ScriptedServer.start();
  server.script("listMessages", ...pages(1));
  using client = new PalaverClient(server.target);
  await collect(client.listMessages({ id: "support", pageToken: "page 7" }));
  assert.equal((server.requests("listMessages")[0] as ListMessagesRequest).pageToken, "page 7");
});

// Cancellation and timeouts.

test("a signal cancels a call, whose error has the reason of the signal as its cause", async () => {
  await using server = await ScriptedServer.start();
  for (const method of ["getAssistant", "listMessages", "postUserQueryUnary"] as const) {
    server.script(method, HANG);
  }
  using client = new PalaverClient(server.target);
  const calls = [
    (signal: AbortSignal) => client.getAssistant({ id: "a" }, { signal }),
    (signal: AbortSignal) => client.listMessages({ id: "a" }, { signal }),
    (signal: AbortSignal) => client.postUserQueryUnary({ id: "a" }, { signal }),
  ];
  for (const [number, make] of calls.entries()) {
    const controller = new AbortController();
    const reason = new Error("no longer needed");
    const failing = fails(make(controller.signal), { status: "CANCELLED", reason: "", cause: reason });
    const call = await server.call(number + 1);
    controller.abort(reason);
    assert.match((await failing).message, /no longer needed/);
    await call.abandoned;
  }
});

test("a signal that was aborted before prevents the call", async () => {
  await using server = await ScriptedServer.start();
  using client = new PalaverClient(server.target);
  const signal = AbortSignal.abort();
  await fails(client.getAssistant({ id: "a" }, { signal }), { status: "CANCELLED" });
  await fails(client.postUserQueryUnary({ id: "a" }, { signal }), { status: "CANCELLED" });
  await fails(client.postUserQuery({ id: "a" }, { signal }), { status: "CANCELLED" });
  assert.equal(server.calls.length, 0);
});

test("a signal that is used for many calls does not retain them", async () => {
  await using server = await ScriptedServer.start();
  server.script("getAssistant", create(GetAssistantResponseSchema, { assistant: assistant() }));
  server.script("postUserQuery", turn("Hi"));
  server.script("postUserQueryUnary", create(PostUserQueryUnaryResponseSchema, { completed: turnCompleted() }));
  using client = new PalaverClient(server.target);
  const { signal } = new AbortController();
  await client.getAssistant({ id: "a" }, { signal });
  await client.postUserQueryUnary({ id: "a" }, { signal });
  await collect(client.postUserQuery({ id: "a" }, { signal }));
  await client.postUserQuery({ id: "a" }, { signal }).return();
  await fails(client.deleteAssistant({ id: "a" }, { signal }));
  assert.deepEqual(getEventListeners(signal, "abort"), []);
});

test("concurrent calls may share a signal", async (context) => {
  await using server = await ScriptedServer.start();
  server.script("getAssistant", create(GetAssistantResponseSchema, { assistant: assistant() }));
  using client = new PalaverClient(server.target);
  const warned = context.mock.method(process, "emitWarning", () => undefined).mock;
  const { signal } = new AbortController();
  await Promise.all(Array.from({ length: 30 }, () => client.getAssistant({ id: "a" }, { signal })));
  assert.equal(warned.callCount(), 0);
});

test("a stream ends with the iteration over it", async () => {
  await using server = await ScriptedServer.start();
  server.script("postUserQuery", [...turn("Hi"), HANG]);
  const connection = new Connection(server.target, {});
  const limits = { timeoutMs: Infinity, signal: new AbortController().signal };
  const request = create(PostUserQueryRequestSchema, { id: "a" });
  for await (const { event } of serverStream(connection, AssistantService.method.postUserQuery, request, limits)) {
    assert.equal(event.case, "started");
    break;
  }
  await (
    await server.call(1)
  ).abandoned;
  connection.close();
});

test("a deadline ends a call", async () => {
  await using server = await ScriptedServer.start();
  server.script("deleteAssistant", HANG);
  server.script("postUserQueryUnary", HANG);
  using client = new PalaverClient(server.target);
  const options = { timeoutMs: 200 };
  await fails(client.deleteAssistant({ id: "a" }, options), { status: "DEADLINE_EXCEEDED", reason: "" });
  await fails(client.postUserQueryUnary({ id: "a" }, options), { status: "DEADLINE_EXCEEDED", reason: "" });
  await Promise.all(server.calls.map((call) => call.abandoned));
});

test("a call has the client's deadline unless it has one of its own", async () => {
  await using server = await ScriptedServer.start();
  server.script("deleteAssistant", NOTHING);
  using client = new PalaverClient(server.target, { timeoutMs: 60_000 });
  await client.deleteAssistant({ id: "a" });
  await client.deleteAssistant({ id: "a" }, { timeoutMs: 600_000 });
  await client.deleteAssistant({ id: "a" }, { timeoutMs: Infinity });
  using other = new PalaverClient(server.target);
  await other.deleteAssistant({ id: "a" });
  assert.deepEqual(
    server.calls.map(({ timeLeftMs }) => (timeLeftMs === Infinity ? timeLeftMs : Math.ceil(timeLeftMs / 60_000))),
    [1, 10, Infinity, Infinity],
  );
});

test("an invalid timeout is refused", async () => {
  for (const timeoutMs of [-1, NaN]) {
    assert.throws(() => new PalaverClient(undefined, { timeoutMs }), RangeError);
    assert.throws(() => new PalaverClient(undefined, { reconnectTimeoutMs: timeoutMs }), RangeError);
    using client = new PalaverClient();
    await assert.rejects(client.getAssistant({ id: "a" }, { timeoutMs }), RangeError);
    assert.throws(() => client.postUserQuery({ id: "a" }, { timeoutMs }), RangeError);
  }
});

test("closing the client ends its calls and refuses new ones", async () => {
  await using server = await ScriptedServer.start();
  server.script("getAssistant", HANG);
  const client = new PalaverClient(server.target);
  const failing = fails(client.getAssistant({ id: "a" }), { status: "CANCELLED" });
  const call = await server.call(1);
  client.close();
  client.close();
  assert.match((await failing).message, /the client is closed/);
  await call.abandoned;
  await fails(client.getAssistant({ id: "a" }), { status: "CANCELLED" });
  await fails(client.postUserQuery({ id: "a" }), { status: "CANCELLED" });
  await fails(client.listMessages({ id: "a" }), { status: "CANCELLED" });
  assert.equal(server.calls.length, 1);
});
