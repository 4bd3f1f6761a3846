//! The connection: target, TLS, token and keepalive.

use std::convert::Infallible;
use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use palaver::v1::{CancelTurnResponse, GetAssistantResponse, ListMessagesResponse};
use palaver::{
    BuildError, CancelTurnRequest, Client, Code, CreateAssistantRequest, Event, GetAssistantRequest,
    ListMessagesRequest, Message, PostUserQueryRequest,
};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde::Deserialize;
use tonic::service::interceptor::InterceptorLayer;

use crate::support::{Proxy, ScriptedServer, Step, read, replies, soon, vectors};

async fn cancel(client: &Client) -> Result<(), palaver::Error> {
    soon(client.cancel_turn(CancelTurnRequest::default())).await
}

async fn answering() -> ScriptedServer {
    let server = ScriptedServer::start().await;
    server.script("CancelTurn", [vec![CancelTurnResponse {}.into()]]);
    server
}

#[tokio::test]
async fn clones_share_a_connection_that_is_reopened_when_it_breaks() {
    let server = answering().await;
    let proxy = Proxy::start(&server.target).await;
    let client = Client::new(&proxy.target).unwrap();
    assert_eq!(proxy.opened(), 0);
    cancel(&client).await.unwrap();
    cancel(&client.clone()).await.unwrap();
    cancel(&client.with_timeout(Duration::from_secs(60))).await.unwrap();
    assert_eq!(proxy.opened(), 1);
    proxy.cut();
    while let Err(error) = cancel(&client).await {
        assert_eq!(error.code(), Code::Unavailable, "{error}"); // the call was made on the old connection
    }
    assert_eq!(proxy.opened(), 2);
}

#[tokio::test]
async fn every_call_goes_through_the_layer() {
    let server = answering().await;
    let layer = InterceptorLayer::new(|mut request: tonic::Request<()>| {
        request.metadata_mut().insert("x-tenant", "a".parse().unwrap());
        Ok(request)
    });
    let client = Client::builder().target(&server.target).layer(layer).build().unwrap();
    cancel(&client).await.unwrap();
    assert_eq!(server.call(1).await.metadata.get("x-tenant").unwrap(), "a");
}

#[tokio::test]
async fn the_connection_is_closed_with_the_last_client() {
    let server = answering().await;
    let proxy = Proxy::start(&server.target).await;
    let client = Client::new(&proxy.target).unwrap();
    cancel(&client).await.unwrap();
    drop(client);
    proxy.closed().await;
}

#[tokio::test]
async fn a_missing_server_is_unavailable() {
    let target = answering().await.target.clone(); // the server is dropped here
    let error = cancel(&Client::new(target).unwrap()).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, ""));
    assert!(error.message().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_client_connects_to_a_server_that_starts_later() {
    let target = answering().await.target.clone();
    let client = Client::new(&target).unwrap();
    cancel(&client).await.unwrap_err();
    let server = loop {
        // The port may still be in use.
        match tokio::net::TcpListener::bind(&target).await {
            Ok(listener) => {
                drop(listener);
                break ScriptedServer::start_at(&target).await;
            }
            Err(_) => tokio::task::yield_now().await,
        }
    };
    server.script("CancelTurn", [vec![CancelTurnResponse {}.into()]]);
    cancel(&client).await.unwrap();
}

#[tokio::test]
async fn a_target_may_be_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let server = ScriptedServer::start_at_socket(&folder.path().join("socket"));
    server.script("CancelTurn", [vec![CancelTurnResponse {}.into()]]);
    let client = Client::builder()
        .target(&server.target)
        .token("secret")
        .build()
        .unwrap();
    cancel(&client).await.unwrap();
    assert_eq!(
        server.call(1).await.metadata.get("authorization").unwrap(),
        "Bearer secret"
    );
}

#[tokio::test]
async fn the_user_agent_names_the_client() {
    let server = answering().await;
    cancel(&Client::new(&server.target).unwrap()).await.unwrap();
    let call = server.call(1).await;
    let agent = call.metadata.get("user-agent").unwrap().to_str().unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(agent.starts_with(&format!("palaver-rust/{version} ")), "{agent}");
    assert!(call.metadata.get("authorization").is_none());
}

#[tokio::test]
async fn responses_may_exceed_the_default_limit_of_grpc() {
    let server = ScriptedServer::start().await;
    let megabytes = |count: usize| {
        let content = "x".repeat(count * 1024 * 1024);
        let messages = vec![Message {
            content,
            ..Default::default()
        }];
        vec![
            ListMessagesResponse {
                messages,
                ..Default::default()
            }
            .into(),
        ]
    };
    server.script("ListMessages", [megabytes(7), megabytes(8)]);
    let client = Client::new(&server.target).unwrap();
    let (messages, error) = read(client.list_messages(ListMessagesRequest::default())).await;
    assert_eq!((messages[0].content.len(), error), (7 * 1024 * 1024, None));
    let (_, error) = read(client.list_messages(ListMessagesRequest::default())).await;
    assert!(error.is_some());
}

// The clock of the runtime is paused, and advances whenever all tasks wait.
#[tokio::test]
async fn pings_detect_a_silent_server() {
    let server = ScriptedServer::start().await;
    server.script("PostUserQuery", [vec![replies::started().into(), Step::Hang]]);
    let proxy = Proxy::start(&server.target).await;
    let builder = Client::builder()
        .target(&proxy.target)
        .reconnect_timeout(Duration::ZERO);
    let mut reply = builder
        .build()
        .unwrap()
        .post_user_query(PostUserQueryRequest::default());
    assert!(matches!(soon(reply.next()).await, Some(Ok(Event::Started(_)))));
    proxy.freeze();
    tokio::time::pause();
    let begin = tokio::time::Instant::now();
    let event = tokio::time::timeout(Duration::from_secs(1000), reply.next()).await;
    let error = event.expect("a silent server is not detected").unwrap().unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, ""));
    assert_eq!(begin.elapsed().as_secs(), 40, "30 s of silence and 10 s for the ping");
}

// Tokens.

#[tokio::test]
async fn every_call_sends_the_token() {
    let server = answering().await;
    server.script(
        "PostUserQuery",
        [replies::turn(&[]).into_iter().map(Step::from).collect()],
    );
    server.script("PostUserQueryUnary", [vec![replies::unary().into()]]);
    server.script("ListMessages", [vec![ListMessagesResponse::default().into()]]);
    server.script("CreateAssistant", [vec![replies::created().into()]]);
    let got = GetAssistantResponse {
        assistant: Some(replies::assistant()),
    };
    server.script("GetAssistant", [vec![got.into()]]);
    let client = Client::builder()
        .target(&server.target)
        .token("secret")
        .build()
        .unwrap();
    cancel(&client).await.unwrap();
    read(client.post_user_query(PostUserQueryRequest::default())).await;
    client
        .post_user_query_unary(PostUserQueryRequest::default())
        .await
        .unwrap();
    read(client.list_messages(ListMessagesRequest::default())).await;
    client
        .create_assistant(CreateAssistantRequest::default())
        .await
        .unwrap();
    client.get_assistant(GetAssistantRequest::default()).await.unwrap();
    let calls = server.calls();
    assert_eq!(calls.len(), 6);
    for call in calls {
        assert_eq!(
            call.metadata.get("authorization").unwrap(),
            "Bearer secret",
            "{}",
            call.method
        );
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LocalTarget {
    name: String,
    target: String,
    local: bool,
    #[serde(default)]
    unsupported_in: Vec<String>,
}

#[tokio::test]
async fn a_token_does_not_leave_this_machine_in_the_clear() {
    let mut wrong = Vec::new();
    for vector in vectors::read::<Vec<LocalTarget>>(vectors::LOCAL_TARGETS) {
        let client = Client::builder().target(&vector.target).token("secret").build();
        let is_accepted = vector.local && !vector.unsupported_in.contains(&"rust".to_owned());
        if client.is_ok() != is_accepted {
            wrong.push((vector.name, vector.target));
        }
    }
    assert_eq!(wrong, []);
    let target = "palaver.example.com:443";
    let error = Client::builder().target(target).token("secret").build().unwrap_err();
    assert!(matches!(&error, BuildError::TokenInTheClear(to) if to == target));
    assert!(!error.to_string().contains("secret"));
    let with_tls = Client::builder()
        .target("palaver.example.com:443")
        .token("secret")
        .tls_with_ca_pem(authority());
    assert!(with_tls.build().is_ok());
}

#[tokio::test]
async fn invalid_tokens_are_rejected_and_none_is_printed() {
    for token in ["", " a", "a ", "a\nb", "ü", "\u{7f}", " "] {
        let error = Client::builder().token(token).build().unwrap_err();
        assert!(matches!(error, BuildError::InvalidToken), "{token:?}");
    }
    assert!(Client::builder().token("two words").build().is_ok());
    let builder = Client::builder().token("secret");
    assert!(!format!("{builder:?}{:?}", Client::builder().token("secret").build()).contains("secret"));
}

/// Returns a function that returns "t-1", "t-2" and so on.
fn counted() -> impl Fn() -> std::future::Ready<Result<String, Infallible>> + Send + Sync + 'static {
    let count = AtomicUsize::new(0);
    move || std::future::ready(Ok(format!("t-{}", count.fetch_add(1, Ordering::SeqCst) + 1)))
}

#[tokio::test]
async fn the_token_function_is_called_before_every_call() {
    let (secure, target, pem) = tls_server().await;
    let plain = answering().await;
    let over_tls = Client::builder().target(target).tls_with_ca_pem(pem);
    let in_the_clear = Client::builder().target(&plain.target);
    for (server, builder) in [(&secure, over_tls), (&plain, in_the_clear)] {
        let client = builder.token_function(counted()).build().unwrap();
        for number in 1..=2 {
            cancel(&client).await.unwrap();
            let call = server.call(number).await;
            assert_eq!(
                call.metadata.get("authorization").unwrap(),
                &format!("Bearer t-{number}")
            );
        }
    }
}

#[tokio::test]
async fn the_error_of_the_token_function_reaches_the_caller() {
    let server = answering().await;
    let locked = || async { Err::<String, _>(std::io::Error::other("the vault is locked")) };
    let client = Client::builder()
        .target(&server.target)
        .token_function(locked)
        .build()
        .unwrap();
    let (events, error) = read(client.post_user_query(PostUserQueryRequest::default())).await;
    assert_eq!(events, []);
    for error in [cancel(&client).await.unwrap_err(), error.unwrap()] {
        assert_eq!((error.code(), error.reason()), (Code::Unauthenticated, ""));
        assert_eq!(error.message(), "the token function failed: the vault is locked");
        assert!(error.source().unwrap().is::<std::io::Error>());
    }
    let invalid = || async { Ok::<_, Infallible>("two\nlines".to_owned()) };
    let client = Client::builder()
        .target(&server.target)
        .token_function(invalid)
        .build()
        .unwrap();
    let error = cancel(&client).await.unwrap_err();
    assert!(error.message().contains("visible ASCII"), "{error}");
    assert_eq!(server.calls().len(), 0);
}

#[tokio::test]
async fn waiting_for_a_token_counts_towards_the_timeout() {
    let server = answering().await;
    let client = Client::builder()
        .target(&server.target)
        .token_function(std::future::pending::<Result<String, Infallible>>)
        .timeout(Duration::from_millis(50))
        .build()
        .unwrap();
    assert_eq!(cancel(&client).await.unwrap_err().code(), Code::DeadlineExceeded);
    let (_, error) = read(client.post_user_query(PostUserQueryRequest::default())).await;
    assert_eq!(error.unwrap().code(), Code::DeadlineExceeded);
    assert_eq!(server.calls().len(), 0);
}

#[test]
fn a_token_function_for_another_machine_needs_tls() {
    let builder = Client::builder()
        .target("palaver.example:443")
        .token_function(counted());
    assert!(matches!(builder.build(), Err(BuildError::TokenInTheClear(_))));
}

// TLS.

#[tokio::test]
async fn a_server_may_require_a_certificate() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".into()]).unwrap();
    let (pem, key) = (cert.pem(), signing_key.serialize_pem());
    let server = ScriptedServer::start_with_mutual_tls(&pem, &key).await;
    server.script("CancelTurn", [vec![CancelTurnResponse {}.into()]]);
    let builder = || {
        Client::builder()
            .target(server.target.replace("127.0.0.1", "localhost"))
            .tls_with_ca_pem(pem.clone())
    };
    let error = cancel(&builder().build().unwrap()).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, ""));
    assert_eq!(server.calls().len(), 0);
    let folder = tempfile::tempdir().unwrap();
    let files = [("chain.pem", &pem), ("key.pem", &key)].map(|(name, content)| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    });
    let from_files = builder().client_certificate_files(&files[0], &files[1]).unwrap();
    let from_memory = builder().client_certificate_pem(pem.clone(), key.clone());
    for builder in [from_files, from_memory] {
        cancel(&builder.build().unwrap()).await.unwrap();
    }
    assert_eq!(server.calls().len(), 2);
}

#[tokio::test]
async fn a_client_certificate_requires_tls_and_its_key() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".into()]).unwrap();
    let other = generate_simple_self_signed(["localhost".into()]).unwrap().signing_key;
    let (pem, key) = (cert.pem(), signing_key.serialize_pem());
    let missing = Client::builder()
        .client_certificate_files("no/such.pem", "no/such.key")
        .unwrap_err();
    assert!(missing.source().unwrap().to_string().contains("no/such.pem"));
    for builder in [
        Client::builder().client_certificate_pem(pem.clone(), key),
        Client::builder()
            .tls()
            .client_certificate_pem(pem.clone(), other.serialize_pem()),
        Client::builder().tls().client_certificate_pem(pem.clone(), pem),
    ] {
        assert!(matches!(builder.build(), Err(BuildError::Tls(_))));
    }
}

fn authority() -> String {
    generate_simple_self_signed(["localhost".into()]).unwrap().cert.pem()
}

async fn tls_server() -> (ScriptedServer, String, String) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".into()]).unwrap();
    let server = ScriptedServer::start_with_tls(&cert.pem(), &signing_key.serialize_pem()).await;
    server.script("CancelTurn", [vec![CancelTurnResponse {}.into()]]);
    let target = server.target.replace("127.0.0.1", "localhost");
    (server, target, cert.pem())
}

#[tokio::test]
async fn tls_trusts_the_authorities_of_a_file() {
    let (server, target, pem) = tls_server().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("authorities.pem");
    std::fs::write(&path, pem).unwrap();
    let builder = Client::builder()
        .target(target)
        .token("secret")
        .tls_with_ca_file(path)
        .unwrap();
    cancel(&builder.build().unwrap()).await.unwrap();
    assert_eq!(
        server.call(1).await.metadata.get("authorization").unwrap(),
        "Bearer secret"
    );
}

#[tokio::test]
async fn a_server_with_an_untrusted_certificate_is_unavailable() {
    let (server, target, _) = tls_server().await;
    let client = Client::builder()
        .target(target)
        .tls_with_ca_pem(authority())
        .build()
        .unwrap();
    let error = cancel(&client).await.unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, ""));
    assert!(error.message().contains("certificate"), "{error}");
    assert_eq!(server.calls().len(), 0);
}

#[tokio::test]
async fn invalid_certificate_authorities_are_rejected() {
    let missing = Client::builder().tls_with_ca_file("no/such.pem").unwrap_err();
    assert!(missing.source().unwrap().to_string().contains("no/such.pem"));
    for pem in [
        "",
        "not a certificate",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    ] {
        let error = Client::builder().tls_with_ca_pem(pem).build().unwrap_err();
        assert!(matches!(error, BuildError::Tls(_)), "{pem}");
    }
}
