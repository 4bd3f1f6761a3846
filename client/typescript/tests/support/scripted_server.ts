/**
 * A gRPC server on loopback that plays scripted answers and records its calls.
 *
 * Every method of `AssistantService` has a list of answers: the first call gets the first answer, and so on. The last
 * answer serves all further calls. An answer is a list of steps; that of a unary method has a single step.
 */
import { EventEmitter, once } from "node:events";

import { create, toBinary } from "@bufbuild/protobuf";
import type { DescMessage, DescMethod, Message, MessageInitShape } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import { Metadata, Server, ServerCredentials, status } from "@grpc/grpc-js";
import type { ServerUnaryCall, ServerWritableStream, UntypedServiceImplementation, sendUnaryData } from "@grpc/grpc-js";
import type { StatusName } from "@palaver-chat/client";
import { grpcMethod } from "@palaver-chat/client/grpc";
import { AssistantService } from "@palaver-chat/client/v1";

import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "#dist/gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "#dist/gen/google/rpc/status_pb.js";

type Rpc = keyof typeof AssistantService.method;

/** Makes a call wait until its caller is gone. */
export const HANG = Symbol("hang");

/** A message, bytes to be sent unchanged, a status that ends the call, something to wait for, or many messages. */
export type Step = Message | Uint8Array | Failure | typeof HANG | Promise<unknown> | Iterable<Message>;

/** A status that ends a call. */
export class Failure {
  constructor(
    readonly status: StatusName,
    readonly message: string,
    readonly details?: Uint8Array,
  ) {}

  get error(): { code: status; details: string; metadata: Metadata } {
    const metadata = new Metadata();
    if (this.details) {
      metadata.set("grpc-status-details-bin", Buffer.from(this.details));
    }
    return { code: status[this.status], details: this.message, metadata };
  }
}

/** The details that a Palaver server sends with an error. */
export interface Details {
  readonly reason?: string;
  readonly domain?: string;
  readonly fieldViolations?: { field: string; description: string }[];
  readonly retryDelay?: { seconds: bigint; nanos?: number };
}

/** Returns an error with details, as a Palaver server ends a call. */
export function refusal(name: StatusName, sent: Details, message = "refused"): Failure {
  const { reason = "", domain = "palaver.v1", fieldViolations, retryDelay } = sent;
  const details = [
    anyPack(StatusSchema, create(StatusSchema)), // an unknown detail
    anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason, domain })),
    ...packed(BadRequestSchema, fieldViolations && { fieldViolations }),
    ...packed(RetryInfoSchema, retryDelay && { retryDelay }),
  ];
  const rich = create(StatusSchema, { code: status[name], message, details });
  return new Failure(name, message, toBinary(StatusSchema, rich));
}

function packed<Schema extends DescMessage>(schema: Schema, init: MessageInitShape<Schema> | undefined) {
  return init ? [anyPack(schema, create(schema, init))] : [];
}

/** A call as the server saw it. */
export interface Call {
  readonly method: Rpc;
  readonly request: Message;
  readonly metadata: Record<string, string | Buffer>;
  /** In milliseconds, `Infinity` for none. */
  readonly timeLeftMs: number;
  /** How many messages the server has written. */
  written: number;
  /** Resolves when the call is cancelled or its deadline passes before the server has ended it. */
  readonly abandoned: Promise<void>;
  isAbandoned: boolean;
  /** Whether the server has ended the call. */
  isEnded: boolean;
}

type AnyCall = ServerUnaryCall<Message, Message> | ServerWritableStream<Message, Message>;

export class ScriptedServer implements AsyncDisposable {
  readonly calls: Call[] = [];
  readonly #called = new EventEmitter();
  readonly #answers = new Map<Rpc, Step[][]>();
  readonly #server = new Server();
  /** Where it listens. */
  target = "";

  static async start(credentials = ServerCredentials.createInsecure()): Promise<ScriptedServer> {
    const server = new ScriptedServer();
    const methods = Object.entries<DescMethod>(AssistantService.method) as [Rpc, DescMethod][];
    server.#server.addService(
      Object.fromEntries(methods.map(([name, method]) => [name, rawMethod(method)])),
      Object.fromEntries(methods.map(([name, method]) => [name, server.#handler(name, method)])),
    );
    await new Promise<void>((resolve, reject) => {
      server.#server.bindAsync("127.0.0.1:0", credentials, (error, port) => {
        server.target = `127.0.0.1:${port}`;
        if (error) {
          reject(error);
        } else {
          resolve();
        }
      });
    });
    return server;
  }

  /** Ends all connections at once. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#server.forceShutdown();
    return Promise.resolve();
  }

  /** Sends GOAWAY and lets open calls end. */
  goAway(): void {
    this.#server.tryShutdown(() => undefined);
  }

  /** Sets the answers of a method. */
  script(method: Rpc, ...answers: (Step | Step[])[]): void {
    this.#answers.set(
      method,
      answers.map((answer) => (Array.isArray(answer) ? answer : [answer])),
    );
  }

  requests(method: Rpc): Message[] {
    return this.calls.filter((call) => call.method === method).map((call) => call.request);
  }

  /** Waits for the call with this number, counted from 1, and returns it. */
  async call(count: number): Promise<Call> {
    for (;;) {
      const call = this.calls[count - 1];
      if (call) {
        return call;
      }
      await once(this.#called, "call");
    }
  }

  #handler(method: Rpc, { methodKind }: DescMethod): UntypedServiceImplementation[string] {
    if (methodKind === "server_streaming") {
      return (call: ServerWritableStream<Message, Message>) => {
        const seen = this.#record(method, call);
        void play(this.#nextAnswer(method), call, async (message) => {
          const taken = call.write(message);
          seen.written++;
          if (!taken) {
            await Promise.race([once(call, "drain"), seen.abandoned]);
          }
        }).then((failure) => {
          seen.isEnded = !call.cancelled;
          if (failure) {
            call.emit("error", failure.error);
          } else {
            call.end();
          }
        });
      };
    }
    return (call: ServerUnaryCall<Message, Message>, respond: sendUnaryData<Message>) => {
      const seen = this.#record(method, call);
      let response: Message | undefined;
      void play(this.#nextAnswer(method), call, (message) => {
        response = message;
      }).then((failure) => {
        seen.isEnded = !call.cancelled;
        respond(failure?.error ?? null, response);
      });
    };
  }

  #record(method: Rpc, call: AnyCall): Call {
    const deadline = call.getDeadline();
    const seen: Call = {
      method,
      request: call.request,
      metadata: call.metadata.getMap(),
      timeLeftMs: Number(deadline) - Date.now(),
      written: 0,
      abandoned: new Promise((resolve) => {
        // gRPC emits this event at the end of every call.
        call.on("cancelled", () => {
          if (!seen.isEnded) {
            seen.isAbandoned = true;
            resolve();
          }
        });
      }),
      isAbandoned: false,
      isEnded: false,
    };
    this.calls.push(seen);
    this.#called.emit("call");
    return seen;
  }

  #nextAnswer(method: Rpc): Step[] {
    const answers = this.#answers.get(method) ?? [];
    return (answers.length > 1 ? answers.shift() : answers[0]) ?? [new Failure("UNIMPLEMENTED", "not scripted")];
  }
}

/** Plays the steps of an answer, and returns the failure that ends it, if there is one. */
async function play(
  steps: Step[],
  call: AnyCall,
  send: (message: Message) => Promise<void> | void,
): Promise<Failure | undefined> {
  const left = new Promise((resolve) => call.on("cancelled", resolve));
  const isOver = (): boolean => call.cancelled; // it changes meanwhile
  for (const step of steps) {
    if (isOver()) {
      break;
    } else if (step instanceof Failure) {
      return step;
    } else if (step === HANG || step instanceof Promise) {
      await Promise.race([left, ...(step === HANG ? [] : [step])]);
    } else if (step instanceof Uint8Array || !(Symbol.iterator in step)) {
      await send(step as Message);
    } else {
      for (const message of step) {
        if (isOver()) {
          break;
        }
        await send(message);
      }
    }
  }
  return undefined;
}

function rawMethod(method: DescMethod) {
  const definition = grpcMethod(method);
  return {
    ...definition,
    responseSerialize: (message: Message | Uint8Array) =>
      message instanceof Uint8Array ? Buffer.from(message) : definition.responseSerialize(message),
  };
}
