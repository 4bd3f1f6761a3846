/** The connection: TLS, token, retries and options. */
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { pathToFileURL } from "node:url";

import { create } from "@bufbuild/protobuf";
import { ServerCredentials } from "@grpc/grpc-js";
import { PalaverClient } from "@palaver-chat/client";
import type { ClientOptions, PalaverError } from "@palaver-chat/client";
import {
  AssistantService,
  DeleteAssistantRequestSchema,
  GetAssistantRequestSchema,
  GetAssistantResponseSchema,
  ListMessagesResponseSchema,
  MessageSchema,
  PostUserQueryRequestSchema,
} from "@palaver-chat/client/v1";
import { generate } from "selfsigned";

import { serverStream, unary } from "#dist/calls.js";
import { Connection, SERVICE_CONFIG } from "#dist/connection.js";
import { VERSION } from "#dist/version.js";

import { CuttingProxy } from "./support/cutting_proxy.js";
import { collect, fails } from "./support/expect.js";
import { assistant, message, started, turn } from "./support/replies.js";
import { Failure, ScriptedServer } from "./support/scripted_server.js";

const FOUND = create(GetAssistantResponseSchema, { assistant: assistant() });
const UNAVAILABLE = new Failure("UNAVAILABLE", "try again");
const FOLDER = new URL("../../", import.meta.url);

const certificate = await generate([{ name: "commonName", value: "localhost" }], {
  extensions: [
    {
      name: "subjectAltName",
      altNames: [
        { type: 2, value: "localhost" },
        { type: 7, ip: "127.0.0.1" },
      ],
    },
  ],
});

async function startSecure(): Promise<ScriptedServer> {
  const pair = { private_key: Buffer.from(certificate.private), cert_chain: Buffer.from(certificate.cert) };
  const server = await ScriptedServer.start(ServerCredentials.createSsl(null, [pair]));
  server.script("getAssistant", FOUND);
  server.script("postUserQuery", turn("Hi"));
  return server;
}

test("TLS with custom certificate authorities, by path, URL or bytes", async () => {
  await using server = await startSecure();
  const folder = await mkdtemp(join(tmpdir(), "palaver-"));
  try {
    const path = join(folder, "ca.pem");
    await writeFile(path, certificate.cert);
    for (const tls of [path, pathToFileURL(path), Buffer.from(certificate.cert)]) {
      using client = new PalaverClient(server.target, { tls });
      assert.ok(await client.getAssistant({ id: "support" }));
    }
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("a certificate of an unknown authority is refused", async () => {
  await using server = await startSecure();
  using client = new PalaverClient(server.target, { tls: true, reconnectTimeoutMs: 0 });
  await fails(client.deleteAssistant({ id: "support" }), { status: "UNAVAILABLE", reason: "" });
  await fails(client.postUserQuery({ id: "support" }), { status: "UNAVAILABLE", reason: "" });
  assert.equal(server.calls.length, 0);
});

test("a missing file of certificate authorities is refused", () => {
  assert.throws(() => new PalaverClient("localhost:443", { tls: "nowhere/ca.pem" }), { code: "ENOENT" });
});

test("the token is sent with every call, over TLS and in the clear to this machine", async () => {
  await using secure = await startSecure();
  await using plain = await ScriptedServer.start();
  plain.script("getAssistant", FOUND);
  plain.script("postUserQuery", turn("Hi"));
  for (const [server, tls] of [
    [secure, Buffer.from(certificate.cert)],
    [plain, false],
  ] as const) {
    using client = new PalaverClient(server.target, { tls, token: "s3cret" });
    await client.getAssistant({ id: "support" });
    await collect(client.postUserQuery({ id: "support" }));
    assert.deepEqual(
      server.calls.map(({ metadata }) => metadata["authorization"]),
      ["Bearer s3cret", "Bearer s3cret"],
    );
  }
});

test("a token function is called before every call, and may be asynchronous", async () => {
  await using secure = await startSecure();
  await using plain = await ScriptedServer.start();
  plain.script("getAssistant", FOUND);
  plain.script("postUserQuery", turn("Hi"));
  for (const [server, tls] of [
    [secure, Buffer.from(certificate.cert)],
    [plain, false],
  ] as const) {
    let count = 0;
    for (const token of [() => `t-${++count}`, () => Promise.resolve(`t-${++count}`)]) {
      using client = new PalaverClient(server.target, { tls, token });
      await client.getAssistant({ id: "support" });
      await collect(client.postUserQuery({ id: "support" }));
    }
    assert.deepEqual(
      server.calls.map(({ metadata }) => metadata["authorization"]),
      ["Bearer t-1", "Bearer t-2", "Bearer t-3", "Bearer t-4"],
    );
  }
});

describe("the error of a token function reaches the caller, and the call is not sent:", () => {
  const locked = new Error("the vault is locked");
  const functions: [string, () => string | Promise<string>, RegExp][] = [
    ["an exception", () => assert.fail(locked), /the token function failed: the vault is locked/],
    ["a promise", () => Promise.reject(locked), /the token function failed: the vault is locked/],
    ["an invalid token", () => "two\nlines", /visible ASCII/],
    ["no token", () => undefined as unknown as string, /it must return a string, not undefined/],
  ];
  for (const [name, token, message] of functions) {
    test(name, async () => {
      await using server = await ScriptedServer.start();
      using client = new PalaverClient(server.target, { token });
      for (const call of [client.getAssistant({ id: "support" }), collect(client.postUserQuery({ id: "support" }))]) {
        await assert.rejects(call, (error: PalaverError) => {
          assert.equal(error.status, "UNAUTHENTICATED");
          assert.equal(error.reason, "");
          assert.match(error.message, message);
          assert.ok(error.cause instanceof Error);
          return true;
        });
      }
      assert.equal(server.calls.length, 0);
    });
  }
});

test("waiting for a token counts towards the timeout, and can be cancelled", async () => {
  await using server = await ScriptedServer.start();
  let wasAsked = (): void => undefined;
  const token = (): Promise<string> => {
    wasAsked();
    return new Promise(() => undefined);
  };
  using client = new PalaverClient(server.target, { token });
  await fails(client.getAssistant({ id: "support" }, { timeoutMs: 20 }), { status: "DEADLINE_EXCEEDED", reason: "" });
  const controller = new AbortController();
  const asked = new Promise<void>((resolve) => (wasAsked = resolve));
  const call = client.getAssistant({ id: "support" }, { signal: controller.signal });
  await asked;
  controller.abort();
  await fails(call, { status: "CANCELLED" });
  assert.equal(server.calls.length, 0);
});

test("a server may require a certificate, by path or bytes", async () => {
  const pair = { private_key: Buffer.from(certificate.private), cert_chain: Buffer.from(certificate.cert) };
  const credentials = ServerCredentials.createSsl(Buffer.from(certificate.cert), [pair], true);
  await using server = await ScriptedServer.start(credentials);
  server.script("getAssistant", FOUND);
  const tls = Buffer.from(certificate.cert);
  const key = Buffer.from(certificate.private);
  const folder = await mkdtemp(join(tmpdir(), "palaver-"));
  try {
    const path = join(folder, "client.pem");
    await writeFile(path, certificate.cert);
    for (const chain of [path, tls]) {
      using client = new PalaverClient(server.target, { tls, clientCertificate: { certificate: chain, key } });
      assert.ok(await client.getAssistant({ id: "support" }));
    }
  } finally {
    await rm(folder, { recursive: true });
  }
  using client = new PalaverClient(server.target, { tls });
  await fails(client.deleteAssistant({ id: "support" }), { status: "UNAVAILABLE", reason: "" });
  assert.equal(server.calls.length, 2);
});

test("a client certificate requires TLS and its key", () => {
  const [chain, key] = [Buffer.from(certificate.cert), Buffer.from(certificate.private)];
  const connect = (options: ClientOptions) => () => {
    new PalaverClient("localhost:443", options).close();
  };
  assert.throws(connect({ clientCertificate: { certificate: chain, key } }), /requires TLS/);
  assert.throws(connect({ tls: true, clientCertificate: { certificate: chain, key: chain } }));
  assert.throws(connect({ tls: true, clientCertificate: { certificate: "nowhere.pem", key } }), { code: "ENOENT" });
});

test("without a token none is sent, and the user agent names the client", async () => {
  await using server = await ScriptedServer.start();
  server.script("getAssistant", FOUND);
  using client = new PalaverClient(server.target);
  await client.getAssistant({ id: "support" });
  const { authorization, "user-agent": userAgent } = server.calls[0]?.metadata ?? {};
  assert.equal(authorization, undefined);
  assert.match(String(userAgent), new RegExp(`^palaver-typescript/${VERSION.replaceAll(".", "\\.")} `));
});

test("the version is that of the package", async () => {
  const { version } = JSON.parse(await readFile(new URL("package.json", FOLDER), "utf8")) as { version: string };
  assert.equal(VERSION, version);
});

test("a token never leaves the machine in the clear", () => {
  assert.throws(() => new PalaverClient("palaver.example:443", { token: "s3cret" }), /in the clear: use TLS/);
  new PalaverClient("palaver.example:443", { token: "s3cret", tls: true }).close();
});

describe("a token that is not a valid header is refused:", () => {
  for (const token of ["", "a\nb", " a", "a ", "grün"]) {
    test(JSON.stringify(token), () => {
      assert.throws(() => new PalaverClient(undefined, { token }), /visible ASCII characters/);
    });
  }
});

test("calls to this machine do not go through a proxy", async (context) => {
  await using server = await ScriptedServer.start();
  server.script("getAssistant", FOUND);
  const before = process.env["http_proxy"];
  process.env["http_proxy"] = "http://127.0.0.1:1";
  context.after(() => {
    if (before === undefined) {
      delete process.env["http_proxy"];
    } else {
      process.env["http_proxy"] = before;
    }
  });
  using client = new PalaverClient(server.target, { token: "s3cret" });
  assert.ok(await client.getAssistant({ id: "support" }));
});

test("reading is tried up to four times while the server is unavailable", async () => {
  await using server = await ScriptedServer.start();
  const page = create(ListMessagesResponseSchema, { messages: [message(1)] });
  server.script("getAssistant", UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, FOUND, UNAVAILABLE);
  server.script("listMessages", UNAVAILABLE, page);
  using client = new PalaverClient(server.target);
  assert.ok(await client.getAssistant({ id: "support" }));
  assert.equal(server.calls.length, 4);
  await fails(client.getAssistant({ id: "support" }), { status: "UNAVAILABLE", message: "try again" });
  assert.equal(server.calls.length, 8);
  assert.equal((await collect(client.listMessages({ id: "support" }))).length, 1);
  assert.equal(server.calls.length, 10);
});

test("calls that change something are not retried", async () => {
  await using server = await ScriptedServer.start();
  using client = new PalaverClient(server.target);
  for (const method of ["createAssistant", "deleteAssistant", "cancelTurn"] as const) {
    server.script(method, UNAVAILABLE);
    await fails(client[method]({ id: "support" }), { status: "UNAVAILABLE" });
  }
  assert.equal(server.calls.length, 3);
});

test("the service config names methods that exist", () => {
  for (const { service, method } of SERVICE_CONFIG.methodConfig[0].name) {
    assert.equal(service, AssistantService.typeName);
    assert.ok(AssistantService.methods.some(({ name }) => name === method));
  }
});

test("a response of nearly 8 MiB is accepted", async () => {
  await using server = await ScriptedServer.start();
  const content = "x".repeat(8 * 1024 * 1024 - 1024);
  const messages = [create(MessageSchema, { content })];
  server.script("listMessages", create(ListMessagesResponseSchema, { messages }));
  using client = new PalaverClient(server.target);
  const [only] = await collect(client.listMessages({ id: "support" }));
  assert.equal(only?.content, content);
});

test("options of the caller take precedence", async () => {
  await using server = await ScriptedServer.start();
  server.script("getAssistant", FOUND);
  const channelOptions = { "grpc.max_receive_message_length": 4 };
  using client = new PalaverClient(server.target, { channelOptions });
  await fails(client.getAssistant({ id: "support" }), { status: "RESOURCE_EXHAUSTED" });
});

test("all calls of a client share one connection, which is opened by the first one", async () => {
  await using server = await ScriptedServer.start();
  await using proxy = await CuttingProxy.start(server.target);
  server.script("getAssistant", FOUND);
  server.script("postUserQuery", turn("Hi"));
  using client = new PalaverClient(proxy.target);
  assert.equal(proxy.connections, 0);
  await Promise.all([
    client.getAssistant({ id: "support" }),
    client.getAssistant({ id: "support" }),
    collect(client.postUserQuery({ id: "support" })),
  ]);
  assert.equal(proxy.connections, 1);
});

test("a connection that breaks is reopened", async () => {
  await using server = await ScriptedServer.start();
  await using proxy = await CuttingProxy.start(server.target);
  server.script("getAssistant", FOUND);
  using client = new PalaverClient(proxy.target);
  for (let times = 0; times < 3; times++) {
    assert.ok(await client.getAssistant({ id: "support" }));
    proxy.cut();
  }
});

describe("a server that accepts a connection and stays silent", () => {
  const limits = { timeoutMs: Infinity, signal: new AbortController().signal };
  const request = create(GetAssistantRequestSchema, { id: "support" });
  const remove = (connection: Connection): Promise<unknown> =>
    unary(connection, AssistantService.method.deleteAssistant, create(DeleteAssistantRequestSchema), limits);

  test("is UNAVAILABLE after a while, until it answers again", async () => {
    await using server = await ScriptedServer.start();
    await using proxy = await CuttingProxy.start(server.target);
    server.script("getAssistant", FOUND);
    const connection = new Connection(proxy.target, {}, 200);
    proxy.deaf = true;
    await fails(Promise.all([remove(connection), remove(connection)]), { status: "UNAVAILABLE", reason: "" });
    await fails(remove(connection), { status: "UNAVAILABLE", reason: "" });
    proxy.deaf = false;
    assert.ok(await unary(connection, AssistantService.method.getAssistant, request, limits));
    connection.close();
  });

  test("does not harm a reply over an older connection", async () => {
    await using server = await ScriptedServer.start();
    await using proxy = await CuttingProxy.start(server.target);
    let proceed = (): void => undefined;
    const gate = new Promise<void>((resolve) => (proceed = resolve));
    server.script("postUserQuery", [started(), gate, ...turn("Hi").slice(1)]);
    const connection = new Connection(proxy.target, {}, 200);
    const query = create(PostUserQueryRequestSchema, { id: "support" });
    const seen: (string | undefined)[] = [];
    for await (const { event } of serverStream(connection, AssistantService.method.postUserQuery, query, limits)) {
      seen.push(event.case);
      if (event.case === "started") {
        proxy.deaf = true;
        server.goAway();
        // The first one may still be refused over the connection that goes away.
        await fails(remove(connection));
        await fails(remove(connection), { status: "UNAVAILABLE" });
        await fails(remove(connection), { status: "UNAVAILABLE" });
        proceed();
      }
    }
    assert.deepEqual(seen, ["started", "textDelta", "completed"]);
    connection.close();
  });
});
