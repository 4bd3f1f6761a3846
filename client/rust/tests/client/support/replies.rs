//! Messages for scripted servers.

use palaver::v1::{CreateAssistantResponse, PostUserQueryResponse, PostUserQueryUnaryResponse};
use palaver::{
    Assistant, Duration, Event, FinishReason, Message, Outcome, Progress, ProgressPhase, Role, SkillCall, SkillResult,
    TextDelta, TurnCompleted, TurnStarted, Usage,
};

fn event(event: Event) -> PostUserQueryResponse {
    PostUserQueryResponse {
        event: Some(event),
        ..Default::default()
    }
}

pub fn started() -> PostUserQueryResponse {
    event(Event::Started(TurnStarted {
        request_id: "r1".into(),
        ..Default::default()
    }))
}

pub fn delta(text: &str) -> PostUserQueryResponse {
    event(Event::TextDelta(TextDelta { text: text.into() }))
}

pub fn skill_call(id: &str) -> PostUserQueryResponse {
    event(Event::SkillCall(SkillCall {
        id: id.into(),
        name: "clock".into(),
        ..Default::default()
    }))
}

pub fn skill_result(id: &str) -> PostUserQueryResponse {
    event(Event::SkillResult(SkillResult {
        id: id.into(),
        outcome: Some(Outcome::Content("12:00".into())),
    }))
}

pub fn progress(seconds: i64) -> PostUserQueryResponse {
    event(Event::Progress(Progress {
        phase: ProgressPhase::Model.into(),
        elapsed: Some(Duration { seconds, nanos: 0 }),
    }))
}

pub fn turn_completed() -> TurnCompleted {
    TurnCompleted {
        assistant: Some(assistant()),
        messages: vec![message(2), message(3)],
        finish_reason: FinishReason::Stop.into(),
        usage: Some(Usage {
            total_tokens: 42,
            ..Default::default()
        }),
        chat_model: "gpt-x-2026".into(),
    }
}

pub fn completed() -> PostUserQueryResponse {
    event(Event::Completed(turn_completed()))
}

pub fn created() -> CreateAssistantResponse {
    CreateAssistantResponse {
        assistant: Some(assistant()),
        created: true,
    }
}

pub fn unary() -> PostUserQueryUnaryResponse {
    PostUserQueryUnaryResponse {
        completed: Some(turn_completed()),
    }
}

/// Returns all responses of a turn.
pub fn turn(texts: &[&str]) -> Vec<PostUserQueryResponse> {
    let mut responses = vec![started()];
    responses.extend(texts.iter().map(|text| delta(text)));
    responses.push(completed());
    responses
}

pub fn assistant() -> Assistant {
    Assistant {
        id: "support".into(),
        total_messages: 3,
        ..Default::default()
    }
}

pub fn message(index: i32) -> Message {
    Message {
        index,
        role: Role::User.into(),
        content: format!("message {index}"),
        ..Default::default()
    }
}
