//! Helpers of the tests: servers, a proxy that breaks connections, messages and vectors.

mod http2_server;
mod proxy;
pub mod replies;
mod scripted_server;
pub mod vectors;

use std::future::Future;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use palaver::{Error, Event};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

pub use http2_server::{Ending, Http2Server, Response};
pub use proxy::Proxy;
pub use scripted_server::{Call, ScriptedServer, Step};

/// Awaits a future with a time limit.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, future)
        .await
        .expect("the time limit is exceeded")
}

/// Returns all items of a stream, and its error.
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

/// Returns a line of text for each event.
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

/// Returns the status of a broken connection, as reported by a gateway.
pub fn broken() -> Status {
    Status::unavailable("Socket closed")
}

/// Returns an error of a Palaver server.
pub fn refusal(code: Code, reason: &str) -> Status {
    Status::with_error_details(code, "refused", ErrorDetails::with_error_info(reason, "palaver.v1", []))
}

/// Returns the error of a server that shuts down.
pub fn shutting_down(retry_delay: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info("SHUTTING_DOWN", "palaver.v1", []);
    details.set_retry_info(Some(retry_delay));
    Status::with_error_details(Code::Unavailable, "refused", details)
}
