//! A reply on a stable connection.

use std::time::Duration;

use futures_util::StreamExt as _;
use palaver::v1::PostUserQueryResponse;
use palaver::{Client, Code, Event, FinishReason, PostUserQueryRequest, TurnCompleted};
use tonic::Status;

use crate::support::{Proxy, ScriptedServer, Step, broken, read, replies, shown, soon};

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

#[tokio::test]
async fn a_reply_is_its_events_in_order() {
    let server = ScriptedServer::start().await;
    server.script("PostUserQuery", [steps(replies::turn(&["Hel", "lo"]))]);
    let (events, error) = read(Client::new(&server.target).unwrap().post_user_query(query())).await;
    assert_eq!(error, None);
    assert_eq!(shown(&events), ["started", "Hel", "lo", "completed"]);
    assert_eq!(events.last(), Some(&Event::Completed(replies::turn_completed())));
}

#[tokio::test]
async fn progress_is_passed_on_unchanged() {
    let server = ScriptedServer::start().await;
    let mut responses = replies::turn(&["Hello"]);
    responses.insert(1, replies::progress(15));
    responses.insert(3, replies::progress(30));
    server.script("PostUserQuery", [steps(responses.clone())]);
    let (events, error) = read(Client::new(&server.target).unwrap().post_user_query(query())).await;
    assert_eq!(error, None);
    assert_eq!(
        events,
        responses
            .into_iter()
            .filter_map(|response| response.event)
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn text_omits_the_other_events() {
    let server = ScriptedServer::start().await;
    let others = [
        replies::started(),
        replies::skill_call("1"),
        replies::skill_result("1"),
        replies::progress(15),
        replies::delta("Hel"),
    ];
    server.script(
        "PostUserQuery",
        [[&others[..], &replies::turn(&["lo"])[1..]]
            .concat()
            .into_iter()
            .map(Step::from)
            .collect()],
    );
    let text = Client::new(&server.target).unwrap().post_user_query(query()).text();
    assert_eq!(read(text).await, (vec!["Hel".to_owned(), "lo".to_owned()], None));
}

#[tokio::test]
async fn text_continues_after_the_events_that_were_read() {
    let server = ScriptedServer::start().await;
    server.script("PostUserQuery", [steps(replies::turn(&["Hel", "lo"]))]);
    let mut reply = Client::new(&server.target).unwrap().post_user_query(query());
    soon(reply.next()).await;
    soon(reply.next()).await;
    assert_eq!(read(reply.text()).await, (vec!["lo".to_owned()], None));
}

#[tokio::test]
async fn an_unset_parameter_differs_from_zero() {
    let server = ScriptedServer::start().await;
    server.script("PostUserQuery", [steps(replies::turn(&[]))]);
    let request = PostUserQueryRequest {
        temperature: Some(0.0),
        ..query()
    };
    read(Client::new(&server.target).unwrap().post_user_query(request)).await;
    let received: PostUserQueryRequest = server.call(1).await.request();
    assert_eq!(
        (received.temperature, received.top_p, received.max_tokens),
        (Some(0.0), None, None)
    );
}

#[tokio::test]
async fn each_turn_has_its_own_request_id_unless_the_caller_sets_one() {
    let server = ScriptedServer::start().await;
    server.script("PostUserQuery", [steps(replies::turn(&[]))]);
    server.script("PostUserQueryUnary", [vec![replies::unary().into()]]);
    let client = Client::new(&server.target).unwrap();
    let mut reported = Vec::new();
    for request_id in ["", "", "mine"] {
        let reply = client.post_user_query(PostUserQueryRequest {
            request_id: request_id.into(),
            ..query()
        });
        reported.push(reply.request_id().to_owned());
        read(reply).await;
    }
    client.post_user_query_unary(query()).await.unwrap();
    let sent: Vec<_> = server
        .requests::<PostUserQueryRequest>()
        .into_iter()
        .map(|request| request.request_id)
        .collect();
    assert_eq!(sent[..3], reported);
    assert_eq!(reported[2], "mine");
    let generated = [&sent[0], &sent[1], &sent[3]];
    assert!(
        generated
            .iter()
            .all(|id| id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit()))
    );
    assert!(generated[0] != generated[1] && generated[1] != generated[2]);
}

#[tokio::test]
async fn the_turn_is_posted_when_the_reply_is_read() {
    let server = ScriptedServer::start().await;
    let proxy = Proxy::start(&server.target).await;
    let client = Client::new(&proxy.target).unwrap();
    drop(client.post_user_query(query()));
    assert_eq!(proxy.opened(), 0);
}

// Servers that are newer or break the contract.

#[tokio::test]
async fn unknown_events_are_skipped() {
    let server = ScriptedServer::start().await;
    let newer = Step::Send(b"\xa2\x3f\x05later".to_vec()); // field 1012, of five bytes
    let completed = TurnCompleted {
        finish_reason: 77,
        ..replies::turn_completed()
    };
    let completed = PostUserQueryResponse {
        event: Some(Event::Completed(completed)),
        ..Default::default()
    };
    server.script(
        "PostUserQuery",
        [vec![
            replies::started().into(),
            newer.clone(),
            replies::delta("Hi").into(),
            newer,
            completed.into(),
        ]],
    );
    let (events, error) = read(Client::new(&server.target).unwrap().post_user_query(query())).await;
    assert_eq!(
        (shown(&events), error),
        (vec!["started".into(), "Hi".into(), "completed".into()], None)
    );
    let Some(Event::Completed(turn)) = events.last() else {
        panic!("the last event is not `completed`")
    };
    assert_eq!(
        (turn.finish_reason, turn.finish_reason()),
        (77, FinishReason::Unspecified)
    );
}

#[tokio::test]
async fn a_reply_that_ends_without_completed_is_an_internal_error() {
    let server = ScriptedServer::start().await;
    server.script(
        "PostUserQuery",
        [vec![replies::started().into(), replies::delta("Hi").into()]],
    );
    let client = Client::new(&server.target).unwrap();
    let (events, error) = read(client.post_user_query(query())).await;
    assert_eq!(shown(&events), ["started", "Hi"]);
    let error = error.unwrap();
    assert_eq!((error.code(), error.reason()), (Code::Internal, ""));
    let (text, error) = read(client.post_user_query(query()).text()).await;
    assert_eq!((text, error.unwrap().code()), (vec!["Hi".to_owned()], Code::Internal));
    assert_eq!(server.calls().len(), 2);
}

#[tokio::test]
async fn everything_after_completed_is_ignored() {
    let server = ScriptedServer::start().await;
    let completed = steps(replies::turn(&["Hi"]));
    for after in [
        Step::Fail(broken()),
        Step::Fail(Status::internal("oh")),
        Step::Hang,
        replies::delta("!").into(),
    ] {
        server.script("PostUserQuery", [[completed.clone(), vec![after]].concat()]);
        let (events, error) = read(Client::new(&server.target).unwrap().post_user_query(query())).await;
        assert_eq!(
            (shown(&events), error),
            (vec!["started".into(), "Hi".into(), "completed".into()], None)
        );
    }
    assert_eq!(server.calls().len(), 4);
}

// Cancellation and deadlines.

#[tokio::test]
async fn dropping_a_reply_ends_the_call_at_the_server() {
    let server = ScriptedServer::start().await;
    server.script(
        "PostUserQuery",
        [vec![replies::started().into(), replies::delta("Hi").into(), Step::Hang]],
    );
    let client = Client::new(&server.target).unwrap();
    let mut reply = client.post_user_query(query());
    soon(reply.next()).await;
    drop(reply);
    server.call(1).await.abandoned().await;
    let mut text = client.post_user_query(query()).text();
    soon(text.next()).await;
    drop(text);
    server.call(2).await.abandoned().await;
}

#[tokio::test]
async fn dropping_a_reply_before_its_first_event_ends_the_call_at_the_server() {
    let server = ScriptedServer::start().await;
    server.script("PostUserQuery", [vec![Step::Hang]]);
    let mut reply = Client::new(&server.target).unwrap().post_user_query(query());
    let reading = tokio::spawn(async move { reply.next().await });
    let mut call = server.call(1).await;
    reading.abort();
    call.abandoned().await;
}

#[tokio::test]
async fn a_reply_outlives_its_client() {
    let server = ScriptedServer::start().await;
    server.script(
        "PostUserQuery",
        [
            vec![replies::started().into(), Step::Fail(broken())],
            steps(replies::turn(&["Hi"])),
        ],
    );
    let client = Client::new(&server.target).unwrap();
    let reply = client.post_user_query(query());
    drop(client);
    assert_eq!(shown(&read(reply).await.0), ["started", "Hi", "completed"]);
}

#[tokio::test]
async fn polling_a_reply_is_cancel_safe() {
    let server = ScriptedServer::start().await;
    server.script("PostUserQuery", [steps(replies::turn(&["Hel", "lo"]))]);
    let mut reply = Client::new(&server.target).unwrap().post_user_query(query());
    let mut events = Vec::new();
    loop {
        tokio::select! {
            biased;
            event = reply.next() => match event {
                Some(event) => events.push(event.unwrap()),
                None => break,
            },
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(shown(&events), ["started", "Hel", "lo", "completed"]);
    assert_eq!(server.calls().len(), 1);
}

#[tokio::test]
async fn a_reply_ends_when_its_timeout_expires() {
    let server = ScriptedServer::start().await;
    server.script(
        "PostUserQuery",
        [vec![replies::started().into(), replies::delta("Hi").into(), Step::Hang]],
    );
    let client = Client::new(&server.target)
        .unwrap()
        .with_timeout(Duration::from_millis(300));
    let (events, error) = read(client.post_user_query(query())).await;
    assert_eq!(shown(&events), ["started", "Hi"]);
    let error = error.unwrap();
    assert_eq!((error.code(), error.reason()), (Code::DeadlineExceeded, ""));
    server.call(1).await.abandoned().await;
}

#[tokio::test]
async fn a_slow_reader_slows_the_server_down() {
    let server = ScriptedServer::start().await;
    let piece = "x".repeat(1024 * 1024);
    let pieces = vec![piece.as_str(); 64];
    server.script("PostUserQuery", [steps(replies::turn(&pieces))]);
    let mut reply = Client::new(&server.target).unwrap().post_user_query(query());
    soon(reply.next()).await;
    // Lets all other tasks run until they wait.
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
    assert!(
        server.call(1).await.is_running(),
        "the server has sent 64 MiB that nobody has read"
    );
    let (events, error) = read(reply).await;
    assert_eq!((events.len(), error), (65, None));
    server.call(1).await.answered().await;
}

#[test]
fn replies_and_clients_can_be_sent_to_other_threads() {
    fn is_send_and_unpin<T: Send + Unpin + 'static>() {}
    fn is_shared<T: Clone + Send + Sync + 'static>() {}
    is_send_and_unpin::<palaver::Reply>();
    is_send_and_unpin::<palaver::Text>();
    is_send_and_unpin::<palaver::Messages>();
    is_shared::<Client>();
    is_shared::<palaver::Error>();
}
