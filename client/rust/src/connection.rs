//! The connection to the server: target, TLS, token and HTTP/2 settings.

use std::fmt;
use std::future::Future;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use tonic::Request;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tower::Service;
use tower::util::BoxCloneSyncService;

use crate::token::Token;
use crate::v1::assistant_service_client::AssistantServiceClient;
use crate::{BuildError, Error};

const USER_AGENT: &str = concat!("palaver-rust/", env!("CARGO_PKG_VERSION"));
// A model may be silent for a long time. Pings detect a server that is gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
// By default, tonic uses the timeout of the system, which may be minutes. It has no backoff between attempts to connect: each
// attempt is made for a call, and calls have their own delays.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
// The contract keeps responses below 4 MiB. gRPC's default limit is exactly 4 MiB, which leaves no headroom.
const MAX_RESPONSE_BYTES: usize = 8 * 1024 * 1024;
const DETAILS: &str = "grpc-status-details-bin";
#[cfg(feature = "tls")]
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// The certificate chain of a client and its private key, in PEM.
#[derive(Debug)]
#[cfg_attr(not(feature = "tls"), expect(dead_code))]
pub(crate) struct ClientCertificate {
    pub(crate) chain: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

/// The certificate authorities that are trusted, if TLS is on.
#[derive(Debug)]
pub(crate) enum Tls {
    Off,
    #[cfg(feature = "tls")]
    SystemRoots,
    #[cfg(feature = "tls")]
    Pem(Vec<u8>),
}

/// What the stub calls: the transport, in the layer of the program if there is one.
pub(crate) type Stack = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, tonic::transport::Error>;

/// Puts the transport into the layer of the program.
pub(crate) type Wrap = Box<dyn FnOnce(Transport) -> Stack + Send + Sync>;

/// The connection that all calls of a client share. The first call opens it, and it is reopened when it breaks.
#[derive(Clone)]
pub(crate) struct Connection {
    stub: AssistantServiceClient<Stack>,
    token: Option<Token>,
}

impl Connection {
    pub(crate) fn new(
        target: &str,
        tls: Tls,
        certificate: Option<ClientCertificate>,
        token: Option<Token>,
        wrap: Option<Wrap>,
    ) -> Result<Self, BuildError> {
        let is_plaintext = matches!(tls, Tls::Off);
        let target = Target::parse(target)?;
        if token.is_some() && is_plaintext && !target.is_local() {
            return Err(BuildError::TokenInTheClear(target.to_string()));
        }
        token.as_ref().map_or(Ok(()), Token::check)?;
        let channel = endpoint(&target, tls, certificate)?
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(USER_AGENT)
            .expect("a version is a valid header")
            .connect_lazy();
        let transport = Transport(channel);
        let stack = match wrap {
            Some(wrap) => wrap(transport),
            None => Stack::new(transport),
        };
        let stub = AssistantServiceClient::new(stack).max_decoding_message_size(MAX_RESPONSE_BYTES);
        Ok(Self { stub, token })
    }

    /// Returns the generated client. Its clones share the connection.
    pub(crate) fn stub(&self) -> AssistantServiceClient<Stack> {
        self.stub.clone()
    }

    /// Returns a request with this message and deadline, and with the token, for which it may have to wait.
    pub(crate) async fn request<T>(&self, message: T, deadline: Option<Instant>) -> Result<Request<T>, Error> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.header().await?);
        }
        if let Some(deadline) = deadline {
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        Ok(request)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Awaits a part of a call, but no longer than until the deadline of the whole call.
///
/// tonic enforces a timeout only until the response starts, and reports it as `Cancelled`.
pub(crate) async fn until<T>(
    deadline: Option<Instant>,
    part: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match deadline {
        None => part.await,
        Some(deadline) => tokio::time::timeout_at(deadline, part)
            .await
            .unwrap_or_else(|_| Err(Error::deadline_exceeded())),
    }
}

/// The address of the server.
#[derive(Debug, PartialEq)]
enum Target {
    /// A host and a port.
    Tcp(http::uri::Authority),
    /// The path of a Unix socket.
    Unix(String),
}

impl Target {
    fn parse(target: &str) -> Result<Self, BuildError> {
        let invalid = || BuildError::InvalidTarget(target.to_owned());
        if let Some(path) = target.strip_prefix("unix:") {
            let path = path
                .strip_prefix("//")
                .map_or(Some(path), |path| path.starts_with('/').then_some(path));
            let path = path.filter(|path| !path.is_empty()).ok_or_else(invalid)?;
            return Ok(Self::Unix(path.to_owned()));
        }
        let address = target.strip_prefix("dns:///").unwrap_or(target);
        let authority: http::uri::Authority = address.parse().map_err(|_| invalid())?;
        let host = authority.host();
        let port = authority.port_u16().and(authority.port()).ok_or_else(invalid)?;
        // Anything else in an authority, such as `user@host` or `[::1]suffix`, could make one host look like another.
        if host.is_empty() || address != format!("{host}:{port}") {
            return Err(invalid());
        }
        Ok(Self::Tcp(authority))
    }

    /// Returns whether the target can only mean this machine.
    fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(authority) => {
                let host = authority.host();
                match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
                    Some(address) => address
                        .parse()
                        .is_ok_and(|address: Ipv6Addr| address.to_canonical().is_loopback()),
                    None => {
                        host.eq_ignore_ascii_case("localhost")
                            || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
                    }
                }
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => authority.fmt(f),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

#[cfg_attr(not(feature = "tls"), expect(clippy::needless_pass_by_value))]
fn endpoint(target: &Target, tls: Tls, certificate: Option<ClientCertificate>) -> Result<Endpoint, BuildError> {
    let scheme = if matches!(tls, Tls::Off) { "http" } else { "https" };
    let endpoint = match target {
        Target::Tcp(authority) => Endpoint::from_shared(format!("{scheme}://{authority}")),
        Target::Unix(path) => Endpoint::from_shared(format!("unix:{path}"))
            .map(|endpoint| endpoint.origin(Uri::from_static("http://localhost"))),
    };
    let endpoint = endpoint.map_err(|_| BuildError::InvalidTarget(target.to_string()))?;
    match tls {
        Tls::Off if certificate.is_some() => Err(BuildError::Tls("a client certificate requires TLS".into())),
        Tls::Off => Ok(endpoint),
        #[cfg(feature = "tls")]
        tls => with_tls(endpoint, tls, certificate),
    }
}

#[cfg(feature = "tls")]
fn with_tls(endpoint: Endpoint, tls: Tls, certificate: Option<ClientCertificate>) -> Result<Endpoint, BuildError> {
    use tonic::transport::{Certificate, ClientTlsConfig, Identity};
    let config = ClientTlsConfig::new().timeout(CONNECT_TIMEOUT);
    let config = match tls {
        // tonic accepts a PEM file without a certificate, and then trusts no server.
        Tls::Pem(pem) if !pem.windows(CERTIFICATE.len()).any(|part| part == CERTIFICATE) => {
            return Err(BuildError::Tls("the PEM file contains no certificate".into()));
        }
        Tls::Pem(pem) => config.ca_certificate(Certificate::from_pem(pem)),
        _ => config.with_native_roots(),
    };
    let config = match certificate {
        Some(ClientCertificate { chain, key }) => config.identity(Identity::from_pem(chain, key)),
        None => config,
    };
    endpoint
        .tls_config(config)
        .map_err(|error| BuildError::Tls(error.into()))
}

/// The connection of a client as a service for HTTP requests, which [`ClientBuilder::layer`](crate::ClientBuilder::layer)
/// wraps.
///
/// It removes status details that are not base64, because tonic panics on them.
#[derive(Clone, Debug)]
pub struct Transport(Channel);

impl Service<http::Request<Body>> for Transport {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let response = self.0.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            sanitize_details(response.headers_mut());
            Ok(response.map(|body| {
                Body::new(body.map_frame(|mut frame| {
                    if let Some(trailers) = frame.trailers_mut() {
                        sanitize_details(trailers);
                    }
                    frame
                }))
            }))
        })
    }
}

/// Removes the status details if they are not base64.
fn sanitize_details(headers: &mut http::HeaderMap) {
    if headers.contains_key(DETAILS) {
        let metadata = MetadataMap::from_headers(headers.clone());
        let is_valid = metadata
            .get_bin(DETAILS)
            .is_some_and(|details| details.to_bytes().is_ok());
        if !is_valid {
            headers.remove(DETAILS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_hosts_with_ports_or_unix_sockets() {
        for target in [
            "localhost:50051",
            "[::1]:1",
            "palaver.example.com:443",
            "127.0.0.1:50051",
        ] {
            assert_eq!(Target::parse(target).unwrap().to_string(), target);
            assert_eq!(Target::parse(&format!("dns:///{target}")).unwrap().to_string(), target);
        }
        for target in ["unix:/run/palaver", "unix:///run/palaver"] {
            assert_eq!(Target::parse(target).unwrap(), Target::Unix("/run/palaver".into()));
        }
    }

    #[test]
    fn invalid_targets_are_rejected() {
        for target in [
            "",
            ":1",
            "localhost",
            "localhost:",
            "localhost:x",
            "localhost:99999",
            "::1",
            "https://localhost:1",
            "localhost:1/path",
            "localhost:1@example.com:2",
            "[::1]example.com:2",
            "a b:1",
            "unix:",
            "unix://",
            "unix://example.com/run/palaver",
            "a:1,b:2",
        ] {
            assert!(
                matches!(Target::parse(target), Err(BuildError::InvalidTarget(_))),
                "{target}"
            );
        }
    }

    #[test]
    fn details_that_are_not_base64_are_removed() {
        let mut headers = http::HeaderMap::new();
        headers.insert(DETAILS, "CAU".parse().unwrap());
        sanitize_details(&mut headers);
        assert_eq!(headers[DETAILS], "CAU");
        headers.insert(DETAILS, "no base64".parse().unwrap());
        sanitize_details(&mut headers);
        assert!(headers.is_empty());
    }
}
