/** A reply: its events, its text, its end, and what ends it early. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { OnDisconnect, PalaverClient } from "@palaver-chat/client";
import type { Event, Reply } from "@palaver-chat/client";
import { GetAssistantResponseSchema } from "@palaver-chat/client/v1";
import type { PostUserQueryRequest } from "@palaver-chat/client/v1";

import { CuttingProxy } from "./support/cutting_proxy.js";
import { collect, fails } from "./support/expect.js";
import {
  assistant,
  completed,
  delta,
  progress,
  shown,
  skillCall,
  skillResult,
  started,
  turn,
  turnCompleted,
} from "./support/replies.js";
import { Failure, HANG, ScriptedServer, refusal } from "./support/scripted_server.js";

const QUERY = { id: "support", userMessage: "Hello!" };

test("all events arrive as they were sent", async () => {
  await using server = await ScriptedServer.start();
  const sent = [
    started({ temperature: 0, maxTokens: 100 }),
    delta("Hi "),
    skillCall("1"),
    skillResult("1"),
    progress(30_500),
    delta("there"),
    completed(),
  ];
  server.script("postUserQuery", sent);
  using client = new PalaverClient(server.target);
  const reply = client.postUserQuery(QUERY);
  const events = await collect(reply);
  assert.deepEqual(
    events,
    sent.map(({ event }) => event),
  );
  const [first, last] = [events[0], events.at(-1)];
  assert.ok(first?.case === "started");
  assert.deepEqual([first.value.temperature, first.value.topP], [0, undefined]);
  assert.ok(last?.case === "completed");
  assert.equal(reply.completed, last.value);
  assert.deepEqual(reply.completed, turnCompleted());
});

test("the text alone", async () => {
  await using server = await ScriptedServer.start();
  server.script("postUserQuery", [
    started(),
    progress(15_000),
    delta("Hi "),
    skillCall("1"),
    delta("there"),
    completed(),
  ]);
  using client = new PalaverClient(server.target);
  const reply = client.postUserQuery(QUERY);
  assert.deepEqual(await collect(reply.text), ["Hi ", "there"]);
  assert.deepEqual(reply.completed, turnCompleted());
});

test("each turn has a random requestId unless the caller gives one, and exposes it at once", async () => {
  await using server = await ScriptedServer.start();
  server.script("postUserQuery", turn("Hi"));
  using client = new PalaverClient(server.target);
  const replies = [
    client.postUserQuery(QUERY),
    client.postUserQuery(QUERY),
    client.postUserQuery({ ...QUERY, requestId: "mine" }),
  ];
  const names = replies.map(({ requestId }) => requestId);
  await Promise.all(replies.map(collect<Event>));
  assert.match(names[0] ?? "", /^[0-9a-f]{32}$/);
  assert.equal(new Set(names).size, 3);
  assert.equal(names[2], "mine");
  const sent = server.requests("postUserQuery") as PostUserQueryRequest[];
  assert.deepEqual(new Set(sent.map(({ requestId }) => requestId)), new Set(names));
});

test("the call starts before anybody reads", async () => {
  await using server = await ScriptedServer.start();
  server.script("postUserQuery", turn("Hi"));
  using client = new PalaverClient(server.target);
  const reply = client.postUserQuery(QUERY);
  await server.call(1);
  assert.deepEqual(shown(await collect(reply)), ["started", "Hi", "completed"]);
});

test("events arrive while the turn is running", async () => {
  await using server = await ScriptedServer.start();
  let goOn = (): void => undefined;
  const gate = new Promise<void>((resolve) => (goOn = resolve));
  server.script("postUserQuery", [started(), delta("Hi "), gate, delta("there"), completed()]);
  using client = new PalaverClient(server.target);
  const texts: string[] = [];
  for await (const text of client.postUserQuery(QUERY).text) {
    texts.push(text);
    goOn();
  }
  assert.deepEqual(texts, ["Hi ", "there"]);
});

test("unknown events are skipped, and unknown enum numbers are kept", async () => {
  await using server = await ScriptedServer.start();
  const unknown = Buffer.from("0802fa06030a0178", "hex"); // sequence 2, and field 111 of the oneof
  const waiting = Buffer.from("3a02084d", "hex"); // `progress` with the phase 77
  const end = Buffer.from("32021863", "hex"); // `completed` with the finish reason 99
  server.script("postUserQuery", [started(), unknown, new Uint8Array(), waiting, end]);
  using client = new PalaverClient(server.target);
  const reply = client.postUserQuery(QUERY);
  const events = await collect(reply);
  assert.deepEqual(
    events.map((event) => event.case),
    ["started", "progress", "completed"],
  );
  assert.ok(events[1]?.case === "progress");
  assert.equal(events[1].value.phase, 77);
  assert.equal(reply.completed?.finishReason, 99);
});

test("a stream that ends without completed is an error", async () => {
  await using server = await ScriptedServer.start();
  server.script("postUserQuery", turn("Hi").slice(0, -1));
  using client = new PalaverClient(server.target);
  const reply = client.postUserQuery(QUERY);
  const error = await fails(reply, { status: "INTERNAL", reason: "" });
  assert.match(error.message, /without `completed`/);
  assert.equal(reply.completed, undefined);
  assert.deepEqual(await reply.next(), { done: true, value: undefined });
});

test("an event that does not parse is an error", async () => {
  await using server = await ScriptedServer.start();
  server.script("postUserQuery", [started(), Uint8Array.of(255, 255, 255), HANG]);
  using client = new PalaverClient(server.target);
  await fails(client.postUserQuery(QUERY), { status: "INTERNAL", reason: "" });
  await (
    await server.call(1)
  ).abandoned;
});

describe("everything after completed is ignored:", () => {
  for (const [name, end] of Object.entries({
    "another event": delta("more"),
    "a broken connection": new Failure("UNAVAILABLE", "Socket closed"),
    "an error of the server": refusal("INTERNAL", { reason: "INTERNAL" }),
  })) {
    test(name, async () => {
      await using server = await ScriptedServer.start();
      server.script("postUserQuery", [...turn("Hi"), end]);
      using client = new PalaverClient(server.target);
      assert.deepEqual(shown(await collect(client.postUserQuery(QUERY))), ["started", "Hi", "completed"]);
      assert.equal(server.calls.length, 1);
    });
  }
});

test("many events arrive completely and in order", async () => {
  await using server = await ScriptedServer.start();
  const texts = Array.from({ length: 3_000 }, (_, number) => `${number} `);
  server.script("postUserQuery", turn(...texts));
  using client = new PalaverClient(server.target);
  assert.deepEqual(await collect(client.postUserQuery(QUERY).text), texts);
});

test("flow control keeps unread events at the server", async () => {
  await using server = await ScriptedServer.start();
  const count = 512;
  const piece = delta("x".repeat(65_536));
  server.script("postUserQuery", [started(), Array.from({ length: count }, () => piece), completed()]);
  server.script("getAssistant", create(GetAssistantResponseSchema, { assistant: assistant() }));
  using client = new PalaverClient(server.target);
  let read = 0;
  let mostAhead = 0;
  for await (const event of client.postUserQuery(QUERY)) {
    read += Number(event.case === "textDelta");
    if (read % 64 === 1) {
      // Time enough for the server to send all of the rest, if it were taken.
      for (let times = 0; times < 50; times++) {
        await client.getAssistant({ id: "support" });
      }
      mostAhead = Math.max(mostAhead, (server.calls[0]?.written ?? 0) - read);
    }
  }
  assert.equal(read, count);
  assert.ok(mostAhead < 100, `the server was ${mostAhead} pieces ahead`);
});

test("an error that arrives while the reader is busy comes after the events before it", async () => {
  await using server = await ScriptedServer.start();
  let ended = (): void => undefined;
  const gate = new Promise<void>((resolve) => (ended = resolve));
  server.script("postUserQuery", [started(), delta("Hi"), gate, refusal("ABORTED", { reason: "CONCURRENT_WRITE" })]);
  server.script("getAssistant", create(GetAssistantResponseSchema, { assistant: assistant() }));
  using client = new PalaverClient(server.target);
  const seen: string[] = [];
  const reading = (async () => {
    for await (const event of client.postUserQuery(QUERY)) {
      seen.push(event.case);
      if (event.case === "started") {
        ended();
        for (let times = 0; times < 10; times++) {
          await client.getAssistant({ id: "support" });
        }
      }
    }
  })();
  await fails(reading, { reason: "CONCURRENT_WRITE" });
  assert.deepEqual(seen, ["started", "textDelta"]);
});

test("an error that nobody reads is not an unhandled rejection", async () => {
  await using server = await ScriptedServer.start();
  server.script("postUserQuery", [refusal("ABORTED", { reason: "ASSISTANT_BUSY" })]);
  server.script("getAssistant", create(GetAssistantResponseSchema, { assistant: assistant() }));
  using client = new PalaverClient(server.target);
  const reply = client.postUserQuery(QUERY);
  await server.call(1);
  for (let times = 0; times < 5; times++) {
    await client.getAssistant({ id: "support" });
  }
  await fails(reply, { reason: "ASSISTANT_BUSY" });
});

// Ending a reply early, while the server is in the middle of one that never ends.

describe("a reply is ended early, and its call at the server,", () => {
  const ways: Record<string, (reply: Reply, controller: AbortController, client: PalaverClient) => Promise<void>> = {
    "by break": async (reply) => {
      for await (const event of reply) {
        if (event.case === "textDelta") {
          break;
        }
      }
    },
    "by break out of the text": async (reply) => {
      for await (const text of reply.text) {
        assert.equal(text, "Hi");
        break;
      }
    },
    "by an exception in the loop": async (reply) => {
      await assert.rejects(async () => {
        for await (const event of reply) {
          throw new Error(`mine: ${event.case}`);
        }
      }, /mine: started/);
    },
    "by await using": async (reply) => {
      await using held = reply;
      await held.next();
    },
    "by return, before anything was read": async (reply) => {
      await reply.return();
    },
    "by return, after an event has come that nobody read": async (reply, _, client) => {
      for (let times = 0; times < 5; times++) {
        await client.getAssistant({ id: "support" });
      }
      await reply.return();
    },
    "by return, while somebody reads": async (reply) => {
      await reply.next();
      await reply.next();
      const reading = reply.next();
      await reply.return();
      assert.deepEqual(await reading, { done: true, value: undefined });
    },
    "by its signal, while somebody reads": async (reply, controller) => {
      await reply.next();
      await reply.next();
      const reading = fails(reply.next(), { status: "CANCELLED" });
      controller.abort();
      await reading;
    },
    "by its signal, while nobody reads": async (reply, controller) => {
      await reply.next();
      controller.abort();
      await fails(reply.next(), { status: "CANCELLED" });
    },
    "by closing the client": async (reply, _, client) => {
      await reply.next();
      client.close();
      await fails(reply, { status: "CANCELLED" });
    },
  };
  for (const [name, leave] of Object.entries(ways)) {
    test(name, async () => {
      await using server = await ScriptedServer.start();
      server.script("postUserQuery", [started(), delta("Hi"), HANG]);
      server.script("getAssistant", create(GetAssistantResponseSchema, { assistant: assistant() }));
      using client = new PalaverClient(server.target);
      const controller = new AbortController();
      const reply = client.postUserQuery(
        { ...QUERY, onDisconnect: OnDisconnect.CONTINUE },
        { signal: controller.signal },
      );
      const call = await server.call(1);
      await leave(reply, controller, client);
      await call.abandoned;
      assert.deepEqual(await reply.next(), { done: true, value: undefined });
      assert.equal(server.requests("postUserQuery").length, 1);
    });
  }
});

test("a reply is ended before the server has answered", async () => {
  await using server = await ScriptedServer.start();
  server.script("postUserQuery", HANG);
  using client = new PalaverClient(server.target);
  const controller = new AbortController();
  const reading = fails(client.postUserQuery(QUERY, { signal: controller.signal }), { status: "CANCELLED" });
  const call = await server.call(1);
  controller.abort();
  await reading;
  await call.abandoned;
});

test("ending one reply does not affect another one of the same client", async () => {
  await using server = await ScriptedServer.start();
  let goOn = (): void => undefined;
  const gate = new Promise<void>((resolve) => (goOn = resolve));
  server.script("postUserQuery", [started(), HANG], [started(), gate, ...turn("Hi").slice(1)]);
  using client = new PalaverClient(server.target);
  const one = client.postUserQuery(QUERY);
  const call = await server.call(1);
  const other = collect(client.postUserQuery(QUERY));
  await server.call(2);
  await one.return();
  await call.abandoned;
  goOn();
  assert.deepEqual(shown(await other), ["started", "Hi", "completed"]);
});

test("returning after the end changes nothing", async () => {
  await using server = await ScriptedServer.start();
  server.script("postUserQuery", turn("Hi"));
  using client = new PalaverClient(server.target);
  const controller = new AbortController();
  const reply = client.postUserQuery(QUERY, { signal: controller.signal });
  await collect(reply);
  controller.abort();
  await reply.return();
  assert.deepEqual(await collect(reply), []);
  assert.deepEqual(reply.completed, turnCompleted("Hi"));
  assert.equal(server.calls[0]?.isAbandoned, false);
});

test("a deadline ends the reply", async () => {
  await using server = await ScriptedServer.start();
  server.script("postUserQuery", [started(), HANG]);
  using client = new PalaverClient(server.target);
  await fails(client.postUserQuery(QUERY, { timeoutMs: 200 }), { status: "DEADLINE_EXCEEDED", reason: "" });
  await (
    await server.call(1)
  ).abandoned;
});

test("pings detect a server that has gone silent", async () => {
  await using server = await ScriptedServer.start();
  await using proxy = await CuttingProxy.start(server.target);
  server.script("postUserQuery", [started(), HANG]);
  const channelOptions = { "grpc.keepalive_time_ms": 50, "grpc.keepalive_timeout_ms": 50 };
  using client = new PalaverClient(proxy.target, { reconnectTimeoutMs: 0, channelOptions });
  const reply = client.postUserQuery(QUERY);
  await reply.next();
  proxy.mute();
  await fails(reply, { status: "UNAVAILABLE", reason: "" });
});
