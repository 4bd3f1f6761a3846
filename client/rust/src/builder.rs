//! The options of a client.

use std::error::Error as StdError;
use std::fmt;
#[cfg(feature = "tls")]
use std::path::Path;
use std::time::Duration;

use crate::Client;
use crate::connection::{Connection, Tls};

const DEFAULT_TARGET: &str = "127.0.0.1:50051";
const DEFAULT_RECONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The options of a [`Client`]; [`Client::builder`] makes one.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), palaver::BuildError> {
/// use std::time::Duration;
///
/// let client = palaver::Client::builder()
///     .target("localhost:50051")
///     .token("secret")
///     .timeout(Duration::from_secs(60))
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder makes a client only when it is built"]
pub struct ClientBuilder {
    target: String,
    tls: Tls,
    token: Option<String>,
    timeout: Option<Duration>,
    reconnect_timeout: Duration,
}

impl ClientBuilder {
    pub(crate) fn new() -> Self {
        Self {
            target: DEFAULT_TARGET.to_owned(),
            tls: Tls::Off,
            token: None,
            timeout: None,
            reconnect_timeout: DEFAULT_RECONNECT_TIMEOUT,
        }
    }

    /// The server: `host:port`, `dns:///host:port` or `unix:path`. The default is `127.0.0.1:50051`.
    pub fn target(self, target: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            ..self
        }
    }

    /// TLS with the system's certificate authorities. The default is plaintext.
    #[cfg(feature = "tls")]
    pub fn tls(self) -> Self {
        Self {
            tls: Tls::SystemRoots,
            ..self
        }
    }

    /// TLS with the certificate authorities of a PEM file instead of the system's.
    ///
    /// # Errors
    ///
    /// [`BuildError::Tls`], where the file can't be read.
    #[cfg(feature = "tls")]
    pub fn tls_with_ca_file(self, path: impl AsRef<Path>) -> Result<Self, BuildError> {
        let path = path.as_ref();
        let pem =
            std::fs::read(path).map_err(|error| BuildError::Tls(format!("{}: {error}", path.display()).into()))?;
        Ok(self.tls_with_ca_pem(pem))
    }

    /// TLS with the certificate authorities of a PEM text instead of the system's.
    #[cfg(feature = "tls")]
    pub fn tls_with_ca_pem(self, pem: impl Into<Vec<u8>>) -> Self {
        Self {
            tls: Tls::Pem(pem.into()),
            ..self
        }
    }

    /// A bearer token of visible ASCII characters, sent as `authorization: Bearer <token>` with every call. Without TLS
    /// it is sent only to this machine: `localhost`, loopback addresses and Unix sockets.
    pub fn token(self, token: impl Into<String>) -> Self {
        Self {
            token: Some(token.into()),
            ..self
        }
    }

    /// How long each call may take. The default is `None`: as long as it takes.
    ///
    /// For a reply that is all of it, to the last event and however often it is posted; for
    /// [`Client::list_messages`] it is each page. [`Client::with_timeout`] sets it for single calls.
    pub fn timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        Self {
            timeout: timeout.into(),
            ..self
        }
    }

    /// How long a turn may go without its connection, 10 s by default. When that breaks, or the server stops, the turn
    /// is posted again, and its caller gets each piece of the reply once. Zero: the caller gets the error.
    pub fn reconnect_timeout(self, timeout: Duration) -> Self {
        Self {
            reconnect_timeout: timeout,
            ..self
        }
    }

    /// Makes the client. It connects with the first call.
    ///
    /// # Errors
    ///
    /// A [`BuildError`], where the options can't be used, or not together.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime. The client's connection lives in that one.
    pub fn build(self) -> Result<Client, BuildError> {
        let connection = Connection::new(&self.target, self.tls, self.token.as_deref())?;
        Ok(Client::new_with(connection, self.timeout, self.reconnect_timeout))
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// A client can't be made of its options.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// The target, which it holds, is neither `host:port` nor `unix:path`.
    InvalidTarget(String),
    /// The token has other characters than visible ASCII ones, or none.
    InvalidToken,
    /// The token would go over the network in the clear, to the target that it holds.
    TokenInTheClear(String),
    /// TLS can't be set up: the certificate authorities can't be read, or there are none, or the target is a Unix
    /// socket.
    Tls(Box<dyn StdError + Send + Sync>),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidTarget(target) => {
                write!(f, "the target {target:?} is neither \"host:port\" nor \"unix:path\"")
            }
            Self::InvalidToken => f.write_str("the token must consist of visible ASCII characters"),
            Self::TokenInTheClear(target) => {
                write!(f, "the token would be sent to {target:?} in the clear: use TLS")
            }
            Self::Tls(_) => f.write_str("TLS can't be set up"),
        }
    }
}

impl StdError for BuildError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Tls(error) => Some(&**error),
            _ => None,
        }
    }
}
