/** The client. */
import { randomBytes } from "node:crypto";
import { setMaxListeners } from "node:events";

import { clone, create } from "@bufbuild/protobuf";
import type { DescMessage, DescMethodUnary, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { ChannelOptions } from "@grpc/grpc-js";

import { serverStream, unary } from "./calls.js";
import { Connection, DEFAULT_TARGET } from "./connection.js";
import type { ClientCertificate } from "./connection.js";
import { malformedResponse } from "./errors.js";
import { pauseAfter } from "./pause.js";
import { Reply } from "./reply.js";
import { RetryBudget } from "./retry_budget.js";
import type { Token } from "./token.js";
import {
  AssistantService,
  CancelTurnRequestSchema,
  CreateAssistantRequestSchema,
  DeleteAssistantRequestSchema,
  GetAssistantRequestSchema,
  ListMessagesRequestSchema,
  PostUserQueryRequestSchema,
} from "./v1.js";
import type { Assistant, CreateAssistantResponse, Message, PostUserQueryRequest, TurnCompleted } from "./v1.js";

const DEFAULT_RECONNECT_TIMEOUT_MS = 10_000;

const RPC = AssistantService.method;

/** How a client reaches its server. */
export interface ClientOptions {
  /**
   * Whether to use TLS. The default is `false`. With `true`, the certificate authorities of Node.js are trusted, which
   * are those of the system if it runs with `--use-system-ca`. To trust other authorities instead, pass the path of a
   * PEM file, or its content as bytes.
   */
  readonly tls?: boolean | string | URL | Uint8Array | undefined;

  /**
   * The certificate chain and its private key to present to a server that asks for them. Each is the path of a PEM file, or
   * its content as bytes. It requires `tls`.
   */
  readonly clientCertificate?: ClientCertificate | undefined;

  /**
   * A bearer token, sent as `authorization: Bearer <token>` with every call. Without TLS, a token is accepted only for
   * targets on this machine: `localhost`, loopback addresses and Unix sockets.
   *
   * A token that expires comes from a function, which may be asynchronous. It is called before every call, every page and
   * every post of a turn, so it should keep its token as long as it is valid. If it fails, the call fails with
   * `UNAUTHENTICATED` and an empty reason; the `cause` is the function's error.
   */
  readonly token?: Token | undefined;

  /** The timeout of calls that have none of their own, in milliseconds. The default is `Infinity`. */
  readonly timeoutMs?: number | undefined;

  /**
   * How many milliseconds a turn may be without a connection. When the connection breaks or the server shuts down, the
   * turn is posted again, and each event of the reply is delivered once. The default is 10,000; 0 disables posting
   * again.
   */
  readonly reconnectTimeoutMs?: number | undefined;

  /** Channel options of grpc-js. They override the client's own. */
  readonly channelOptions?: ChannelOptions | undefined;
}

/** The options of a call. */
export interface CallOptions {
  /** Cancels the call, which then fails with `CANCELLED`; its `cause` is the reason of the signal. */
  readonly signal?: AbortSignal | undefined;

  /**
   * The timeout in milliseconds, after which the call fails with `DEADLINE_EXCEEDED`. For a reply, it covers the
   * whole reply up to the last event, including all of its posts. The default is the client's timeout; `Infinity` means none.
   */
  readonly timeoutMs?: number | undefined;
}

/**
 * A client of a Palaver server. One client is enough for a whole program: all calls share one connection, which is
 * opened by the first call and reopened when it breaks.
 *
 * Requests are the messages of the contract, where every field is documented. Fields that are left out are unset. Calls
 * fail with a {@link PalaverError}.
 *
 * @example
 * ```ts
 * const client = new PalaverClient("127.0.0.1:50051");
 * await client.createAssistant({ id: "support-42", ifExists: IfExists.KEEP });
 * for await (const text of client.postUserQuery({ id: "support-42", userMessage: "Hello!" }).text) {
 *   process.stdout.write(text);
 * }
 * client.close();
 * ```
 */
export class PalaverClient implements Disposable {
  readonly #connection: Connection;
  readonly #timeoutMs: number;
  readonly #reconnectTimeoutMs: number;
  readonly #open = new Set<AbortController>();
  #closed = false;

  /**
   * @param target - The server, `host:port`, or any other target that grpc-js supports (`dns:///host:port`, `unix:path`).
   * @throws TypeError when the token would leave this machine without TLS or contains characters other than visible ASCII,
   *   or when there is a client certificate but no TLS.
   * @throws RangeError when a timeout is negative or not a number.
   * @throws Error when a PEM file can't be read, or the client certificate does not belong to its key.
   */
  constructor(target: string = DEFAULT_TARGET, options: ClientOptions = {}) {
    this.#timeoutMs = milliseconds(options.timeoutMs ?? Infinity);
    this.#reconnectTimeoutMs = milliseconds(options.reconnectTimeoutMs ?? DEFAULT_RECONNECT_TIMEOUT_MS);
    this.#connection = new Connection(target, options);
  }

  /** Closes the connection. Open calls fail with `CANCELLED`. Closing again does nothing. */
  close(): void {
    this.#closed = true;
    for (const controller of this.#open) {
      controller.abort(closed());
    }
    this.#connection.close();
  }

  /** Calls {@link close}, for `using`. */
  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Creates an assistant. Its conversation starts with only its instructions. `created` is false if the assistant
   * existed and was kept.
   *
   * Fails with `ASSISTANT_EXISTS` if the assistant exists, unless `ifExists` allows it.
   */
  async createAssistant(
    request: MessageInitShape<typeof CreateAssistantRequestSchema>,
    options?: CallOptions,
  ): Promise<CreateAssistantResponse & { assistant: Assistant }> {
    const response = await this.#call(RPC.createAssistant, copy(CreateAssistantRequestSchema, request), options);
    return { ...response, assistant: required(response.assistant, "assistant") };
  }

  /** Returns the current state of an assistant. Fails with `ASSISTANT_NOT_FOUND` if there is none. */
  async getAssistant(
    request: MessageInitShape<typeof GetAssistantRequestSchema>,
    options?: CallOptions,
  ): Promise<Assistant> {
    const response = await this.#call(RPC.getAssistant, copy(GetAssistantRequestSchema, request), options);
    return required(response.assistant, "assistant");
  }

  /**
   * Iterates over the messages of an assistant, starting at `pageToken` if it is set. Each page is fetched when the
   * iteration reaches it, with its own timeout. Errors such as `ASSISTANT_NOT_FOUND` are thrown by the iteration.
   */
  listMessages(
    request: MessageInitShape<typeof ListMessagesRequestSchema>,
    options?: CallOptions,
  ): AsyncGenerator<Message, void, undefined> {
    return this.#pages(copy(ListMessagesRequestSchema, request), options);
  }

  /** Deletes an assistant and all of its messages permanently. Fails with `ASSISTANT_NOT_FOUND` if there is none. */
  async deleteAssistant(
    request: MessageInitShape<typeof DeleteAssistantRequestSchema>,
    options?: CallOptions,
  ): Promise<void> {
    await this.#call(RPC.deleteAssistant, copy(DeleteAssistantRequestSchema, request), options);
  }

  /**
   * Posts a user message and streams the reply.
   *
   * The turn is stored as a whole when the reply completes, or not at all. The call starts immediately; the iteration
   * over the reply throws its errors.
   *
   * @throws RangeError when `timeoutMs` is negative or not a number.
   */
  postUserQuery(request: MessageInitShape<typeof PostUserQueryRequestSchema>, options: CallOptions = {}): Reply {
    const message = turnRequest(request);
    const budget = this.#retryBudget(options);
    const [controller, end] = this.#begin(options.signal);
    return new Reply(
      message.requestId,
      (limits) => serverStream(this.#connection, RPC.postUserQuery, message, limits),
      budget,
      controller,
      end,
    );
  }

  /**
   * Posts a user message and returns the last event of the reply once the turn is stored. The turn is posted again when
   * the connection breaks, like that of a {@link Reply}. If the call fails, the turn is not stored.
   */
  async postUserQueryUnary(
    request: MessageInitShape<typeof PostUserQueryRequestSchema>,
    options: CallOptions = {},
  ): Promise<TurnCompleted> {
    const message = turnRequest(request);
    const budget = this.#retryBudget(options);
    const [{ signal }, end] = this.#begin(options.signal);
    try {
      for (;;) {
        try {
          const limits = { timeoutMs: budget.timeLeftMs, signal };
          const response = await unary(this.#connection, RPC.postUserQueryUnary, message, limits);
          return required(response.completed, "completed");
        } catch (error) {
          await pauseAfter(error, budget, signal);
        }
      }
    } finally {
      end();
    }
  }

  /**
   * Cancels a running turn of any caller, regardless of its `onDisconnect`. The turn is not stored. Fails with
   * `TURN_NOT_FOUND` if no such turn is running.
   */
  async cancelTurn(request: MessageInitShape<typeof CancelTurnRequestSchema>, options?: CallOptions): Promise<void> {
    await this.#call(RPC.cancelTurn, copy(CancelTurnRequestSchema, request), options);
  }

  async *#pages(
    request: MessageShape<typeof ListMessagesRequestSchema>,
    options: CallOptions | undefined,
  ): AsyncGenerator<Message, void, undefined> {
    do {
      const response = await this.#call(RPC.listMessages, request, options);
      yield* response.messages;
      request.pageToken = response.nextPageToken;
    } while (request.pageToken !== "");
  }

  async #call<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageShape<I>,
    options: CallOptions = {},
  ): Promise<MessageShape<O>> {
    const timeoutMs = this.#timeout(options);
    const [{ signal }, end] = this.#begin(options.signal);
    try {
      return await unary(this.#connection, method, request, { timeoutMs, signal });
    } finally {
      end();
    }
  }

  #retryBudget(options: CallOptions): RetryBudget {
    return new RetryBudget(this.#timeout(options), this.#reconnectTimeoutMs);
  }

  #timeout({ timeoutMs = this.#timeoutMs }: CallOptions): number {
    return milliseconds(timeoutMs);
  }

  /**
   * Registers a call. Returns the controller that cancels it, which the caller's signal and `close` also use, and a
   * function to call when it has ended.
   */
  #begin(signal: AbortSignal | undefined): [AbortController, () => void] {
    const controller = new AbortController();
    const abort = (): void => {
      controller.abort(signal?.reason);
    };
    if (this.#closed) {
      controller.abort(closed());
    } else if (signal?.aborted) {
      abort();
    }
    if (signal) {
      setMaxListeners(0, signal); // many calls may share it, and each removes its listener
      signal.addEventListener("abort", abort);
    }
    this.#open.add(controller);
    const end = (): void => {
      signal?.removeEventListener("abort", abort);
      this.#open.delete(controller);
    };
    return [controller, end];
  }
}

/** Returns a copy of a request, so that the caller can't change it while it is being sent. */
function copy<Schema extends DescMessage>(schema: Schema, init: MessageInitShape<Schema>): MessageShape<Schema> {
  return clone(schema, create(schema, init));
}

/** Returns the request with a `requestId`, which makes the turn safe to post again. */
function turnRequest(init: MessageInitShape<typeof PostUserQueryRequestSchema>): PostUserQueryRequest {
  const request = copy(PostUserQueryRequestSchema, init);
  request.requestId ||= randomBytes(16).toString("hex");
  return request;
}

/** Returns a message that the contract requires in a response. */
function required<Value>(value: Value | undefined, name: string): Value {
  if (value === undefined) {
    throw malformedResponse(`\`${name}\` is missing`);
  }
  return value;
}

/** Returns a timeout, or throws if it is invalid. */
function milliseconds(value: number): number {
  if (!(value >= 0)) {
    throw new RangeError(`a timeout must be at least 0 milliseconds, not ${value}`);
  }
  return value;
}

function closed(): Error {
  return new Error("the client is closed");
}
