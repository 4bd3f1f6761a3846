//! The runner of the conformance suite: makes the calls that it is told on standard input, and writes what it sees.
//!
//! The protocol is described in `tests/conformance/README.md`.

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;

use futures_util::{Stream, TryStreamExt as _};
use palaver::{BuildError, Client, Code, Error};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::AbortHandle;

const PACKAGE: &str = "palaver.v1";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = include_bytes!(concat!(env!("OUT_DIR"), "/contract.binpb"));
    let json = Json(DescriptorPool::decode(descriptors.as_slice())?);
    let mut client = None;
    let mut calls: HashMap<String, AbortHandle> = HashMap::new();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let command: Value = serde_json::from_str(&line)?;
        if let Some(options) = command.get("client") {
            for (_, call) in calls.drain() {
                call.abort();
            }
            client = new_client(options).inspect_err(|error| eprintln!("{error}")).ok();
            say(&json!({"client": if client.is_some() { "ready" } else { "refused" }}));
        } else if let Some(id) = command["cancel"].as_str() {
            calls[id].abort();
        } else {
            let id = text(&command["id"]);
            let call = tokio::spawn(make(client.clone().ok_or("no client")?, json.clone(), command));
            calls.insert(id.clone(), call.abort_handle());
            tokio::spawn(async move {
                match call.await {
                    Ok(Ok(response)) => say(&json!({"id": id, "response": response})),
                    Ok(Err(error)) => say(&json!({"id": id, "error": described(&error)})),
                    Err(end) if end.is_cancelled() => say(&json!({"id": id, "error": left()})),
                    Err(panic) => std::panic::resume_unwind(panic.into_panic()),
                }
            });
        }
    }
    Ok(())
}

fn new_client(options: &Value) -> Result<Client, BuildError> {
    let mut builder = Client::builder().target(text(&options["target"]));
    if let Some(path) = options["tls"].as_str() {
        builder = builder.tls_with_ca_file(path)?;
    }
    if let Some(token) = options["token"].as_str() {
        builder = builder.token(token);
    }
    if let Some(timeout) = seconds(&options["timeout"]) {
        builder = builder.timeout(timeout);
    }
    if let Some(timeout) = seconds(&options["reconnect_timeout"]) {
        builder = builder.reconnect_timeout(timeout);
    }
    builder.build()
}

/// Makes a call, and returns what it ends with.
async fn make(mut client: Client, json: Json, command: Value) -> Result<Value, Error> {
    let Value::String(id) = &command["id"] else {
        panic!("no id")
    };
    let request = &command["request"];
    if let Some(timeout) = seconds(&command["timeout"]) {
        client = client.with_timeout(timeout);
    }
    match command["call"].as_str().expect("a call") {
        "CreateAssistant" => {
            let response = client
                .create_assistant(json.read("CreateAssistantRequest", request))
                .await?;
            Ok(json.write("CreateAssistantResponse", &response))
        }
        "GetAssistant" => {
            let assistant = client.get_assistant(json.read("GetAssistantRequest", request)).await?;
            Ok(json!({"assistant": json.write("Assistant", &assistant)}))
        }
        "ListMessages" => {
            let messages = client.list_messages(json.read("ListMessagesRequest", request));
            let written = messages.map_ok(|message| json!({"id": id, "message": json.write("Message", &message)}));
            say_all(written).await
        }
        "DeleteAssistant" => {
            client
                .delete_assistant(json.read("DeleteAssistantRequest", request))
                .await?;
            Ok(json!({}))
        }
        "PostUserQuery" => {
            let reply = client.post_user_query(json.read("PostUserQueryRequest", request));
            say(&json!({"id": id, "request_id": reply.request_id()}));
            let written = reply.map_ok(|event| {
                let response = palaver::v1::PostUserQueryResponse {
                    event: Some(event),
                    ..Default::default()
                };
                json!({"id": id, "event": json.write("PostUserQueryResponse", &response)})
            });
            say_all(written).await
        }
        "PostUserQueryText" => {
            let reply = client.post_user_query(json.read("PostUserQueryRequest", request));
            say(&json!({"id": id, "request_id": reply.request_id()}));
            say_all(reply.text().map_ok(|text| json!({"id": id, "text": text}))).await
        }
        "PostUserQueryUnary" => {
            let completed = client
                .post_user_query_unary(json.read("PostUserQueryRequest", request))
                .await?;
            Ok(json!({"completed": json.write("TurnCompleted", &completed)}))
        }
        "CancelTurn" => {
            client.cancel_turn(json.read("CancelTurnRequest", request)).await?;
            Ok(json!({}))
        }
        other => panic!("there is no call {other}"),
    }
}

/// Writes the items of a stream as they come.
async fn say_all(items: impl Stream<Item = Result<Value, Error>>) -> Result<Value, Error> {
    let said = items.try_for_each(|item| async move {
        say(&item);
        Ok(())
    });
    said.await.map(|()| json!({}))
}

/// Protobuf's JSON mapping, which prost does not have.
#[derive(Clone)]
struct Json(DescriptorPool);

impl Json {
    fn read<M: Message + Default>(&self, name: &str, value: &Value) -> M {
        let message = DynamicMessage::deserialize(self.descriptor(name), value);
        let message = message.unwrap_or_else(|error| panic!("not a {name}: {error}"));
        message.transcode_to().expect("a message of the contract")
    }

    fn write<M: Message + Debug>(&self, name: &str, message: &M) -> Value {
        let message = DynamicMessage::decode(self.descriptor(name), message.encode_to_vec().as_slice());
        let options = SerializeOptions::new().use_proto_field_name(true);
        let value = message.expect("a message of the contract");
        value
            .serialize_with_options(serde_json::value::Serializer, &options)
            .expect("JSON")
    }

    fn descriptor(&self, name: &str) -> prost_reflect::MessageDescriptor {
        self.0
            .get_message_by_name(&format!("{PACKAGE}.{name}"))
            .expect("a message of the contract")
    }
}

fn described(error: &Error) -> Value {
    let violations = error.field_violations().iter();
    json!({
        "status": status(error.code()),
        "reason": error.reason(),
        "message": error.message(),
        "field_violations": violations
            .map(|violation| json!({"field": violation.field, "description": violation.description}))
            .collect::<Vec<_>>(),
        "retry_delay": error.retry_delay().as_ref().map(Duration::as_secs_f64),
    })
}

/// The end of a call that was left: dropped futures and streams end without a word.
fn left() -> Value {
    json!({
        "status": "CANCELLED", "reason": "", "message": "left", "field_violations": [], "retry_delay": null,
    })
}

/// The contract's spelling of a code: `NOT_FOUND` for `NotFound`.
fn status(code: Code) -> String {
    let mut status = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !status.is_empty() {
            status.push('_');
        }
        status.push(letter.to_ascii_uppercase());
    }
    status
}

fn seconds(value: &Value) -> Option<Duration> {
    value.as_f64().map(Duration::from_secs_f64)
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// Writes a line; standard output is flushed at its end.
fn say(line: &Value) {
    println!("{line}");
}
