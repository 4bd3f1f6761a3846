/**
 * The client of Palaver.
 *
 * @module
 */
export { durationMs, timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt";
export { PalaverClient } from "./client.js";
export type { CallOptions, ClientOptions } from "./client.js";
export type { ClientCertificate, Pem } from "./connection.js";
export { PalaverError } from "./errors.js";
export type { ErrorDetails, FieldViolation, KnownReason, StatusName } from "./errors.js";
export type { Event } from "./replay_filter.js";
export type { Reply } from "./reply.js";
export type { Token } from "./token.js";
export { FinishReason, IfExists, OnDisconnect, Order, ProgressPhase, Role } from "./v1.js";
export type {
  Assistant,
  CreateAssistantResponse,
  History,
  Message,
  Progress,
  Skill,
  SkillCall,
  SkillResult,
  TextDelta,
  TurnCompleted,
  TurnStarted,
  Usage,
} from "./v1.js";
