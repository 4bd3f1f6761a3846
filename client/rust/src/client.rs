//! The calls.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::attempts::{Attempts, new_request_id, reading_pauses};
use crate::builder::ClientBuilder;
use crate::connection::{Connection, until};
use crate::v1::{
    Assistant, CancelTurnRequest, CreateAssistantRequest, CreateAssistantResponse, DeleteAssistantRequest,
    GetAssistantRequest, ListMessagesRequest, ListMessagesResponse, PostUserQueryRequest, TurnCompleted,
};
use crate::{BuildError, Error, Messages, Reply};

/// The longest time that gRPC can tell a server, 99,999,999 hours. A longer one is none.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(99_999_999 * 60 * 60);

/// Talks to a Palaver server. One is enough for a whole program.
///
/// All calls share one connection, which is opened with the first one and opened anew when it breaks. Clones are cheap
/// and share it, too. There is nothing to close: a call ends when its future or stream is dropped, and the connection
/// with the last of its clients and calls.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use futures_util::TryStreamExt as _;
/// use palaver::{Client, Event, PostUserQueryRequest};
///
/// let client = Client::new("127.0.0.1:50051")?;
/// let mut reply = client.post_user_query(PostUserQueryRequest {
///     id: "support-42".into(),
///     user_message: "Hello!".into(),
///     ..Default::default()
/// });
/// while let Some(event) = reply.try_next().await? {
///     match event {
///         Event::Started(_) => println!(), // a second one makes void what came before it
///         Event::TextDelta(delta) => print!("{}", delta.text),
///         Event::Completed(turn) => println!("\n{:?}", turn.usage),
///         _ => {}
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// Every call fails with an [`Error`]; its [`reason`](Error::reason) tells what happened, and
/// [`ErrorReason`](crate::ErrorReason) what to do about it. Without a reason, the likely codes are `Unavailable`: the
/// server can't be reached; `DeadlineExceeded`: the timeout has passed; `Internal`: the response breaks the contract.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Connection,
    timeout: Option<Duration>,
    reconnect_timeout: Duration,
}

impl Client {
    /// Makes a client for a server, with the default options. It connects with the first call.
    ///
    /// # Errors
    ///
    /// [`BuildError::InvalidTarget`].
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime, as [`ClientBuilder::build`].
    pub fn new(target: impl Into<String>) -> Result<Self, BuildError> {
        Self::builder().target(target).build()
    }

    /// Returns the options of a client, to be set: TLS, a token, timeouts.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::new()
    }

    pub(crate) fn new_with(connection: Connection, timeout: Option<Duration>, reconnect_timeout: Duration) -> Self {
        Self {
            connection,
            timeout,
            reconnect_timeout,
        }
    }

    /// Returns the same client with another [`timeout`](ClientBuilder::timeout), `None` for none: also the way to give
    /// one to a single call.
    ///
    /// ```no_run
    /// # async fn f(client: palaver::Client, request: palaver::GetAssistantRequest) -> Result<(), palaver::Error> {
    /// # use std::time::Duration;
    /// let assistant = client.with_timeout(Duration::from_secs(2)).get_assistant(request).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with_timeout(&self, timeout: impl Into<Option<Duration>>) -> Self {
        Self {
            timeout: timeout.into(),
            ..self.clone()
        }
    }

    /// Creates an assistant, whose conversation then consists of its instructions alone.
    ///
    /// # Errors
    ///
    /// `ASSISTANT_EXISTS`, unless `if_exists` allows it.
    pub async fn create_assistant(&self, request: CreateAssistantRequest) -> Result<CreateAssistantResponse, Error> {
        let deadline = self.deadline();
        let request = self.connection.request(request, deadline);
        until(deadline, async {
            Ok(self.connection.stub().create_assistant(request).await?.into_inner())
        })
        .await
    }

    /// Returns the present state of an assistant. The call is repeated by itself while the server is unavailable.
    ///
    /// # Errors
    ///
    /// `ASSISTANT_NOT_FOUND`.
    pub async fn get_assistant(&self, request: GetAssistantRequest) -> Result<Assistant, Error> {
        let deadline = self.deadline();
        let response = until(
            deadline,
            repeated(|| async {
                let request = self.connection.request(request.clone(), deadline);
                Ok(self.connection.stub().get_assistant(request).await?.into_inner())
            }),
        )
        .await?;
        let assistant = response.assistant;
        assistant.ok_or_else(|| Error::malformed("there is no assistant in it"))
    }

    /// Returns the messages of an assistant, those of all pages from `page_token` on. Each page is fetched when the
    /// stream gets there, and its call is repeated by itself while the server is unavailable.
    ///
    /// # Errors
    ///
    /// `ASSISTANT_NOT_FOUND`. As all errors of the call, it is an item of the stream.
    pub fn list_messages(&self, request: ListMessagesRequest) -> Messages {
        Messages::new(self.clone(), request)
    }

    pub(crate) async fn list_page(&self, request: &ListMessagesRequest) -> Result<ListMessagesResponse, Error> {
        let deadline = self.deadline();
        until(
            deadline,
            repeated(|| async {
                let request = self.connection.request(request.clone(), deadline);
                Ok(self.connection.stub().list_messages(request).await?.into_inner())
            }),
        )
        .await
    }

    /// Deletes an assistant and all of its messages. This can't be undone.
    ///
    /// # Errors
    ///
    /// `ASSISTANT_NOT_FOUND`.
    pub async fn delete_assistant(&self, request: DeleteAssistantRequest) -> Result<(), Error> {
        let deadline = self.deadline();
        let request = self.connection.request(request, deadline);
        until(deadline, async {
            self.connection.stub().delete_assistant(request).await?;
            Ok(())
        })
        .await
    }

    /// Posts a user message and streams the reply: a turn.
    ///
    /// The turn is stored whole, when the reply completes, or not at all. It is posted when the reply is first polled;
    /// a timeout counts from now on. A `request_id` is made where the request has none.
    ///
    /// # Errors
    ///
    /// They are items of the [`Reply`].
    pub fn post_user_query(&self, request: PostUserQueryRequest) -> Reply {
        Reply::new(self.connection.clone(), named(request), self.attempts())
    }

    /// Posts a user message and returns when the turn is stored, with the whole reply. It is posted again as a
    /// [`Reply`] is.
    ///
    /// # Errors
    ///
    /// As those of a [`Reply`]: nothing of the turn is stored.
    pub async fn post_user_query_unary(&self, request: PostUserQueryRequest) -> Result<TurnCompleted, Error> {
        let request = named(request);
        let mut attempts = self.attempts();
        loop {
            let post = self.connection.request(request.clone(), attempts.deadline());
            let response = until(attempts.deadline(), async {
                Ok(self.connection.stub().post_user_query_unary(post).await?.into_inner())
            })
            .await;
            match response {
                Ok(response) => {
                    let completed = response.completed;
                    return completed.ok_or_else(|| Error::malformed("there is no turn in it"));
                }
                Err(error) => {
                    let pause = attempts.pause_after(error, Instant::now())?;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Ends a running turn of any caller, whatever its `on_disconnect` says. Nothing of the turn is stored.
    ///
    /// # Errors
    ///
    /// `TURN_NOT_FOUND`, where no such turn is running.
    pub async fn cancel_turn(&self, request: CancelTurnRequest) -> Result<(), Error> {
        let deadline = self.deadline();
        let request = self.connection.request(request, deadline);
        until(deadline, async {
            self.connection.stub().cancel_turn(request).await?;
            Ok(())
        })
        .await
    }

    /// When a call that begins now must be over.
    fn deadline(&self) -> Option<Instant> {
        let timeout = self.timeout.filter(|timeout| *timeout <= LONGEST_TIMEOUT);
        timeout.map(|timeout| Instant::now() + timeout)
    }

    fn attempts(&self) -> Attempts {
        Attempts::new(self.deadline(), self.reconnect_timeout)
    }
}

fn named(mut request: PostUserQueryRequest) -> PostUserQueryRequest {
    if request.request_id.is_empty() {
        request.request_id = new_request_id();
    }
    request
}

/// Makes a call that only reads, again and again while the server is unavailable.
///
/// The others are not repeated, because it may do harm where the reply alone was lost: creating would fail over its own
/// success.
async fn repeated<T, Call>(call: impl Fn() -> Call) -> Result<T, Error>
where
    Call: Future<Output = Result<T, Error>>,
{
    for pause in reading_pauses() {
        match call().await {
            Err(error) if error.code() == Code::Unavailable => tokio::time::sleep(pause).await,
            result => return result,
        }
    }
    call().await
}
