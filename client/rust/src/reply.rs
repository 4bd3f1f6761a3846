//! A reply as it arrives, and a stream of only its text.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::stream::{self, Stream};
use tokio::time::Instant;
use tonic::Streaming;
use tracing::{Instrument as _, Span};

use crate::connection::{Connection, until};
use crate::replay_filter::ReplayFilter;
use crate::retry_budget::RetryBudget;
use crate::v1::{PostUserQueryRequest, PostUserQueryResponse};
use crate::{Error, Event};

/// A reply as it arrives: a stream of [`Event`]s, which ends after [`Event::Completed`] or with an error.
///
/// It does nothing unless it is polled, and buffers nothing beyond what it was polled for. **Dropping it ends the call**
/// immediately. The turn is then cancelled and not stored, unless it is completed or was posted with
/// [`OnDisconnect::Continue`](crate::OnDisconnect::Continue).
///
/// When the connection breaks or the server shuts down, the turn is posted again with the same `request_id`, and the stream
/// resumes where it stopped. If the turn had to run again and the model wrote something else, the reply restarts: **a second
/// [`Event::Started`] voids all events before it.** With `OnDisconnect::Continue`, this happens only if the server dies.
/// After three posts in a row that the server answered but that brought nothing new, the stream ends with the error, because
/// each post may be another model call.
///
/// # Errors
///
/// If the turn fails, the last item is an [`Error`], and the turn is not stored. The exception is the code `Internal` without
/// a reason: the server broke the contract, and it is unknown whether the turn is stored.
#[must_use = "streams do nothing unless polled"]
pub struct Reply {
    request_id: String,
    is_started: bool,
    events: Pin<Box<dyn Stream<Item = Result<Event, Error>> + Send>>,
}

impl Reply {
    pub(crate) fn new(connection: Connection, request: PostUserQueryRequest, budget: RetryBudget) -> Self {
        let request_id = request.request_id.clone();
        let turn = Turn {
            connection,
            request,
            span: Span::current(),
            budget,
            filter: ReplayFilter::default(),
            responses: None,
            events: VecDeque::new(),
            is_completed: false,
        };
        let events = stream::try_unfold(turn, |mut turn| async {
            Ok(turn.next_event().await?.map(|event| (event, turn)))
        });
        Self {
            request_id,
            is_started: false,
            events: Box::pin(events),
        }
    }

    /// Returns the identifier of the turn, to cancel it or to post it again: the one of the request, or the generated one.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Returns a stream of only the text, from the current position of the reply.
    pub fn text(self) -> Text {
        Text { reply: Some(self) }
    }
}

impl Stream for Reply {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = ready!(self.events.as_mut().poll_next(context));
        self.is_started |= matches!(event, Some(Ok(Event::Started(_))));
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

/// The text of a [`Reply`] as it arrives: a stream of pieces, without the other events. Dropping it ends the call.
///
/// How the text is split into pieces has no meaning. Delivered text can't be taken back: if the reply restarts, the stream
/// ends with an error that has the code `Unavailable` and no reason.
#[derive(Debug)]
#[must_use = "streams do nothing unless polled"]
pub struct Text {
    /// `None` after the end, so that an error ends the call immediately.
    reply: Option<Reply>,
}

impl Stream for Text {
    type Item = Result<String, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while let Some(reply) = &mut self.reply {
            let was_started = reply.is_started;
            let end = match ready!(Pin::new(reply).poll_next(context)) {
                Some(Ok(Event::TextDelta(delta))) => return Poll::Ready(Some(Ok(delta.text))),
                Some(Ok(Event::Started(_))) if was_started => Some(Err(Error::reply_restarted())),
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

/// A turn: all of its posts as one sequence of events.
struct Turn {
    connection: Connection,
    request: PostUserQueryRequest,
    /// Every post belongs to the trace in which the reply was created, wherever it is read.
    span: Span,
    budget: RetryBudget,
    filter: ReplayFilter,
    /// The stream of the current post, or `None` before its response starts.
    responses: Option<Streaming<PostUserQueryResponse>>,
    /// The events to deliver next.
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
                return Ok(None); // the turn is stored, so everything else is ignored
            }
            match until(self.budget.deadline(), self.next_response()).await {
                Ok(Some(response)) => {
                    self.budget.reset();
                    let event = response.event; // `None` if it is an event of a newer contract
                    self.events
                        .extend(event.into_iter().flat_map(|event| self.filter.accept(event)));
                }
                Ok(None) => return Err(Error::malformed_response("the stream ended without `completed`")),
                Err(error) if self.filter.may_repeat() => {
                    self.responses = None;
                    let delay = self.budget.delay_after(error, Instant::now())?;
                    tokio::time::sleep(delay).await;
                    self.filter.begin_replay();
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn next_response(&mut self) -> Result<Option<PostUserQueryResponse>, Error> {
        let responses = if let Some(responses) = &mut self.responses {
            responses
        } else {
            let response = self.post().instrument(self.span.clone()).await?;
            self.responses.insert(response)
        };
        Ok(responses.message().await?)
    }

    async fn post(&self) -> Result<Streaming<PostUserQueryResponse>, Error> {
        let deadline = self.budget.deadline();
        let request = self.connection.request(self.request.clone(), deadline).await?;
        Ok(self.connection.stub().post_user_query(request).await?.into_inner())
    }
}
