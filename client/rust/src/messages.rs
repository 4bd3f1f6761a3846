//! The messages of an assistant, from all pages.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};

use crate::v1::{ListMessagesRequest, Message};
use crate::{Client, Error};

/// A stream of the messages of an assistant. It fetches each page when it is needed.
///
/// # Errors
///
/// An error ends the stream.
#[must_use = "streams do nothing unless polled"]
pub struct Messages(Pin<Box<dyn Stream<Item = Result<Message, Error>> + Send>>);

impl Messages {
    pub(crate) fn new(client: Client, request: ListMessagesRequest) -> Self {
        let pages = stream::try_unfold(Some(request), move |request| next_page(client.clone(), request));
        let messages = pages.map_ok(|page| stream::iter(page).map(Ok)).try_flatten();
        Self(Box::pin(messages))
    }
}

/// Fetches a page and returns it with the request for the next one. Returns `None` after the last page.
async fn next_page(
    client: Client,
    request: Option<ListMessagesRequest>,
) -> Result<Option<(Vec<Message>, Option<ListMessagesRequest>)>, Error> {
    let Some(mut request) = request else {
        return Ok(None);
    };
    let page = client.list_page(&request).await?;
    request.page_token = page.next_page_token;
    let next = (!request.page_token.is_empty()).then_some(request);
    Ok(Some((page.messages, next)))
}

impl Stream for Messages {
    type Item = Result<Message, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").finish_non_exhaustive()
    }
}
