//! A reply as it arrives, and its text alone.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::stream::{self, Stream};
use tokio::time::Instant;
use tonic::Streaming;

use crate::attempts::Attempts;
use crate::connection::{Connection, until};
use crate::progress::Progress;
use crate::v1::{PostUserQueryRequest, PostUserQueryResponse};
use crate::{Error, Event};

/// A reply as it arrives: a stream of [`Event`]s, which ends after [`Event::Completed`] or with an error.
///
/// It does nothing unless it is polled, and holds nothing beyond what it was polled for. **Dropping it ends the call**
/// at once, and nothing of the turn is stored then, unless it is completed or its request has said
/// [`OnDisconnect::Continue`](crate::OnDisconnect::Continue).
///
/// When the connection breaks, or the server stops, the turn is posted again with the same `request_id`, and the stream
/// goes on where it was. Only where the turn had to run anew, and the model now writes something else, another
/// [`Event::Started`] says that the reply begins again: **what came before it is void.**
///
/// # Errors
///
/// The last item is an [`Error`] where the turn failed, and nothing of it is stored then. One with the code `Internal`
/// and no reason is the exception: the server broke the contract, and nobody knows if the turn is stored.
#[must_use = "a reply does nothing unless it is polled"]
pub struct Reply {
    request_id: String,
    has_begun: bool,
    events: Pin<Box<dyn Stream<Item = Result<Event, Error>> + Send>>,
}

impl Reply {
    pub(crate) fn new(connection: Connection, request: PostUserQueryRequest, attempts: Attempts) -> Self {
        let request_id = request.request_id.clone();
        let turn = Turn {
            connection,
            request,
            attempts,
            progress: Progress::default(),
            responses: None,
            events: VecDeque::new(),
            is_completed: false,
        };
        let events = stream::try_unfold(turn, |mut turn| async {
            Ok(turn.next_event().await?.map(|event| (event, turn)))
        });
        Self {
            request_id,
            has_begun: false,
            events: Box::pin(events),
        }
    }

    /// The identifier of the turn, to cancel it or to post it again: the caller's, or the one that was made for it.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Reads the text alone, from where the reply is.
    pub fn text(self) -> Text {
        Text { reply: Some(self) }
    }
}

impl Stream for Reply {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = ready!(self.events.as_mut().poll_next(context));
        self.has_begun |= matches!(event, Some(Ok(Event::Started(_))));
        Poll::Ready(event)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}

/// The text of a [`Reply`] as it arrives: a stream of its pieces. Other events are passed over. Dropping it ends the
/// call.
///
/// How a reply is cut into pieces has no meaning. A piece can't be taken back: where the reply begins anew, the stream
/// ends with an error with the code `Unavailable` and no reason.
#[derive(Debug)]
#[must_use = "a text does nothing unless it is polled"]
pub struct Text {
    /// `None` after the end, because an error ends the call at once.
    reply: Option<Reply>,
}

impl Stream for Text {
    type Item = Result<String, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while let Some(reply) = &mut self.reply {
            let had_begun = reply.has_begun;
            let end = match ready!(Pin::new(reply).poll_next(context)) {
                Some(Ok(Event::TextDelta(delta))) => return Poll::Ready(Some(Ok(delta.text))),
                Some(Ok(Event::Started(_))) if had_begun => Some(Err(Error::begun_anew())),
                Some(Ok(_)) => continue,
                Some(Err(error)) => Some(Err(error)),
                None => None,
            };
            self.reply = None;
            return Poll::Ready(end);
        }
        Poll::Ready(None)
    }
}

/// A turn: its posts, one after the other, as one sequence of events.
struct Turn {
    connection: Connection,
    request: PostUserQueryRequest,
    attempts: Attempts,
    progress: Progress,
    /// The stream of the present post; `None` before its response begins.
    responses: Option<Streaming<PostUserQueryResponse>>,
    /// What the caller gets next.
    events: VecDeque<Event>,
    is_completed: bool,
}

impl Turn {
    async fn next_event(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
                self.is_completed = matches!(event, Event::Completed(_));
                return Ok(Some(event));
            }
            if self.is_completed {
                return Ok(None); // whatever comes now does not matter: the turn is stored
            }
            match until(self.attempts.deadline(), self.next_response()).await {
                Ok(Some(response)) => {
                    self.attempts.succeeded();
                    let event = response.event; // `None`: of a newer contract
                    self.events
                        .extend(event.into_iter().flat_map(|event| self.progress.accept(event)));
                }
                Ok(None) => return Err(Error::malformed("the stream ended without `completed`")),
                Err(error) => {
                    self.responses = None;
                    let pause = self.attempts.pause_after(error, Instant::now())?;
                    tokio::time::sleep(pause).await;
                    self.progress.post_again();
                }
            }
        }
    }

    async fn next_response(&mut self) -> Result<Option<PostUserQueryResponse>, Error> {
        let responses = if let Some(responses) = &mut self.responses {
            responses
        } else {
            let request = self.connection.request(self.request.clone(), self.attempts.deadline());
            let response = self.connection.stub().post_user_query(request).await?;
            self.responses.insert(response.into_inner())
        };
        Ok(responses.message().await?)
    }
}
