/**
 * The generated code of the contract, `palaver.v1`: a type and a schema for each message, the enums and the services.
 *
 * @module
 */
export * from "./gen/palaver/v1/admin_service_pb.js";
export * from "./gen/palaver/v1/assistant_pb.js";
export * from "./gen/palaver/v1/assistant_service_pb.js";
export * from "./gen/palaver/v1/error_reason_pb.js";
export * from "./gen/palaver/v1/skill_host_service_pb.js";
