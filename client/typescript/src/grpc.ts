/**
 * Connects the generated code with `@grpc/grpc-js`, for clients and for skill hosts.
 *
 * @module
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { DescMessage, DescMethod, DescService, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import type { MethodDefinition, handleServerStreamingCall, handleUnaryCall } from "@grpc/grpc-js";

type Methods<Service extends DescService> = Service["method"];
type Input<Method extends DescMethod> = MessageShape<Method["input"]>;
type Output<Method extends DescMethod> = MessageShape<Method["output"]>;
type OutputInit<Method extends DescMethod> = MessageInitShape<Method["output"]>;

/** The grpc-js definition of a service, which `Server.addService` and `makeClientConstructor` take. */
export type GrpcService<Service extends DescService> = {
  readonly [Name in keyof Methods<Service>]: GrpcMethod<Methods<Service>[Name]>;
};

/** The grpc-js definition of a method. */
export type GrpcMethod<Method extends DescMethod> = MethodDefinition<Input<Method>, Output<Method>>;

/**
 * The grpc-js implementation of a service: a function for each method. Fields of responses may be left out.
 */
export type GrpcHandlers<Service extends DescService> = {
  readonly [Name in keyof Methods<Service>]: Methods<Service>[Name] extends { methodKind: "unary" }
    ? handleUnaryCall<Input<Methods<Service>[Name]>, OutputInit<Methods<Service>[Name]>>
    : handleServerStreamingCall<Input<Methods<Service>[Name]>, OutputInit<Methods<Service>[Name]>>;
};

/**
 * Returns the grpc-js definition of a generated service.
 *
 * @example
 * ```ts
 * import { Server } from "@grpc/grpc-js";
 * import { grpcService, type GrpcHandlers } from "@palaver-chat/client/grpc";
 * import { SkillHostService } from "@palaver-chat/client/v1";
 *
 * const handlers: GrpcHandlers<typeof SkillHostService> = { listSkills: …, invokeSkill: … };
 * new Server().addService(grpcService(SkillHostService), handlers);
 * ```
 */
export function grpcService<Service extends DescService>(service: Service): GrpcService<Service> {
  const methods = Object.entries<DescMethod>(service.method).map(([name, method]) => [name, grpcMethod(method)]);
  return Object.fromEntries(methods) as GrpcService<Service>;
}

/** Returns the grpc-js definition of a generated method. */
export function grpcMethod<Method extends DescMethod>(method: Method): GrpcMethod<Method> {
  const input: Method["input"] = method.input;
  const output: Method["output"] = method.output;
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    requestStream: method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming",
    responseStream: method.methodKind === "server_streaming" || method.methodKind === "bidi_streaming",
    requestSerialize: (message) => serialize(input, message),
    requestDeserialize: (bytes) => fromBinary(input, bytes),
    responseSerialize: (message) => serialize(output, message),
    responseDeserialize: (bytes) => fromBinary(output, bytes),
  };
}

function serialize<Schema extends DescMessage>(schema: Schema, init: MessageInitShape<Schema>): Buffer {
  const bytes = toBinary(schema, create(schema, init));
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
