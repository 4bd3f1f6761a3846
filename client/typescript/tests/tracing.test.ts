/** OpenTelemetry's instrumentation of grpc-js, which a program registers before it imports the client. */
import assert from "node:assert/strict";
import { register } from "node:module";
import { after, test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { trace } from "@opentelemetry/api";
import type { Span } from "@opentelemetry/api";
import { registerInstrumentations } from "@opentelemetry/instrumentation";
import { GrpcInstrumentation } from "@opentelemetry/instrumentation-grpc";
import { NodeTracerProvider } from "@opentelemetry/sdk-trace-node";

register("@opentelemetry/instrumentation/hook.mjs", import.meta.url);
const provider = new NodeTracerProvider();
provider.register();
registerInstrumentations({ instrumentations: [new GrpcInstrumentation()] });

const { PalaverClient } = await import("@palaver-chat/client");
const { PostUserQueryUnaryResponseSchema, CancelTurnResponseSchema } = await import("@palaver-chat/client/v1");
const { collect } = await import("./support/expect.js");
const { delta, started, turn, turnCompleted } = await import("./support/replies.js");
const { Failure, ScriptedServer } = await import("./support/scripted_server.js");

const QUERY = { id: "support", userMessage: "Hello!" };
const BREAK = new Failure("UNAVAILABLE", "Socket closed");
const REPLY = [[started(), delta("Hi"), BREAK], turn("Hi ", "there")];

after(() => provider.shutdown());

function within<T>(name: string, body: (span: Span) => T): T {
  return trace.getTracer("test").startActiveSpan(name, body);
}

/** Returns the ids of the trace and of the parent of each call. */
function parents(server: InstanceType<typeof ScriptedServer>): { traceId: string; spanId: string }[] {
  return server.calls.map(({ metadata }) => {
    const [, traceId = "", spanId = ""] = String(metadata["traceparent"]).split("-");
    return { traceId, spanId };
  });
}

test("calls and turns that are posted again belong to the trace of the caller", async () => {
  await using server = await ScriptedServer.start();
  server.script("cancelTurn", create(CancelTurnResponseSchema));
  server.script("postUserQueryUnary", BREAK, create(PostUserQueryUnaryResponseSchema, { completed: turnCompleted() }));
  server.script("postUserQuery", ...REPLY);
  using client = new PalaverClient(server.target);
  const { traceId } = await within("caller", async (span) => {
    await client.cancelTurn({ id: "support", requestId: "r1" });
    await client.postUserQueryUnary(QUERY);
    await collect(client.postUserQuery(QUERY));
    return span.spanContext();
  });
  const calls = parents(server);
  assert.deepEqual(
    calls.map((call) => call.traceId),
    Array.from({ length: 5 }, () => traceId),
  );
  assert.equal(new Set(calls.map((call) => call.spanId)).size, 5);
});

for (const token of ["s3cret", () => Promise.resolve("s3cret")]) {
  test(`a reply belongs to the trace in which it was created, with a ${typeof token} as the token`, async () => {
    await using server = await ScriptedServer.start();
    server.script("postUserQuery", ...REPLY);
    using client = new PalaverClient(server.target, { token });
    const [reply, { traceId }] = within("caller", (span) => [client.postUserQuery(QUERY), span.spanContext()]);
    await within("reader", () => collect(reply));
    assert.deepEqual(
      parents(server).map((call) => call.traceId),
      [traceId, traceId],
    );
  });
}
