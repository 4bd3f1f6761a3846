//! The client and its calls.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::builder::ClientBuilder;
use crate::connection::{Connection, until};
use crate::retry_budget::{RetryBudget, read_retry_delays};
use crate::v1::{
    Assistant, CancelTurnRequest, CreateAssistantRequest, CreateAssistantResponse, DeleteAssistantRequest,
    GetAssistantRequest, ListMessagesRequest, ListMessagesResponse, PostUserQueryRequest, PostUserQueryUnaryResponse,
    TurnCompleted,
};
use crate::{BuildError, Error, Messages, Reply};

/// The longest timeout that gRPC can send, 99,999,999 hours. A longer timeout is treated as none.
const MAX_TIMEOUT: Duration = Duration::from_secs(99_999_999 * 60 * 60);

/// A client of a Palaver server. One is enough for a whole program.
///
/// All calls share one connection, which the first call opens and which is reopened when it breaks. Clones are cheap and
/// share the connection. There is nothing to close: dropping a future or stream ends its call, and the connection closes
/// with the last client and call that uses it.
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
///         Event::Started(_) => println!(), // a second one voids all events before it
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
/// All calls return an [`Error`]. Its [`reason`](Error::reason) says what happened, and
/// [`ErrorReason`](crate::ErrorReason) documents what to do about it. Without a reason, the likely codes are `Unavailable`
/// (the server can't be reached), `DeadlineExceeded` (the timeout has expired) and `Internal` (the response breaks the
/// contract).
#[derive(Clone, Debug)]
pub struct Client {
    connection: Connection,
    timeout: Option<Duration>,
    reconnect_timeout: Duration,
}

impl Client {
    /// Creates a client with the default options. It connects with the first call.
    ///
    /// # Errors
    ///
    /// [`BuildError::InvalidTarget`].
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime, like [`ClientBuilder::build`].
    pub fn new(target: impl Into<String>) -> Result<Self, BuildError> {
        Self::builder().target(target).build()
    }

    /// Returns a builder for a client with other options: TLS, a token, timeouts.
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

    /// Returns the same client with a different [`timeout`](ClientBuilder::timeout), or none, for example for a single call.
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

    /// Creates an assistant. Its conversation starts with only its instructions.
    ///
    /// # Errors
    ///
    /// `ASSISTANT_EXISTS`, unless `if_exists` permits that.
    pub async fn create_assistant(&self, request: CreateAssistantRequest) -> Result<CreateAssistantResponse, Error> {
        let deadline = self.deadline();
        let response: CreateAssistantResponse = until(deadline, async {
            let request = self.connection.request(request, deadline).await?;
            Ok(self.connection.stub().create_assistant(request).await?.into_inner())
        })
        .await?;
        required(response.assistant.as_ref(), "assistant")?;
        Ok(response)
    }

    /// Returns the current state of an assistant. The call is retried while the server is unavailable.
    ///
    /// # Errors
    ///
    /// `ASSISTANT_NOT_FOUND`.
    pub async fn get_assistant(&self, request: GetAssistantRequest) -> Result<Assistant, Error> {
        let deadline = self.deadline();
        let response = until(
            deadline,
            retried(|| async {
                let request = self.connection.request(request.clone(), deadline).await?;
                Ok(self.connection.stub().get_assistant(request).await?.into_inner())
            }),
        )
        .await?;
        required(response.assistant, "assistant")
    }

    /// Returns the messages of an assistant, from all pages. The stream fetches each page when it is needed, and retries
    /// while the server is unavailable. A `page_token` selects the first page.
    ///
    /// # Errors
    ///
    /// `ASSISTANT_NOT_FOUND`. Errors are items of the stream.
    pub fn list_messages(&self, request: ListMessagesRequest) -> Messages {
        Messages::new(self.clone(), request)
    }

    /// Fetches one page of messages. The call is retried while the server is unavailable.
    pub(crate) async fn list_page(&self, request: &ListMessagesRequest) -> Result<ListMessagesResponse, Error> {
        let deadline = self.deadline();
        until(
            deadline,
            retried(|| async {
                let request = self.connection.request(request.clone(), deadline).await?;
                Ok(self.connection.stub().list_messages(request).await?.into_inner())
            }),
        )
        .await
    }

    /// Deletes an assistant and all of its messages permanently.
    ///
    /// # Errors
    ///
    /// `ASSISTANT_NOT_FOUND`.
    pub async fn delete_assistant(&self, request: DeleteAssistantRequest) -> Result<(), Error> {
        let deadline = self.deadline();
        until(deadline, async {
            let request = self.connection.request(request, deadline).await?;
            self.connection.stub().delete_assistant(request).await?;
            Ok(())
        })
        .await
    }

    /// Posts a user message and streams the reply.
    ///
    /// The turn is stored as a whole when the reply completes, or not at all. It is posted when the reply is first polled;
    /// its timeout starts now. A missing `request_id` is generated.
    ///
    /// # Errors
    ///
    /// Errors are items of the [`Reply`].
    pub fn post_user_query(&self, request: PostUserQueryRequest) -> Reply {
        Reply::new(self.connection.clone(), with_request_id(request), self.retry_budget())
    }

    /// Posts a user message and returns the last event of the reply once the turn is stored. The turn is posted again when
    /// the connection breaks, like that of a [`Reply`].
    ///
    /// # Errors
    ///
    /// The same as those of a [`Reply`].
    pub async fn post_user_query_unary(&self, request: PostUserQueryRequest) -> Result<TurnCompleted, Error> {
        let request = with_request_id(request);
        let mut budget = self.retry_budget();
        loop {
            let response: Result<PostUserQueryUnaryResponse, _> = until(budget.deadline(), async {
                let post = self.connection.request(request.clone(), budget.deadline()).await?;
                Ok(self.connection.stub().post_user_query_unary(post).await?.into_inner())
            })
            .await;
            match response {
                Ok(response) => return required(response.completed, "completed"),
                Err(error) => tokio::time::sleep(budget.delay_after(error, Instant::now())?).await,
            }
        }
    }

    /// Cancels a running turn of any caller, regardless of its `on_disconnect`. The turn is not stored.
    ///
    /// # Errors
    ///
    /// `TURN_NOT_FOUND` if the turn is not running.
    pub async fn cancel_turn(&self, request: CancelTurnRequest) -> Result<(), Error> {
        let deadline = self.deadline();
        until(deadline, async {
            let request = self.connection.request(request, deadline).await?;
            self.connection.stub().cancel_turn(request).await?;
            Ok(())
        })
        .await
    }

    /// Returns the deadline of a call that starts now.
    fn deadline(&self) -> Option<Instant> {
        let timeout = self.timeout.filter(|timeout| *timeout <= MAX_TIMEOUT);
        timeout.map(|timeout| Instant::now() + timeout)
    }

    fn retry_budget(&self) -> RetryBudget {
        RetryBudget::new(self.deadline(), self.reconnect_timeout)
    }
}

/// Returns the request with a `request_id`, which makes the turn safe to post again.
fn with_request_id(mut request: PostUserQueryRequest) -> PostUserQueryRequest {
    if request.request_id.is_empty() {
        request.request_id = format!("{:032x}", rand::random::<u128>());
    }
    request
}

/// Returns a message that the contract requires in a response, or an error if it is missing.
fn required<T>(message: Option<T>, field: &str) -> Result<T, Error> {
    message.ok_or_else(|| Error::malformed_response(&format!("`{field}` is missing")))
}

/// Makes a call that only reads, and retries it while the server is unavailable.
///
/// Other calls are not retried, because a retry after a lost response can do harm: `create_assistant` would fail with
/// `ALREADY_EXISTS` after its own success.
async fn retried<T, Call>(call: impl Fn() -> Call) -> Result<T, Error>
where
    Call: Future<Output = Result<T, Error>>,
{
    for delay in read_retry_delays() {
        match call().await {
            Err(error) if error.code() == Code::Unavailable => tokio::time::sleep(delay).await,
            result => return result,
        }
    }
    call().await
}
