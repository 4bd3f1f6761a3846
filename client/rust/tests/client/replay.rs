//! Which events are delivered if a turn is posted several times.

use std::sync::OnceLock;
use std::time::Duration;

use palaver::v1::PostUserQueryResponse;
use palaver::{Client, Event, PostUserQueryRequest};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde::Deserialize;
use serde_json::Value;
use tonic::Status;

use crate::support::vectors::{self, Failure};
use crate::support::{ScriptedServer, Step, read};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    posts: Vec<Post>,
    delivered: Vec<Value>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Post {
    events: Vec<Value>,
    status: Option<String>,
    #[serde(default)]
    reason: String,
}

impl Post {
    fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<_> = self.events.iter().map(|event| response(event).into()).collect();
        if let Some(status) = &self.status {
            let failure = Failure {
                status: status.clone(),
                reason: self.reason.clone(),
                message: String::new(),
                retry_delay_ms: None,
            };
            steps.push(Step::Fail(failure.status()));
        }
        steps
    }
}

/// Reads a response from ProtoJSON, which prost lacks.
fn response(json: &Value) -> PostUserQueryResponse {
    static DESCRIPTOR: OnceLock<MessageDescriptor> = OnceLock::new();
    let descriptor = DESCRIPTOR.get_or_init(|| {
        let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../../protos");
        let files = protox::compile(["palaver/v1/assistant_service.proto"], [protos]).unwrap();
        let pool = DescriptorPool::from_file_descriptor_set(files).unwrap();
        pool.get_message_by_name("palaver.v1.PostUserQueryResponse").unwrap()
    });
    let message = DynamicMessage::deserialize(descriptor.clone(), json).unwrap();
    message.transcode_to().unwrap()
}

async fn check(vector: Vector) {
    let server = ScriptedServer::start().await;
    // If the client does not stop posting, the last answer, which is not a break, ends the reply.
    let too_many = vec![Step::Fail(Status::failed_precondition("there is one post too many"))];
    server.script("PostUserQuery", vector.posts.iter().map(Post::steps).chain([too_many]));
    let builder = Client::builder()
        .target(&server.target)
        .reconnect_timeout(Duration::from_secs(600));
    let reply = builder
        .build()
        .unwrap()
        .post_user_query(PostUserQueryRequest::default());
    let (delivered, error) = read(reply).await;
    let expected: Vec<Event> = vector
        .delivered
        .iter()
        .filter_map(|event| response(event).event)
        .collect();
    assert_eq!(delivered, expected, "{}", vector.name);
    assert_eq!(
        error.map(|error| (error.code(), error.reason().to_owned())),
        vector.error.map(|error| (error.code(), error.reason)),
        "{}",
        vector.name
    );
    assert_eq!(server.calls().len(), vector.posts.len(), "{}", vector.name);
}

#[tokio::test]
async fn each_event_is_delivered_once() {
    let vectors = vectors::read::<Vec<Vector>>(vectors::REPLAY);
    futures_util::future::join_all(vectors.into_iter().map(check)).await;
}
