//! What the tests share: a scripted server, a server of raw HTTP/2, a proxy that breaks connections, and messages.

mod http2_server;
mod proxy;
pub mod replies;
mod scripted_server;

use std::future::Future;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use palaver::{Error, Event};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

pub use http2_server::{Ending, Http2Server, Response};
pub use proxy::Proxy;
pub use scripted_server::{Call, ScriptedServer, Step};

/// What a test waits for at most; none waits as long where all is well.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, future).await.expect("this takes too long")
}

/// All items of a stream, and the error that it ended with.
pub async fn read<T>(stream: impl Stream<Item = Result<T, Error>>) -> (Vec<T>, Option<Error>) {
    let mut stream = std::pin::pin!(stream);
    let mut items = Vec::new();
    while let Some(item) = soon(stream.next()).await {
        match item {
            Ok(item) => items.push(item),
            Err(error) => {
                assert!(soon(stream.next()).await.is_none(), "an error is the last item");
                return (items, Some(error));
            }
        }
    }
    (items, None)
}

/// What a program that shows all events has on its screen in the end.
pub fn shown(events: &[Event]) -> Vec<String> {
    let line = |event: &Event| match event {
        Event::Started(_) => "started".to_owned(),
        Event::TextDelta(delta) => delta.text.clone(),
        Event::SkillCall(call) => format!("call {}", call.id),
        Event::SkillResult(result) => format!("result {}", result.id),
        Event::Completed(_) => "completed".to_owned(),
        _ => "?".to_owned(),
    };
    events.iter().map(line).collect()
}

/// What a connection that breaks looks like, where a gateway tells of it.
pub fn broken() -> Status {
    Status::unavailable("Socket closed")
}

/// An error that a Palaver server has decided.
pub fn refusal(code: Code, reason: &str) -> Status {
    Status::with_error_details(code, "refused", ErrorDetails::with_error_info(reason, "palaver.v1", []))
}

/// A server that stops, and asks its callers to wait for this long.
pub fn shutting_down(retry_delay: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info("SHUTTING_DOWN", "palaver.v1", []);
    details.set_retry_info(Some(retry_delay));
    Status::with_error_details(Code::Unavailable, "refused", details)
}
