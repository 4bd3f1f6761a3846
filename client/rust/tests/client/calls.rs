//! The unary calls: requests, responses and errors.

use std::time::Duration;

use futures_util::StreamExt as _;
use palaver::v1::{
    CancelTurnResponse, CreateAssistantResponse, DeleteAssistantResponse, GetAssistantResponse, ListMessagesResponse,
    PostUserQueryUnaryResponse,
};
use palaver::{
    CancelTurnRequest, Client, Code, CreateAssistantRequest, DeleteAssistantRequest, Error, GetAssistantRequest,
    IfExists, ListMessagesRequest, Message, PostUserQueryRequest, Role,
};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::support::{Ending, Http2Server, Response, ScriptedServer, Step, read, refusal, replies, soon};

#[tokio::test]
async fn requests_and_responses_are_passed_on_unchanged() {
    let server = ScriptedServer::start().await;
    let client = Client::new(&server.target).unwrap();

    server.script("CreateAssistant", [vec![replies::created().into()]]);
    let create = CreateAssistantRequest {
        id: "support".into(),
        instructions: Some(String::new()),
        if_exists: IfExists::Keep.into(),
        ..Default::default()
    };
    assert_eq!(
        client.create_assistant(create.clone()).await.unwrap(),
        replies::created()
    );
    assert_eq!(server.call(1).await.request::<CreateAssistantRequest>(), create);

    let got = GetAssistantResponse {
        assistant: Some(replies::assistant()),
    };
    server.script("GetAssistant", [vec![got.into()]]);
    let get = GetAssistantRequest {
        id: "support".into(),
        ..Default::default()
    };
    assert_eq!(client.get_assistant(get.clone()).await.unwrap(), replies::assistant());
    assert_eq!(server.call(2).await.request::<GetAssistantRequest>(), get);

    server.script("DeleteAssistant", [vec![DeleteAssistantResponse {}.into()]]);
    let delete = DeleteAssistantRequest {
        id: "support".into(),
        collection_name: "Other".into(),
        ..Default::default()
    };
    client.delete_assistant(delete.clone()).await.unwrap();
    assert_eq!(server.call(3).await.request::<DeleteAssistantRequest>(), delete);

    server.script("CancelTurn", [vec![CancelTurnResponse {}.into()]]);
    let cancel = CancelTurnRequest {
        id: "support".into(),
        request_id: "r1".into(),
        ..Default::default()
    };
    client.cancel_turn(cancel.clone()).await.unwrap();
    assert_eq!(server.call(4).await.request::<CancelTurnRequest>(), cancel);

    server.script("PostUserQueryUnary", [vec![replies::unary().into()]]);
    let post = PostUserQueryRequest {
        request_id: "mine".into(),
        ..query()
    };
    assert_eq!(
        client.post_user_query_unary(post.clone()).await.unwrap(),
        replies::turn_completed()
    );
    assert_eq!(server.call(5).await.request::<PostUserQueryRequest>(), post);
}

fn query() -> PostUserQueryRequest {
    PostUserQueryRequest {
        id: "support".into(),
        user_message: "Hello!".into(),
        ..Default::default()
    }
}

fn page<const N: usize>(indices: [i32; N], next: &str) -> Step {
    ListMessagesResponse {
        messages: indices.map(replies::message).into(),
        next_page_token: next.into(),
    }
    .into()
}

#[tokio::test]
async fn messages_of_all_pages_are_fetched_lazily() {
    let server = ScriptedServer::start().await;
    server.script(
        "ListMessages",
        [vec![page([1, 2], "two")], vec![page([], "three")], vec![page([3], "")]],
    );
    let request = ListMessagesRequest {
        id: "support".into(),
        page_size: 2,
        ..Default::default()
    };
    let mut messages = Client::new(&server.target).unwrap().list_messages(request.clone());
    assert_eq!(server.calls().len(), 0);
    assert_eq!(soon(messages.next()).await.unwrap().unwrap(), replies::message(1));
    assert_eq!(soon(messages.next()).await.unwrap().unwrap(), replies::message(2));
    assert_eq!(server.calls().len(), 1);
    let (rest, error) = read(messages).await;
    assert_eq!((rest, error), (vec![replies::message(3)], None));
    let with_token = |token: &str| ListMessagesRequest {
        page_token: token.into(),
        ..request.clone()
    };
    assert_eq!(
        server.requests::<ListMessagesRequest>(),
        [with_token(""), with_token("two"), with_token("three")]
    );
}

#[tokio::test]
async fn an_error_ends_the_messages() {
    let server = ScriptedServer::start().await;
    let gone = Step::Fail(refusal(Code::NotFound, "ASSISTANT_NOT_FOUND"));
    server.script("ListMessages", [vec![page([1], "two")], vec![gone]]);
    let messages = Client::new(&server.target)
        .unwrap()
        .list_messages(ListMessagesRequest::default());
    let (messages, error) = read(messages).await;
    assert_eq!(messages, [replies::message(1)]);
    assert_eq!(error.unwrap().reason(), "ASSISTANT_NOT_FOUND");
}

#[tokio::test]
async fn an_error_has_all_details_of_the_server() {
    let server = ScriptedServer::start().await;
    let mut details = ErrorDetails::with_error_info("INVALID_FIELD", "palaver.v1", []);
    details
        .add_bad_request_violation("id", "must not be empty")
        .set_retry_info(Some(Duration::from_millis(1500)));
    let status = Status::with_error_details(Code::InvalidArgument, "größer 👍", details);
    server.script("CancelTurn", [vec![Step::Fail(status)]]);
    let error = Client::new(&server.target)
        .unwrap()
        .cancel_turn(CancelTurnRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(error.reason(), "INVALID_FIELD");
    assert_eq!(error.message(), "größer 👍");
    assert_eq!(error.field_violations()[0].field, "id");
    assert_eq!(error.field_violations()[0].description, "must not be empty");
    assert_eq!(error.retry_delay(), Some(Duration::from_millis(1500)));
}

#[tokio::test]
async fn mangled_details_are_ignored() {
    let trailers = |details| Ending::Trailers(vec![("grpc-status", "5"), ("grpc-status-details-bin", details)]);
    for details in ["not base64", "////", ""] {
        let server = Http2Server::start([Response::new::<GetAssistantResponse>([], trailers(details))]).await;
        let error = get(&Client::new(&server.target).unwrap()).await.unwrap_err();
        assert_eq!((error.code(), error.reason()), (Code::NotFound, ""), "{details}");
    }
}

async fn get(client: &Client) -> Result<palaver::Assistant, Error> {
    soon(client.get_assistant(GetAssistantRequest::default())).await
}

#[tokio::test]
async fn a_response_without_its_content_is_an_internal_error() {
    let server = ScriptedServer::start().await;
    let created = CreateAssistantResponse {
        assistant: None,
        created: true,
    };
    server.script("CreateAssistant", [vec![created.into()]]);
    server.script("GetAssistant", [vec![GetAssistantResponse::default().into()]]);
    server.script(
        "PostUserQueryUnary",
        [vec![PostUserQueryUnaryResponse::default().into()]],
    );
    let client = Client::new(&server.target).unwrap();
    let errors = [
        client
            .create_assistant(CreateAssistantRequest::default())
            .await
            .unwrap_err(),
        get(&client).await.unwrap_err(),
        client.post_user_query_unary(query()).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.code(), error.reason()), (Code::Internal, ""));
    }
}

#[tokio::test]
async fn unknown_roles_keep_their_numbers() {
    let server = ScriptedServer::start().await;
    let messages = vec![Message {
        role: 99,
        ..replies::message(1)
    }];
    server.script(
        "ListMessages",
        [vec![
            ListMessagesResponse {
                messages,
                ..Default::default()
            }
            .into(),
        ]],
    );
    let messages = Client::new(&server.target)
        .unwrap()
        .list_messages(ListMessagesRequest::default());
    let (messages, _) = read(messages).await;
    assert_eq!((messages[0].role, messages[0].role()), (99, Role::Unspecified));
}

// Retries.

#[tokio::test]
async fn reads_are_tried_four_times_while_the_server_is_unavailable() {
    let server = ScriptedServer::start().await;
    let gone = || vec![Step::Fail(Status::unavailable("gone"))];
    let got = GetAssistantResponse {
        assistant: Some(replies::assistant()),
    };
    server.script("GetAssistant", [gone(), gone(), gone(), vec![got.into()]]);
    server.script("ListMessages", [gone(), gone(), gone(), vec![page([1], "")]]);
    let client = Client::new(&server.target).unwrap();
    assert_eq!(get(&client).await.unwrap(), replies::assistant());
    let (messages, _) = read(client.list_messages(ListMessagesRequest::default())).await;
    assert_eq!(messages, [replies::message(1)]);

    let server = ScriptedServer::start().await;
    server.script("GetAssistant", [gone()]);
    let error = get(&Client::new(&server.target).unwrap()).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Unavailable, "gone"));
    assert_eq!(server.calls().len(), 4);
}

#[tokio::test]
async fn reads_are_not_retried_after_other_errors() {
    let server = ScriptedServer::start().await;
    server.script(
        "GetAssistant",
        [vec![Step::Fail(refusal(Code::NotFound, "ASSISTANT_NOT_FOUND"))]],
    );
    get(&Client::new(&server.target).unwrap()).await.unwrap_err();
    assert_eq!(server.calls().len(), 1);
}

#[tokio::test]
async fn writes_are_not_retried() {
    let server = ScriptedServer::start().await;
    for method in ["CreateAssistant", "DeleteAssistant", "CancelTurn"] {
        server.script(method, [vec![Step::Fail(Status::unavailable("gone"))]]);
    }
    let client = Client::new(&server.target).unwrap();
    for error in [
        client
            .create_assistant(CreateAssistantRequest::default())
            .await
            .unwrap_err(),
        client
            .delete_assistant(DeleteAssistantRequest::default())
            .await
            .unwrap_err(),
        client.cancel_turn(CancelTurnRequest::default()).await.unwrap_err(),
    ] {
        assert_eq!(error.code(), Code::Unavailable);
    }
    assert_eq!(server.calls().len(), 3);
}

// Deadlines and cancellation.

#[tokio::test]
async fn a_call_has_no_deadline_by_default() {
    let server = ScriptedServer::start().await;
    server.script("CancelTurn", [vec![CancelTurnResponse {}.into()]]);
    let client = Client::new(&server.target).unwrap();
    for client in [
        client.clone(),
        client.with_timeout(Duration::MAX),
        client.with_timeout(Duration::from_secs(1 << 40)),
        client.with_timeout(Duration::from_secs(60)),
        client.with_timeout(Duration::from_secs(60)).with_timeout(None),
        Client::builder()
            .target(&server.target)
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap(),
    ] {
        client.cancel_turn(CancelTurnRequest::default()).await.unwrap();
    }
    let has_timeout: Vec<_> = server.calls().iter().map(|call| call.timeout().is_some()).collect();
    assert_eq!(has_timeout, [false, false, false, true, false, true]);
}

#[tokio::test]
async fn every_call_ends_when_its_timeout_expires() {
    let server = ScriptedServer::start().await;
    for method in ["CreateAssistant", "GetAssistant", "ListMessages", "PostUserQueryUnary"] {
        server.script(method, [vec![Step::Hang]]);
    }
    let client = Client::new(&server.target)
        .unwrap()
        .with_timeout(Duration::from_millis(50));
    for error in [
        soon(client.create_assistant(CreateAssistantRequest::default()))
            .await
            .unwrap_err(),
        get(&client).await.unwrap_err(),
        read(client.list_messages(ListMessagesRequest::default()))
            .await
            .1
            .unwrap(),
        soon(client.post_user_query_unary(query())).await.unwrap_err(),
    ] {
        assert_eq!((error.code(), error.reason()), (Code::DeadlineExceeded, ""));
    }
    assert_eq!(server.calls().len(), 4);
}

#[tokio::test]
async fn the_timeout_covers_the_retries_of_a_call() {
    let server = ScriptedServer::start().await;
    server.script("GetAssistant", [vec![Step::Fail(Status::unavailable("gone"))]]);
    // Shorter than the first pause.
    let client = Client::new(&server.target)
        .unwrap()
        .with_timeout(Duration::from_millis(90));
    assert_eq!(get(&client).await.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(server.calls().len(), 1);
}

#[tokio::test]
async fn dropping_a_future_ends_its_call_at_the_server() {
    let server = ScriptedServer::start().await;
    server.script("PostUserQueryUnary", [vec![Step::Hang]]);
    let client = Client::new(&server.target).unwrap();
    let call = tokio::spawn(async move { client.post_user_query_unary(query()).await });
    let mut received = server.call(1).await;
    call.abort();
    received.abandoned().await;
}
