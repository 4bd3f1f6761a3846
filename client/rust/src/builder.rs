//! The options of a client.

use std::error::Error as StdError;
use std::fmt;
#[cfg(feature = "tls")]
use std::path::Path;
use std::time::Duration;

use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Bytes};
use tower::{Layer, Service, ServiceExt as _};

use crate::Client;
use crate::connection::{ClientCertificate, Connection, Stack, Tls, Transport, Wrap};
use crate::token::Token;

const DEFAULT_TARGET: &str = "127.0.0.1:50051";
const DEFAULT_RECONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The options of a [`Client`], from [`Client::builder`].
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
#[must_use = "a builder does nothing until `build` is called"]
pub struct ClientBuilder {
    target: String,
    tls: Tls,
    certificate: Option<ClientCertificate>,
    token: Option<Token>,
    timeout: Option<Duration>,
    reconnect_timeout: Duration,
    wrap: Option<Wrap>,
}

impl ClientBuilder {
    pub(crate) fn new() -> Self {
        Self {
            target: DEFAULT_TARGET.to_owned(),
            tls: Tls::Off,
            certificate: None,
            token: None,
            timeout: None,
            reconnect_timeout: DEFAULT_RECONNECT_TIMEOUT,
            wrap: None,
        }
    }

    /// Sets the server: `host:port`, `dns:///host:port` or `unix:path`. The default is `127.0.0.1:50051`.
    pub fn target(self, target: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            ..self
        }
    }

    /// Enables TLS with the system's certificate authorities. The default is plaintext.
    #[cfg(feature = "tls")]
    pub fn tls(self) -> Self {
        Self {
            tls: Tls::SystemRoots,
            ..self
        }
    }

    /// Enables TLS with the certificate authorities of a PEM file instead of the system's.
    ///
    /// # Errors
    ///
    /// [`BuildError::Tls`] if the file can't be read.
    #[cfg(feature = "tls")]
    pub fn tls_with_ca_file(self, path: impl AsRef<Path>) -> Result<Self, BuildError> {
        Ok(self.tls_with_ca_pem(read(path.as_ref())?))
    }

    /// Enables TLS with certificate authorities in PEM format instead of the system's.
    #[cfg(feature = "tls")]
    pub fn tls_with_ca_pem(self, pem: impl Into<Vec<u8>>) -> Self {
        Self {
            tls: Tls::Pem(pem.into()),
            ..self
        }
    }

    /// Presents a certificate to servers that ask for one: the certificate chain and its private key, in two PEM files. It
    /// requires TLS.
    ///
    /// # Errors
    ///
    /// [`BuildError::Tls`] if a file can't be read.
    #[cfg(feature = "tls")]
    pub fn client_certificate_files(self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, BuildError> {
        Ok(self.client_certificate_pem(read(chain.as_ref())?, read(key.as_ref())?))
    }

    /// Presents a certificate to servers that ask for one: the certificate chain and its private key, in PEM format. It
    /// requires TLS.
    #[cfg(feature = "tls")]
    pub fn client_certificate_pem(self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        Self {
            certificate: Some(ClientCertificate {
                chain: chain.into(),
                key: key.into(),
            }),
            ..self
        }
    }

    /// Sets a bearer token, in visible ASCII characters. Every call sends it as `authorization: Bearer <token>`. Without TLS,
    /// it is accepted only for targets on this machine: `localhost`, loopback addresses and Unix sockets.
    pub fn token(self, token: impl Into<String>) -> Self {
        Self {
            token: Some(Token::Constant(token.into())),
            ..self
        }
    }

    /// Sets a function that returns a [`token`](Self::token) that expires.
    ///
    /// It is called before every call, every page and every post of a turn, so it should keep its token as long as it is
    /// valid. The timeout of the call covers it. If it fails, the call fails with
    /// [`Code::Unauthenticated`](crate::Code::Unauthenticated) and an empty reason, and the
    /// [source](std::error::Error::source) is the function's error.
    ///
    /// ```
    /// # async fn fresh_token() -> Result<String, std::io::Error> { Ok("secret".into()) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), palaver::BuildError> {
    /// let client = palaver::Client::builder().token_function(|| fresh_token()).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn token_function<F, Call, E>(self, function: F) -> Self
    where
        F: Fn() -> Call + Send + Sync + 'static,
        Call: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        Self {
            token: Some(Token::function(function)),
            ..self
        }
    }

    /// Sets the timeout of each call. The default is `None`: no timeout.
    ///
    /// The timeout of a reply covers the whole reply, including all of its posts. The timeout of
    /// [`Client::list_messages`] applies to each page. [`Client::with_timeout`] sets it for single calls.
    pub fn timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        Self {
            timeout: timeout.into(),
            ..self
        }
    }

    /// Sets how long a turn may be without a connection, 10 s by default. When the connection breaks or the server shuts
    /// down, the turn is posted again, and each event of the reply is delivered once. Zero disables posting again.
    pub fn reconnect_timeout(self, timeout: Duration) -> Self {
        Self {
            reconnect_timeout: timeout,
            ..self
        }
    }

    /// Sets a tower layer that every call goes through, such as the one of `tonic-tracing-opentelemetry` or an
    /// `InterceptorLayer` of tonic. The default is none.
    ///
    /// A post of a reply is made in the `tracing` span in which the reply was created.
    pub fn layer<L, S, B>(self, layer: L) -> Self
    where
        L: Layer<Transport, Service = S> + Send + Sync + 'static,
        S: Service<http::Request<Body>, Response = http::Response<B>, Error = tonic::transport::Error>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn StdError + Send + Sync>>,
    {
        Self {
            wrap: Some(Box::new(move |transport| {
                Stack::new(layer.layer(transport).map_response(|response| response.map(Body::new)))
            })),
            ..self
        }
    }

    /// Creates the client. It connects with the first call.
    ///
    /// # Errors
    ///
    /// A [`BuildError`] if an option is invalid, or if the options conflict.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime. The client's connection runs on that runtime.
    pub fn build(self) -> Result<Client, BuildError> {
        let connection = Connection::new(&self.target, self.tls, self.certificate, self.token, self.wrap)?;
        Ok(Client::new_with(connection, self.timeout, self.reconnect_timeout))
    }
}

#[cfg(feature = "tls")]
fn read(pem: &Path) -> Result<Vec<u8>, BuildError> {
    std::fs::read(pem).map_err(|error| BuildError::Tls(format!("{}: {error}", pem.display()).into()))
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// The options of a client are invalid.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// The target is neither `host:port` nor `unix:path`. Contains the target.
    InvalidTarget(String),
    /// The token is empty, or contains characters other than visible ASCII.
    InvalidToken,
    /// The token would be sent over the network in the clear. Contains the target.
    TokenInTheClear(String),
    /// TLS can't be configured: a PEM file can't be read, there are no certificate authorities, the client certificate lacks
    /// TLS or does not belong to its key, or the target is a Unix socket.
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
            Self::Tls(_) => f.write_str("TLS can't be configured"),
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
