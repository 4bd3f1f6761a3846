/** Messages of the contract that a scripted server sends. */
import { create } from "@bufbuild/protobuf";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { durationMs, timestampFromDate } from "@palaver-chat/client";
import type { Event } from "@palaver-chat/client";
import {
  AssistantSchema,
  FinishReason,
  MessageSchema,
  PostUserQueryResponseSchema,
  ProgressPhase,
  Role,
  TurnCompletedSchema,
} from "@palaver-chat/client/v1";
import type {
  Assistant,
  Message,
  PostUserQueryResponse,
  TurnCompleted,
  TurnStartedSchema,
} from "@palaver-chat/client/v1";

export const TIME = timestampFromDate(new Date("2026-01-02T03:04:05.678Z"));

export function assistant(id = "support"): Assistant {
  return create(AssistantSchema, { id, createTime: TIME, updateTime: TIME, totalMessages: 3, totalTokens: 42 });
}

export function message(index: number, role = Role.USER, content = "Hello"): Message {
  return create(MessageSchema, { index, role, content, createTime: TIME });
}

type EventInit = NonNullable<MessageInitShape<typeof PostUserQueryResponseSchema>["event"]>;

export function event(init: EventInit): PostUserQueryResponse {
  return create(PostUserQueryResponseSchema, { sequence: 7n, event: init });
}

export function started(value: MessageInitShape<typeof TurnStartedSchema> = {}): PostUserQueryResponse {
  return event({ case: "started", value: { requestId: "r1", chatModel: "gpt-x", ...value } });
}

export function delta(text: string): PostUserQueryResponse {
  return event({ case: "textDelta", value: { text } });
}

export function skillCall(id: string): PostUserQueryResponse {
  return event({ case: "skillCall", value: { id, name: "clock", argumentsJson: "{}" } });
}

export function skillResult(id: string): PostUserQueryResponse {
  return event({ case: "skillResult", value: { id, outcome: { case: "content", value: `result of ${id}` } } });
}

export function progress(elapsedMs: number): PostUserQueryResponse {
  return event({ case: "progress", value: { phase: ProgressPhase.MODEL, elapsed: durationFromMs(elapsedMs) } });
}

export function turnCompleted(text = "Hi there"): TurnCompleted {
  return create(TurnCompletedSchema, {
    assistant: assistant(),
    messages: [message(2), message(3, Role.ASSISTANT, text)],
    finishReason: FinishReason.STOP,
    usage: { totalTokens: 42, modelCalls: 1 },
    chatModel: "gpt-x-2026",
  });
}

export function completed(text?: string): PostUserQueryResponse {
  return event({ case: "completed", value: turnCompleted(text) });
}

export function turn(...texts: string[]): PostUserQueryResponse[] {
  return [started(), ...texts.map(delta), completed(texts.join(""))];
}

/** Returns a line for each event. */
export function shown(events: Event[]): string[] {
  return events.map((event) => {
    switch (event.case) {
      case "textDelta":
        return event.value.text;
      case "skillCall":
        return `call ${event.value.id}`;
      case "skillResult":
        return `result ${event.value.id}`;
      case "progress":
        return `progress after ${event.value.elapsed && durationMs(event.value.elapsed)} ms`;
      case "started":
      case "completed":
        return event.case;
    }
  });
}
