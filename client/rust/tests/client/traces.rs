//! OpenTelemetry's instrumentation as a layer of the client.

use std::collections::HashSet;

use opentelemetry::trace::{TraceContextExt as _, TraceId, TracerProvider as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use palaver::v1::CancelTurnResponse;
use palaver::{CancelTurnRequest, Client, PostUserQueryRequest};
use tonic_tracing_opentelemetry::middleware::client::OtelGrpcLayer;
use tracing::subscriber::DefaultGuard;
use tracing::{Instrument as _, Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::support::{ScriptedServer, Step, broken, read, replies};

/// Traces the spans of this thread until the guard is dropped.
fn traced() -> DefaultGuard {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let tracer = SdkTracerProvider::builder().build().tracer("test");
    let layer = tracing_opentelemetry::layer().with_tracer(tracer);
    tracing::subscriber::set_default(tracing_subscriber::registry().with(layer))
}

async fn server() -> ScriptedServer {
    let server = ScriptedServer::start().await;
    server.script("CancelTurn", [vec![CancelTurnResponse::default().into()]]);
    server.script(
        "PostUserQueryUnary",
        [vec![Step::Fail(broken())], vec![replies::unary().into()]],
    );
    let turn = replies::turn(&["Hi ", "there"]).into_iter().map(Step::from).collect();
    let cut = vec![
        replies::started().into(),
        replies::delta("Hi").into(),
        Step::Fail(broken()),
    ];
    server.script("PostUserQuery", [cut, turn]);
    server
}

fn client(server: &ScriptedServer) -> Client {
    let builder = Client::builder().target(&server.target).token("s3cret");
    builder.layer(OtelGrpcLayer).build().unwrap()
}

fn query() -> PostUserQueryRequest {
    PostUserQueryRequest {
        id: "support".into(),
        user_message: "Hello!".into(),
        ..Default::default()
    }
}

fn trace_id(span: &Span) -> String {
    let id = span.context().span().span_context().trace_id();
    assert_ne!(id, TraceId::INVALID);
    id.to_string()
}

/// Returns the ids of the trace and of the span that the server got with each call.
fn parents(server: &ScriptedServer) -> Vec<(String, String)> {
    let parent = |metadata: &tonic::metadata::MetadataMap| {
        let header = metadata.get("traceparent").expect("the call has no traceparent");
        let mut parts = header.to_str().unwrap().split('-').skip(1).map(str::to_owned);
        (parts.next().unwrap(), parts.next().unwrap())
    };
    server.calls().iter().map(|call| parent(&call.metadata)).collect()
}

#[tokio::test]
async fn calls_and_turns_that_are_posted_again_belong_to_the_trace_of_the_caller() {
    let _guard = traced();
    let server = server().await;
    let client = client(&server);
    let caller = info_span!("caller");
    async {
        client.cancel_turn(CancelTurnRequest::default()).await.unwrap();
        client.post_user_query_unary(query()).await.unwrap();
        assert_eq!(read(client.post_user_query(query())).await.1, None);
    }
    .instrument(caller.clone())
    .await;
    let (traces, spans): (Vec<_>, HashSet<_>) = parents(&server).into_iter().unzip();
    assert_eq!(traces, vec![trace_id(&caller); 5]);
    assert_eq!(spans.len(), 5, "each call has a span of its own");
    assert!(
        server
            .calls()
            .iter()
            .all(|call| call.metadata.contains_key("authorization"))
    );
}

#[tokio::test]
async fn a_reply_belongs_to_the_trace_in_which_it_was_created() {
    let _guard = traced();
    let server = server().await;
    let client = client(&server);
    let caller = info_span!("caller");
    let reply = caller.in_scope(|| client.post_user_query(query()));
    assert_eq!(read(reply).instrument(info_span!("reader")).await.1, None);
    let traces: Vec<_> = parents(&server).into_iter().map(|(trace, _)| trace).collect();
    assert_eq!(traces, vec![trace_id(&caller); 2]);
}
