//! A reply whose connection breaks. `replay.rs` tests which events are delivered then.

use std::time::Duration;

use futures_util::StreamExt as _;
use h2::Reason;
use http::StatusCode;
use palaver::v1::PostUserQueryResponse;
use palaver::{Client, Code, OnDisconnect, PostUserQueryRequest};
use tonic::Status;

use crate::support::{
    Ending, Http2Server, Proxy, Response, ScriptedServer, Step, broken, read, refusal, replies, shown, shutting_down,
    soon,
};

const LONG: Duration = Duration::from_secs(1000);

fn query() -> PostUserQueryRequest {
    PostUserQueryRequest {
        id: "support".into(),
        user_message: "Hello!".into(),
        ..Default::default()
    }
}

fn steps(responses: Vec<PostUserQueryResponse>) -> Vec<Step> {
    responses.into_iter().map(Step::from).collect()
}

/// Returns a post that breaks after these responses.
fn breaking(responses: Vec<PostUserQueryResponse>) -> Vec<Step> {
    [steps(responses), vec![Step::Fail(broken())]].concat()
}

fn patient(target: &str) -> Client {
    Client::builder()
        .target(target)
        .reconnect_timeout(2 * LONG)
        .build()
        .unwrap()
}

#[tokio::test]
async fn the_turn_is_posted_again_and_the_reply_continues() {
    for end in [
        broken(),
        shutting_down(Duration::ZERO),
        Status::internal("Received RST_STREAM with code 2"),
    ] {
        let server = ScriptedServer::start().await;
        let until_end = |responses| [steps(responses), vec![Step::Fail(end.clone())]].concat();
        server.script(
            "PostUserQuery",
            [
                until_end(vec![replies::started(), replies::delta("Hel")]),
                until_end(vec![]),
                until_end(vec![replies::started(), replies::delta("He")]),
                until_end(vec![replies::started(), replies::delta("Hello, ")]),
                steps(replies::turn(&["Hello, wor", "ld"])),
            ],
        );
        let request = PostUserQueryRequest {
            temperature: Some(0.0),
            ..query()
        };
        let reply = Client::new(&server.target).unwrap().post_user_query(request.clone());
        let request = PostUserQueryRequest {
            request_id: reply.request_id().to_owned(),
            ..request
        };
        let (events, error) = read(reply).await;
        assert_eq!(error, None);
        assert_eq!(shown(&events), ["started", "Hel", "lo, ", "wor", "ld", "completed"]);
        assert_eq!(server.requests::<PostUserQueryRequest>(), vec![request; 5]);
    }
}

#[tokio::test]
async fn a_lost_connection_is_a_break() {
    let server = ScriptedServer::start().await;
    server.script(
        "PostUserQuery",
        [
            vec![replies::started().into(), replies::delta("Hel").into(), Step::Hang],
            steps(replies::turn(&["Hello"])),
        ],
    );
    let proxy = Proxy::start(&server.target).await;
    let mut text = Client::new(&proxy.target).unwrap().post_user_query(query()).text();
    assert_eq!(soon(text.next()).await.unwrap().unwrap(), "Hel");
    proxy.cut();
    assert_eq!(read(text).await, (vec!["lo".to_owned()], None));
}

#[tokio::test]
async fn a_lost_connection_is_unavailable_without_retries() {
    let server = ScriptedServer::start().await;
    server.script("PostUserQuery", [vec![replies::started().into(), Step::Hang]]);
    server.script("PostUserQueryUnary", [vec![Step::Hang]]);
    let proxy = Proxy::start(&server.target).await;
    let client = Client::builder()
        .target(&proxy.target)
        .reconnect_timeout(Duration::ZERO)
        .build()
        .unwrap();
    let mut reply = client.post_user_query(query());
    soon(reply.next()).await;
    proxy.cut();
    let error = soon(reply.next()).await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, ""), "{error}");
    let unary = tokio::spawn(async move { client.post_user_query_unary(query()).await });
    server.call(2).await;
    proxy.cut();
    let error = soon(unary).await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, ""), "{error}");
}

#[tokio::test]
async fn a_reset_stream_is_a_break() {
    let reset = |reason, text| Response::new([replies::started(), replies::delta(text)], Ending::Reset(reason));
    let go_away = |reason| Response::new([replies::started()], Ending::GoAway(reason));
    let unavailable = || Ending::Trailers(vec![("grpc-status", "14")]);
    let server = Http2Server::start([
        reset(Reason::INTERNAL_ERROR, "H"),
        reset(Reason::CANCEL, "He"),
        reset(Reason::REFUSED_STREAM, "Hel"),
        reset(Reason::NO_ERROR, "Hell"),
        reset(Reason::ENHANCE_YOUR_CALM, "Hello"),
        go_away(Reason::INTERNAL_ERROR),
        Response::of_gateway(StatusCode::BAD_GATEWAY),
        Response::of_gateway(StatusCode::SERVICE_UNAVAILABLE),
        Response::new([replies::started()], unavailable()),
        Response::new(replies::turn(&["Hello"]), Ending::Trailers(vec![("grpc-status", "0")])),
    ])
    .await;
    let client = patient(&server.target);
    let (text, error) = read(client.post_user_query(query()).text()).await;
    assert_eq!((text.concat(), error), ("Hello".to_owned(), None));
    assert_eq!(server.left(), 0);
}

#[tokio::test]
async fn a_reset_stream_has_the_status_of_the_grpc_specification_without_retries() {
    for (reason, code) in [
        (Reason::INTERNAL_ERROR, Code::Internal),
        (Reason::CANCEL, Code::Cancelled),
        (Reason::REFUSED_STREAM, Code::Unavailable),
        (Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
        (Reason::INADEQUATE_SECURITY, Code::PermissionDenied),
    ] {
        let server = Http2Server::start([Response::new([replies::started()], Ending::Reset(reason))]).await;
        let builder = Client::builder()
            .target(&server.target)
            .reconnect_timeout(Duration::ZERO);
        let (_, error) = read(builder.build().unwrap().post_user_query(query())).await;
        assert_eq!(error.unwrap().code(), code, "{reason}");
    }
}

#[tokio::test]
async fn a_stream_without_a_status_is_unknown() {
    let server = Http2Server::start([Response::new([replies::started()], Ending::NoTrailers)]).await;
    let (_, error) = read(Client::new(&server.target).unwrap().post_user_query(query())).await;
    assert_eq!(error.unwrap().code(), Code::Unknown);
}

#[tokio::test]
async fn a_unary_turn_is_posted_again() {
    let server = ScriptedServer::start().await;
    server.script(
        "PostUserQueryUnary",
        [
            vec![Step::Fail(broken())],
            vec![Step::Fail(shutting_down(Duration::ZERO))],
            vec![replies::unary().into()],
        ],
    );
    let turn = soon(Client::new(&server.target).unwrap().post_user_query_unary(query()))
        .await
        .unwrap();
    assert_eq!(turn, replies::turn_completed());
    let requests = server.requests::<PostUserQueryRequest>();
    assert_eq!(requests, vec![requests[0].clone(); 3]);
}

#[tokio::test]
async fn each_post_has_the_same_on_disconnect() {
    let server = ScriptedServer::start().await;
    server.script(
        "PostUserQuery",
        [breaking(vec![replies::started()]), steps(replies::turn(&[]))],
    );
    let request = PostUserQueryRequest {
        on_disconnect: OnDisconnect::Continue.into(),
        ..query()
    };
    read(Client::new(&server.target).unwrap().post_user_query(request)).await;
    let values: Vec<_> = server
        .requests::<PostUserQueryRequest>()
        .iter()
        .map(PostUserQueryRequest::on_disconnect)
        .collect();
    assert_eq!(values, [OnDisconnect::Continue; 2]);
}

async fn restarting() -> ScriptedServer {
    let server = ScriptedServer::start().await;
    let different = vec![replies::started().into(), replies::delta("Two").into(), Step::Hang];
    server.script(
        "PostUserQuery",
        [breaking(vec![replies::started(), replies::delta("One")]), different],
    );
    server
}

#[tokio::test]
async fn text_is_never_mixed_from_two_replies() {
    let server = restarting().await;
    let mut text = Client::new(&server.target).unwrap().post_user_query(query()).text();
    assert_eq!(soon(text.next()).await.unwrap().unwrap(), "One");
    let error = soon(text.next()).await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, ""));
    server.call(2).await.abandoned().await;
    assert!(text.next().await.is_none());
}

#[tokio::test]
async fn text_continues_after_a_restart_that_the_caller_has_seen() {
    let server = ScriptedServer::start().await;
    let first = vec![replies::started(), replies::delta("One")];
    server.script("PostUserQuery", [breaking(first), steps(replies::turn(&["Two"]))]);
    let mut reply = Client::new(&server.target).unwrap().post_user_query(query());
    let events = [
        soon(reply.next()).await,
        soon(reply.next()).await,
        soon(reply.next()).await,
    ];
    assert_eq!(
        shown(&events.map(|event| event.unwrap().unwrap())),
        ["started", "One", "started"]
    );
    assert_eq!(read(reply.text()).await, (vec!["Two".to_owned()], None));
}

// Errors that are the caller's.

#[tokio::test]
async fn other_errors_are_not_retried() {
    for error in [
        refusal(Code::Unavailable, "MODEL_UNAVAILABLE"),
        refusal(Code::Unavailable, "STORE_UNAVAILABLE"),
        refusal(Code::Cancelled, "TURN_CANCELLED"),
        refusal(Code::Aborted, "ASSISTANT_BUSY"),
        Status::internal("of an intermediary"),
        Status::cancelled("by the server"),
        Status::unauthenticated("who are you?"),
        Status::unknown("what?"),
    ] {
        let server = ScriptedServer::start().await;
        let post = vec![
            replies::started().into(),
            replies::delta("Hi").into(),
            Step::Fail(error.clone()),
        ];
        server.script("PostUserQuery", [post]);
        server.script("PostUserQueryUnary", [vec![Step::Fail(error.clone())]]);
        let client = Client::new(&server.target).unwrap();
        let (events, streamed) = read(client.post_user_query(query())).await;
        assert_eq!(shown(&events), ["started", "Hi"]);
        let unary = soon(client.post_user_query_unary(query())).await.unwrap_err();
        assert_eq!((streamed.unwrap().code(), unary.code()), (error.code(), error.code()));
        assert_eq!(server.calls().len(), 2);
    }
}

#[tokio::test]
async fn the_turn_fails_after_the_reconnect_timeout() {
    let server = ScriptedServer::start().await;
    server.script("PostUserQuery", [breaking(vec![replies::started()]), breaking(vec![])]);
    server.script("PostUserQueryUnary", [vec![Step::Fail(broken())]]);
    let limit = Duration::from_millis(500);
    let client = Client::builder()
        .target(&server.target)
        .reconnect_timeout(limit)
        .build()
        .unwrap();
    let (_, error) = read(client.post_user_query(query())).await;
    assert_eq!(error.unwrap().message(), "Socket closed");
    let error = soon(client.post_user_query_unary(query())).await.unwrap_err();
    assert_eq!(error.message(), "Socket closed");
    assert!(server.calls().len() > 4);
}

#[tokio::test]
async fn a_missing_server_is_unavailable_after_the_reconnect_timeout() {
    let target = ScriptedServer::start().await.target.clone(); // the server is dropped here
    let limit = Duration::from_millis(300);
    let client = Client::builder()
        .target(target)
        .reconnect_timeout(limit)
        .build()
        .unwrap();
    let (events, error) = read(client.post_user_query(query())).await;
    assert_eq!((events.len(), error.unwrap().code()), (0, Code::Unavailable));
    assert_eq!(
        soon(client.post_user_query_unary(query())).await.unwrap_err().code(),
        Code::Unavailable
    );
}

#[tokio::test]
async fn an_answer_resets_the_reconnect_timeout() {
    // Each pause is shorter than the reconnect timeout, and all of them together are longer. Each post brings a character.
    let server = ScriptedServer::start().await;
    let text = "x".repeat(12);
    let mut posts: Vec<_> = (1..=text.len())
        .map(|length| breaking(vec![replies::started(), replies::delta(&text[..length])]))
        .collect();
    posts.push(steps(replies::turn(&[&text])));
    server.script("PostUserQuery", posts);
    let limit = Duration::from_millis(400);
    let client = Client::builder()
        .target(&server.target)
        .reconnect_timeout(limit)
        .build()
        .unwrap();
    let (events, error) = read(client.post_user_query(query())).await;
    let expected = [&["started"], &["x"; 12][..], &["completed"]].concat();
    assert_eq!(
        (shown(&events), error),
        (expected.into_iter().map(String::from).collect(), None)
    );
}

#[tokio::test]
async fn a_reconnect_timeout_of_zero_disables_retries() {
    let server = ScriptedServer::start().await;
    server.script("PostUserQuery", [breaking(vec![replies::started()])]);
    server.script("PostUserQueryUnary", [vec![Step::Fail(broken())]]);
    let builder = Client::builder()
        .target(&server.target)
        .reconnect_timeout(Duration::ZERO);
    let client = builder.build().unwrap();
    assert_eq!(
        read(client.post_user_query(query())).await.1.unwrap().code(),
        Code::Unavailable
    );
    assert_eq!(
        soon(client.post_user_query_unary(query())).await.unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(server.calls().len(), 2);
}

#[tokio::test]
async fn retries_end_at_the_deadline() {
    let server = ScriptedServer::start().await;
    let short = Step::Fail(shutting_down(Duration::from_millis(500)));
    let long = Step::Fail(shutting_down(LONG));
    server.script(
        "PostUserQuery",
        [vec![replies::started().into(), short.clone()], vec![long.clone()]],
    );
    server.script("PostUserQueryUnary", [vec![short], vec![long]]);
    let client = patient(&server.target).with_timeout(Duration::from_secs(60));
    assert_eq!(
        read(client.post_user_query(query())).await.1.unwrap().reason(),
        "SHUTTING_DOWN"
    );
    assert_eq!(
        soon(client.post_user_query_unary(query())).await.unwrap_err().reason(),
        "SHUTTING_DOWN"
    );
    let micros = |call: &crate::support::Call| {
        let timeout = call.timeout().unwrap().strip_suffix('u').unwrap();
        timeout.parse::<u64>().unwrap()
    };
    let [first, second, third, fourth] = server.calls().iter().map(micros).collect::<Vec<_>>()[..] else {
        panic!("expected four calls")
    };
    assert!(first <= 60_000_000 && second + 500_000 <= first, "{first} {second}");
    assert!(third <= 60_000_000 && fourth + 500_000 <= third, "{third} {fourth}");
}

#[tokio::test]
async fn a_timeout_may_expire_in_a_later_post() {
    let server = ScriptedServer::start().await;
    server.script("PostUserQuery", [breaking(vec![replies::started()]), vec![Step::Hang]]);
    let client = Client::new(&server.target)
        .unwrap()
        .with_timeout(Duration::from_millis(600));
    let (events, error) = read(client.post_user_query(query())).await;
    assert_eq!(
        (shown(&events), error.unwrap().code()),
        (vec!["started".into()], Code::DeadlineExceeded)
    );
    assert_eq!(server.calls().len(), 2);
}

#[tokio::test]
async fn dropping_a_call_between_two_posts_ends_it() {
    let server = ScriptedServer::start().await;
    let wait = || vec![Step::Fail(shutting_down(LONG))];
    server.script("PostUserQuery", [wait()]);
    server.script("PostUserQueryUnary", [wait()]);
    let proxy = Proxy::start(&server.target).await;
    let client = patient(&proxy.target);
    let mut reply = client.post_user_query(query());
    let streamed = tokio::spawn(async move { reply.next().await.is_some() });
    let unary = tokio::spawn(async move { client.post_user_query_unary(query()).await });
    server.call(2).await;
    streamed.abort();
    unary.abort();
    proxy.closed().await; // the client is dropped, too
    assert!(streamed.await.unwrap_err().is_cancelled());
    assert!(unary.await.unwrap_err().is_cancelled());
    assert_eq!(server.calls().len(), 2);
}
