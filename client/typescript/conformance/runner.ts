/**
 * The runner of the conformance suite, which tests/conformance/README.md specifies. It reads commands from its standard
 * input, makes the calls through the client, and reports what they return.
 */
import { createInterface } from "node:readline";

import { create, fromJson, toJson } from "@bufbuild/protobuf";
import type { DescMessage, JsonObject, JsonValue, MessageShape } from "@bufbuild/protobuf";
import { PalaverClient, PalaverError } from "@palaver-chat/client";
import type { CallOptions, ClientCertificate, Event, Reply } from "@palaver-chat/client";
import {
  CancelTurnRequestSchema,
  CreateAssistantRequestSchema,
  CreateAssistantResponseSchema,
  DeleteAssistantRequestSchema,
  GetAssistantRequestSchema,
  GetAssistantResponseSchema,
  ListMessagesRequestSchema,
  MessageSchema,
  PostUserQueryRequestSchema,
  PostUserQueryResponseSchema,
  PostUserQueryUnaryResponseSchema,
} from "@palaver-chat/client/v1";

interface ClientCommand {
  readonly client: {
    target?: string;
    tls?: string;
    certificate?: string;
    key?: string;
    token?: string;
    tokens?: string[];
    timeout?: number;
    reconnect_timeout?: number;
  };
}

interface CallCommand {
  readonly id: string;
  readonly call: keyof typeof CALLS;
  readonly request: JsonObject;
  readonly timeout?: number;
}

interface CancelCommand {
  readonly cancel: string;
}

type Report = (line: JsonObject) => void;

let client = new PalaverClient();
const controllers = new Map<string, AbortController>();

function makeClient(options: ClientCommand["client"]): void {
  client.close();
  controllers.clear();
  try {
    client = new PalaverClient(options.target, {
      tls: options.tls,
      clientCertificate: clientCertificate(options),
      token: options.tokens ? tokenFunction(options.tokens) : options.token,
      timeoutMs: milliseconds(options.timeout),
      reconnectTimeoutMs: milliseconds(options.reconnect_timeout),
    });
  } catch {
    print({ client: "refused" });
    return;
  }
  print({ client: "ready" });
}

function clientCertificate({ certificate, key }: ClientCommand["client"]): ClientCertificate | undefined {
  return certificate !== undefined && key !== undefined ? { certificate, key } : undefined;
}

/** Returns a function that promises the tokens one after another, and then fails. */
function tokenFunction(tokens: readonly string[]): () => Promise<string> {
  const left = tokens.values();
  return () => {
    const { value, done } = left.next();
    return done ? Promise.reject(new Error("no token left")) : Promise.resolve(value);
  };
}

async function makeCall(command: CallCommand): Promise<void> {
  const controller = new AbortController();
  controllers.set(command.id, controller);
  const options = { signal: controller.signal, timeoutMs: milliseconds(command.timeout) };
  const report: Report = (line) => {
    print({ id: command.id, ...line });
  };
  try {
    report({ response: await CALLS[command.call](command.request, options, report) });
  } catch (error) {
    if (!(error instanceof PalaverError)) {
      throw error;
    }
    report({ error: shownError(error) });
  }
}

type Call = (request: JsonObject, options: CallOptions, report: Report) => Promise<JsonObject>;

const CALLS = {
  async CreateAssistant(request, options) {
    const response = await client.createAssistant(parsed(CreateAssistantRequestSchema, request), options);
    return shown(CreateAssistantResponseSchema, response);
  },
  async GetAssistant(request, options) {
    const assistant = await client.getAssistant(parsed(GetAssistantRequestSchema, request), options);
    return shown(GetAssistantResponseSchema, create(GetAssistantResponseSchema, { assistant }));
  },
  async ListMessages(request, options, report) {
    for await (const message of client.listMessages(parsed(ListMessagesRequestSchema, request), options)) {
      report({ message: shown(MessageSchema, message) });
    }
    return {};
  },
  async DeleteAssistant(request, options) {
    await client.deleteAssistant(parsed(DeleteAssistantRequestSchema, request), options);
    return {};
  },
  async PostUserQuery(request, options, report) {
    for await (const event of post(request, options, report)) {
      report({ event: shownEvent(event) });
    }
    return {};
  },
  async PostUserQueryText(request, options, report) {
    for await (const text of post(request, options, report).text) {
      report({ text });
    }
    return {};
  },
  async PostUserQueryUnary(request, options) {
    const completed = await client.postUserQueryUnary(parsed(PostUserQueryRequestSchema, request), options);
    return shown(PostUserQueryUnaryResponseSchema, create(PostUserQueryUnaryResponseSchema, { completed }));
  },
  async CancelTurn(request, options) {
    await client.cancelTurn(parsed(CancelTurnRequestSchema, request), options);
    return {};
  },
} satisfies Readonly<Record<string, Call>>;

function post(request: JsonObject, options: CallOptions, report: Report): Reply {
  const reply = client.postUserQuery(parsed(PostUserQueryRequestSchema, request), options);
  report({ request_id: reply.requestId });
  return reply;
}

function parsed<Schema extends DescMessage>(schema: Schema, request: JsonObject): MessageShape<Schema> {
  return fromJson(schema, request);
}

function shown<Schema extends DescMessage>(schema: Schema, message: MessageShape<Schema>): JsonObject {
  return toJson(schema, message, { useProtoFieldName: true }) as JsonObject;
}

function shownEvent(event: Event): JsonObject {
  return shown(PostUserQueryResponseSchema, create(PostUserQueryResponseSchema, { event }));
}

function shownError(error: PalaverError): JsonObject {
  return {
    status: error.status,
    reason: error.reason,
    message: error.message,
    field_violations: error.fieldViolations.map(({ field, description }) => ({ field, description })),
    retry_delay: error.retryDelayMs === undefined ? null : error.retryDelayMs / 1_000,
  };
}

function milliseconds(seconds: number | undefined): number | undefined {
  return seconds === undefined ? undefined : seconds * 1_000;
}

function print(line: JsonValue): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line) as ClientCommand | CallCommand | CancelCommand;
  if ("client" in command) {
    makeClient(command.client);
  } else if ("cancel" in command) {
    controllers.get(command.cancel)?.abort();
  } else {
    void makeCall(command);
  }
}
client.close();
