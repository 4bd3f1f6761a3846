//! The runner of the conformance suite: makes the calls that it reads from standard input, and reports what it sees.
//!
//! `tests/conformance/README.md` describes the protocol.

use std::collections::HashMap;
use std::fmt::Debug;
use std::future::{Ready, ready};
use std::sync::Mutex;
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
            report(&json!({"client": if client.is_some() { "ready" } else { "refused" }}));
        } else if let Some(id) = command["cancel"].as_str() {
            calls[id].abort();
        } else {
            let id = text(&command["id"]);
            let call = tokio::spawn(make(client.clone().ok_or("no client")?, json.clone(), command));
            calls.insert(id.clone(), call.abort_handle());
            tokio::spawn(async move {
                match call.await {
                    Ok(Ok(response)) => report(&json!({"id": id, "response": response})),
                    Ok(Err(error)) => report(&json!({"id": id, "error": error_fields(&error)})),
                    Err(end) if end.is_cancelled() => report(&json!({"id": id, "error": cancelled()})),
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
    if let Some(path) = options["certificate"].as_str() {
        builder = builder.client_certificate_files(path, options["key"].as_str().expect("a key"))?;
    }
    if let Some(tokens) = options["tokens"].as_array() {
        builder = builder.token_function(token_function(tokens));
    }
    if let Some(timeout) = seconds(&options["timeout"]) {
        builder = builder.timeout(timeout);
    }
    if let Some(timeout) = seconds(&options["reconnect_timeout"]) {
        builder = builder.reconnect_timeout(timeout);
    }
    builder.build()
}

/// Returns a function that returns the tokens one after another, and then fails.
fn token_function(tokens: &[Value]) -> impl Fn() -> Ready<Result<String, &'static str>> + Send + Sync + 'static {
    let tokens: Vec<_> = tokens.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let left = Mutex::new(tokens.into_iter());
    move || ready(left.lock().expect("no panic").next().ok_or("no token left"))
}

/// Makes a call and returns its response.
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
            report_all(written).await
        }
        "DeleteAssistant" => {
            client
                .delete_assistant(json.read("DeleteAssistantRequest", request))
                .await?;
            Ok(json!({}))
        }
        "PostUserQuery" => {
            let reply = client.post_user_query(json.read("PostUserQueryRequest", request));
            report(&json!({"id": id, "request_id": reply.request_id()}));
            let written = reply.map_ok(|event| {
                let response = palaver::v1::PostUserQueryResponse {
                    event: Some(event),
                    ..Default::default()
                };
                json!({"id": id, "event": json.write("PostUserQueryResponse", &response)})
            });
            report_all(written).await
        }
        "PostUserQueryText" => {
            let reply = client.post_user_query(json.read("PostUserQueryRequest", request));
            report(&json!({"id": id, "request_id": reply.request_id()}));
            report_all(reply.text().map_ok(|text| json!({"id": id, "text": text}))).await
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
        other => panic!("unknown call {other}"),
    }
}

/// Reports the items of a stream as they arrive.
async fn report_all(items: impl Stream<Item = Result<Value, Error>>) -> Result<Value, Error> {
    let reporting = items.try_for_each(|item| async move {
        report(&item);
        Ok(())
    });
    reporting.await.map(|()| json!({}))
}

/// Protobuf's JSON mapping, which prost lacks.
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

fn error_fields(error: &Error) -> Value {
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

/// The error of a cancelled call. A dropped future or stream reports none itself.
fn cancelled() -> Value {
    json!({
        "status": "CANCELLED", "reason": "", "message": "the call was cancelled", "field_violations": [], "retry_delay": null,
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
fn report(line: &Value) {
    println!("{line}");
}
