//! The token of a client: a constant, or the result of a function that is called before each call.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;

use tonic::metadata::{Ascii, MetadataValue};

use crate::{BuildError, Error};

type BoxError = Box<dyn StdError + Send + Sync>;
type TokenFuture = Pin<Box<dyn Future<Output = Result<String, BoxError>> + Send>>;

/// The token of a client.
#[derive(Clone)]
pub(crate) enum Token {
    Constant(String),
    Function(Arc<dyn Fn() -> TokenFuture + Send + Sync>),
}

impl Token {
    /// Returns the token of a function, whose future and error it boxes.
    pub(crate) fn function<F, Call, E>(function: F) -> Self
    where
        F: Fn() -> Call + Send + Sync + 'static,
        Call: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self::Function(Arc::new(move || {
            let call = function();
            Box::pin(async move { call.await.map_err(Into::into) })
        }))
    }

    /// Checks a constant token.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        match self {
            Self::Constant(token) => header(token).map(drop),
            Self::Function(_) => Ok(()),
        }
    }

    /// Returns the `authorization` header of the next call.
    pub(crate) async fn header(&self) -> Result<MetadataValue<Ascii>, Error> {
        let header = match self {
            Self::Constant(token) => header(token),
            Self::Function(function) => header(&function().await.map_err(Error::token_failed)?),
        };
        header.map_err(|error| Error::token_failed(error.into()))
    }
}

/// Returns the header for a token, which it checks: visible ASCII characters, with spaces only between them.
fn header(token: &str) -> Result<MetadataValue<Ascii>, BuildError> {
    if token.is_empty() || token.trim() != token || !token.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(BuildError::InvalidToken);
    }
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
        .parse()
        .map_err(|_| BuildError::InvalidToken)?;
    value.set_sensitive(true);
    Ok(value)
}
