/** Replies whose connection breaks. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { constants, createServer } from "node:http2";
import type { AddressInfo } from "node:net";
import { describe, test } from "node:test";

import { create, toBinary } from "@bufbuild/protobuf";
import { PalaverClient } from "@palaver-chat/client";
import type { ClientOptions } from "@palaver-chat/client";
import {
  GetAssistantResponseSchema,
  PostUserQueryResponseSchema,
  PostUserQueryUnaryResponseSchema,
} from "@palaver-chat/client/v1";
import type { PostUserQueryRequest, PostUserQueryResponse } from "@palaver-chat/client/v1";

import { CuttingProxy } from "./support/cutting_proxy.js";
import { collect, fails } from "./support/expect.js";
import { assistant, completed, delta, shown, started, turn, turnCompleted } from "./support/replies.js";
import { Failure, HANG, ScriptedServer, refusal } from "./support/scripted_server.js";
import type { Step } from "./support/scripted_server.js";

const QUERY = { id: "support", userMessage: "Hello!", temperature: 0 };
const BREAK = new Failure("UNAVAILABLE", "Socket closed");
const SHUTTING_DOWN = refusal("UNAVAILABLE", { reason: "SHUTTING_DOWN" });
const LATER = refusal("UNAVAILABLE", { reason: "SHUTTING_DOWN", retryDelay: { seconds: 1_000n } });
const UNARY = create(PostUserQueryUnaryResponseSchema, { completed: turnCompleted() });

async function withServer(
  body: (server: ScriptedServer, client: PalaverClient) => Promise<void>,
  options: ClientOptions = {},
): Promise<void> {
  await using server = await ScriptedServer.start();
  using client = new PalaverClient(server.target, options);
  await body(server, client);
}

describe("the same request is posted again, and the reply resumes after", () => {
  const ends: Record<string, Step> = {
    "a lost connection": BREAK,
    "a shutdown of the server": SHUTTING_DOWN,
    "a reset stream": new Failure("INTERNAL", "Received RST_STREAM with code 2 (Internal server error)"),
  };
  for (const [name, end] of Object.entries(ends)) {
    test(name, () =>
      withServer(async (server, client) => {
        server.script(
          "postUserQuery",
          [started(), delta("Hel"), end],
          [end],
          [started(), delta("He"), end],
          [started(), delta("Hello, "), end],
          turn("Hello, wor", "ld"),
        );
        const reply = client.postUserQuery(QUERY);
        const events = await collect(reply);
        assert.deepEqual(shown(events), ["started", "Hel", "lo, ", "wor", "ld", "completed"]);
        assert.equal(reply.completed, events.at(-1)?.value);
        const [first, ...others] = server.requests("postUserQuery") as PostUserQueryRequest[];
        assert.deepEqual(others, Array(4).fill(first));
        assert.equal(first?.requestId, reply.requestId);
        assert.equal(first.temperature, 0);
      }),
    );
  }
});

test("a reader does not notice that the connection is cut in the middle of a reply", async () => {
  await using server = await ScriptedServer.start();
  await using proxy = await CuttingProxy.start(server.target);
  const words = Array.from({ length: 400 }, (_, number) => `${number} 👍 `);
  server.script(
    "postUserQuery",
    ...[100, 200, 300].map((end): Step[] => [...turn(...words.slice(0, end)).slice(0, -1), HANG]),
    turn(...words),
  );
  using client = new PalaverClient(proxy.target);
  let text = "";
  let count = 0;
  for await (const piece of client.postUserQuery(QUERY).text) {
    text += piece;
    if (++count % 100 === 0 && count < 400) {
      proxy.cut();
    }
  }
  assert.equal(text, words.join(""));
  assert.equal(server.calls.length, 4);
});

describe("a turn whose stream is reset is posted again:", () => {
  const { NGHTTP2_CANCEL, NGHTTP2_INTERNAL_ERROR, NGHTTP2_NO_ERROR, NGHTTP2_REFUSED_STREAM } = constants;
  for (const [name, code] of Object.entries({
    CANCEL: NGHTTP2_CANCEL,
    INTERNAL_ERROR: NGHTTP2_INTERNAL_ERROR,
    NO_ERROR: NGHTTP2_NO_ERROR,
    REFUSED_STREAM: NGHTTP2_REFUSED_STREAM,
  })) {
    test(name, async () => {
      // A gRPC server always sends a status, so this one speaks plain HTTP/2.
      const server = createServer();
      let posts = 0;
      server.on("stream", (stream) => {
        posts++;
        stream.respond({ ":status": 200, "content-type": "application/grpc" }, { waitForTrailers: true });
        if (posts === 1) {
          stream.write(framed([started(), delta("Hel")]), () => {
            stream.close(code);
          });
        } else {
          stream.on("wantTrailers", () => {
            stream.sendTrailers({ "grpc-status": "0" });
          });
          stream.end(framed(turn("Hello")));
        }
        stream.on("error", () => undefined);
      });
      server.listen(0, "127.0.0.1");
      await once(server, "listening");
      using client = new PalaverClient(`127.0.0.1:${(server.address() as AddressInfo).port}`);
      const texts = await collect(client.postUserQuery(QUERY).text);
      assert.equal(texts.join(""), "Hello");
      assert.equal(posts, 2);
      server.close();
    });
  }

  function framed(messages: PostUserQueryResponse[]): Buffer {
    const frames = messages.map((message) => {
      const bytes = toBinary(PostUserQueryResponseSchema, message);
      const frame = Buffer.alloc(5 + bytes.length);
      frame.writeUInt32BE(bytes.length, 1);
      frame.set(bytes, 5);
      return frame;
    });
    return Buffer.concat(frames);
  }
});

test("a unary turn is posted again", () =>
  withServer(async (server, client) => {
    server.script("postUserQueryUnary", BREAK, SHUTTING_DOWN, UNARY);
    assert.deepEqual(await client.postUserQueryUnary(QUERY), turnCompleted());
    const [first, ...others] = server.requests("postUserQueryUnary") as PostUserQueryRequest[];
    assert.deepEqual(others, [first, first]);
    assert.match(first?.requestId ?? "", /^[0-9a-f]{32}$/);
  }));

test("a turn is posted again even if nobody reads", () =>
  withServer(async (server, client) => {
    server.script("postUserQuery", [BREAK], turn("Hi"));
    const reply = client.postUserQuery(QUERY);
    await server.call(2);
    assert.deepEqual(shown(await collect(reply)), ["started", "Hi", "completed"]);
  }));

test("a reply with different text restarts", () =>
  withServer(async (server, client) => {
    server.script("postUserQuery", [started(), delta("One"), BREAK], turn("Two"));
    const reply = client.postUserQuery(QUERY);
    const events = await collect(reply);
    assert.deepEqual(shown(events), ["started", "One", "started", "Two", "completed"]);
    assert.deepEqual(reply.completed, turnCompleted("Two"));
  }));

test("an iteration over text ends at a restart, and cancels the call", () =>
  withServer(async (server, client) => {
    server.script("postUserQuery", [started(), delta("One"), BREAK], [started(), delta("Two"), HANG]);
    const seen: string[] = [];
    const reading = (async () => {
      for await (const text of client.postUserQuery(QUERY).text) {
        seen.push(text);
      }
    })();
    const error = await fails(reading, { status: "UNAVAILABLE", reason: "" });
    assert.match(error.message, /ran again with a different reply/);
    assert.deepEqual(seen, ["One"]);
    await (
      await server.call(2)
    ).abandoned;
  }));

test("text can be read after events", () =>
  withServer(async (server, client) => {
    server.script("postUserQuery", [started(), delta("One"), BREAK], turn("Two"));
    const reply = client.postUserQuery(QUERY);
    const events = [await reply.next(), await reply.next(), await reply.next()];
    assert.deepEqual(
      events.map(({ value }) => value?.case),
      ["started", "textDelta", "started"],
    );
    assert.deepEqual(await collect(reply.text), ["Two"]);
  }));

// When a turn is not posted again.

describe("an error that the server decided is the caller's:", () => {
  for (const error of [
    refusal("UNAVAILABLE", { reason: "MODEL_UNAVAILABLE", retryDelay: { seconds: 0n } }),
    new Failure("INTERNAL", "somebody else's"),
  ]) {
    test(`${error.status} ${error.message}`, () =>
      withServer(async (server, client) => {
        server.script("postUserQuery", [started(), delta("Hi"), error]);
        server.script("postUserQueryUnary", error);
        await fails(client.postUserQuery(QUERY), { status: error.status });
        await fails(client.postUserQueryUnary(QUERY), { status: error.status });
        assert.equal(server.calls.length, 2);
      }));
  }
});

test("the reconnect timeout ends posting again", () =>
  withServer(
    async (server, client) => {
      server.script("postUserQuery", [started(), delta("Hi"), BREAK], [BREAK]);
      server.script("postUserQueryUnary", BREAK);
      const lost = { status: "UNAVAILABLE", message: "Socket closed" } as const;
      await fails(client.postUserQuery(QUERY), lost);
      await fails(client.postUserQueryUnary(QUERY), lost);
      assert.ok(server.calls.length > 4);
    },
    { reconnectTimeoutMs: 500 },
  ));

test("each event resets the reconnect timeout", () =>
  withServer(
    async (server, client) => {
      // Each of these delays is shorter than that, but their sum is longer. Each post brings a character.
      const pieces = Array.from({ length: 12 }, () => "x");
      const broken = pieces.map((_, index) => [started(), delta("x".repeat(index + 1)), BREAK]);
      server.script("postUserQuery", ...broken, turn(...pieces));
      assert.deepEqual(shown(await collect(client.postUserQuery(QUERY))), ["started", ...pieces, "completed"]);
    },
    { reconnectTimeoutMs: 400 },
  ));

test("a reconnect timeout of 0 turns posting again off", () =>
  withServer(
    async (server, client) => {
      server.script("postUserQuery", [started(), BREAK]);
      server.script("postUserQueryUnary", BREAK);
      await fails(client.postUserQuery(QUERY), { status: "UNAVAILABLE" });
      await fails(client.postUserQueryUnary(QUERY), { status: "UNAVAILABLE" });
      assert.equal(server.calls.length, 2);
    },
    { reconnectTimeoutMs: 0 },
  ));

test("the deadline covers all posts, and each post gets the remaining time", () =>
  withServer(
    async (server, client) => {
      const soon = refusal("UNAVAILABLE", { reason: "SHUTTING_DOWN", retryDelay: { seconds: 1n } });
      server.script("postUserQuery", [started(), soon], [LATER]);
      server.script("postUserQueryUnary", soon, LATER);
      await fails(client.postUserQuery(QUERY), { status: "UNAVAILABLE", retryDelayMs: 1_000_000 });
      await fails(client.postUserQueryUnary(QUERY), { status: "UNAVAILABLE", retryDelayMs: 1_000_000 });
      const [first = 0, again = 0, unary = 0, unaryAgain = 0] = server.calls.map(({ timeLeftMs }) => timeLeftMs);
      assert.ok(0 < again && again < first - 900 && first <= 60_000);
      assert.ok(0 < unaryAgain && unaryAgain < unary - 900 && unary <= 60_000);
    },
    { timeoutMs: 60_000, reconnectTimeoutMs: Infinity },
  ));

test("the deadline ends a reply that hangs after it was posted again", () =>
  withServer(async (server, client) => {
    server.script("postUserQuery", [started(), BREAK], [HANG]);
    await fails(client.postUserQuery(QUERY, { timeoutMs: 700 }), { status: "DEADLINE_EXCEEDED" });
    assert.equal(server.calls.length, 2);
  }));

describe("the pause before posting again is ended", () => {
  const options = { reconnectTimeoutMs: Infinity };

  /** Waits until the client has processed what the server has sent so far. */
  async function settled(server: ScriptedServer, client: PalaverClient): Promise<void> {
    server.script("getAssistant", create(GetAssistantResponseSchema, { assistant: assistant() }));
    for (let times = 0; times < 5; times++) {
      await client.getAssistant({ id: "support" });
    }
  }

  function posts(server: ScriptedServer): number {
    return server.calls.filter(({ method }) => method !== "getAssistant").length;
  }

  test("by the signal of a reply", () =>
    withServer(async (server, client) => {
      server.script("postUserQuery", [LATER]);
      const controller = new AbortController();
      const reading = fails(client.postUserQuery(QUERY, { signal: controller.signal }), { status: "CANCELLED" });
      await settled(server, client);
      controller.abort();
      await reading;
      assert.equal(posts(server), 1);
    }, options));

  test("by the return of a reply that was read in part", () =>
    withServer(async (server, client) => {
      server.script("postUserQuery", [started(), LATER]);
      const reply = client.postUserQuery(QUERY);
      await reply.next();
      const reading = reply.next();
      await settled(server, client);
      await reply.return();
      assert.deepEqual(await reading, { done: true, value: undefined });
      assert.equal(posts(server), 1);
    }, options));

  test("by the signal of a unary turn", () =>
    withServer(async (server, client) => {
      server.script("postUserQueryUnary", LATER);
      const controller = new AbortController();
      const waiting = fails(client.postUserQueryUnary(QUERY, { signal: controller.signal }), { status: "CANCELLED" });
      await settled(server, client);
      controller.abort();
      await waiting;
      assert.equal(posts(server), 1);
    }, options));

  test("by closing the client", () =>
    withServer(async (server, client) => {
      server.script("postUserQuery", [LATER]);
      server.script("postUserQueryUnary", LATER);
      const waiting = Promise.all([
        fails(client.postUserQuery(QUERY), { status: "CANCELLED" }),
        fails(client.postUserQueryUnary(QUERY), { status: "CANCELLED" }),
      ]);
      await settled(server, client);
      client.close();
      await waiting;
      assert.equal(posts(server), 2);
    }, options));

  test("only at the server's retry delay, even if that is months", () =>
    withServer(async (server, client) => {
      const months = refusal("UNAVAILABLE", { reason: "SHUTTING_DOWN", retryDelay: { seconds: 10_000_000n } });
      server.script("postUserQuery", [months]);
      const reply = client.postUserQuery(QUERY);
      await settled(server, client);
      await settled(server, client);
      await reply.return();
      assert.equal(posts(server), 1);
    }, options));
});

test("a completed reply is not posted again when its connection breaks", async () => {
  await using server = await ScriptedServer.start();
  await using proxy = await CuttingProxy.start(server.target);
  server.script("postUserQuery", [started(), completed(), HANG]);
  using client = new PalaverClient(proxy.target);
  for await (const event of client.postUserQuery(QUERY)) {
    if (event.case === "completed") {
      proxy.cut();
    }
  }
  assert.equal(server.calls.length, 1);
});
