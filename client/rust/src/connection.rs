//! How the server is reached: target, TLS, token, and the settings of the HTTP/2 connection.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use tonic::Request;
use tonic::body::Body;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

use crate::v1::assistant_service_client::AssistantServiceClient;
use crate::{BuildError, Error};

const USER_AGENT: &str = concat!("palaver-rust/", env!("CARGO_PKG_VERSION"));
// A model may think for long without a word; pings tell a silent server from one that is gone.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
// tonic's default is the system's, which may be minutes. Between its attempts to connect it does not pause: each is made
// for a call, and calls have pauses of their own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
// The contract keeps responses below 4 MiB. gRPC's usual limit of exactly that leaves no room.
const MAX_RESPONSE_BYTES: usize = 8 * 1024 * 1024;
const DETAILS: &str = "grpc-status-details-bin";
#[cfg(feature = "tls")]
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// What the server's certificate must be signed by.
#[derive(Debug)]
pub(crate) enum Tls {
    Off,
    #[cfg(feature = "tls")]
    SystemRoots,
    #[cfg(feature = "tls")]
    Pem(Vec<u8>),
}

/// The connection that all calls of a client share. It is opened with the first call, and anew when it broke.
#[derive(Clone)]
pub(crate) struct Connection {
    stub: AssistantServiceClient<DetailsChecked>,
    authorization: Option<MetadataValue<Ascii>>,
}

impl Connection {
    pub(crate) fn new(target: &str, tls: Tls, token: Option<&str>) -> Result<Self, BuildError> {
        let is_plaintext = matches!(tls, Tls::Off);
        let target = Target::parse(target)?;
        if token.is_some() && is_plaintext && !target.is_local() {
            return Err(BuildError::TokenInTheClear(target.to_string()));
        }
        let authorization = token.map(authorization).transpose()?;
        let channel = endpoint(&target, tls)?
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(USER_AGENT)
            .expect("a version is a valid header")
            .connect_lazy();
        let stub = AssistantServiceClient::new(DetailsChecked(channel)).max_decoding_message_size(MAX_RESPONSE_BYTES);
        Ok(Self { stub, authorization })
    }

    /// The generated client. Its clones share the connection.
    pub(crate) fn stub(&self) -> AssistantServiceClient<DetailsChecked> {
        self.stub.clone()
    }

    /// Returns a message as a request that the server may take until the deadline for.
    pub(crate) fn request<T>(&self, message: T, deadline: Option<Instant>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(deadline) = deadline {
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Awaits a part of a call, until the deadline of the whole.
///
/// tonic watches over a deadline only up to the beginning of the response, and reports it as `Cancelled`.
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

fn authorization(token: &str) -> Result<MetadataValue<Ascii>, BuildError> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(BuildError::InvalidToken);
    }
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
        .parse()
        .map_err(|_| BuildError::InvalidToken)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Where the server listens.
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
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err(invalid())
            } else {
                Ok(Self::Unix(path.to_owned()))
            };
        }
        let address = target.strip_prefix("dns:///").unwrap_or(target);
        let authority: http::uri::Authority = address.parse().map_err(|_| invalid())?;
        // A user before an `@` could make one host look like another.
        if authority.host().is_empty() || authority.port_u16().is_none() || address.contains('@') {
            return Err(invalid());
        }
        Ok(Self::Tcp(authority))
    }

    /// Whether it can only mean this machine.
    fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(authority) => {
                let host = authority.host();
                let address = host.trim_start_matches('[').trim_end_matches(']');
                host.eq_ignore_ascii_case("localhost")
                    || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
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
fn endpoint(target: &Target, tls: Tls) -> Result<Endpoint, BuildError> {
    let scheme = if matches!(tls, Tls::Off) { "http" } else { "https" };
    let endpoint = match target {
        Target::Tcp(authority) => Endpoint::from_shared(format!("{scheme}://{authority}")),
        Target::Unix(path) => Endpoint::from_shared(format!("unix:{path}"))
            .map(|endpoint| endpoint.origin(Uri::from_static("http://localhost"))),
    };
    let endpoint = endpoint.map_err(|_| BuildError::InvalidTarget(target.to_string()))?;
    match tls {
        Tls::Off => Ok(endpoint),
        #[cfg(feature = "tls")]
        tls => secured(endpoint, tls),
    }
}

#[cfg(feature = "tls")]
fn secured(endpoint: Endpoint, tls: Tls) -> Result<Endpoint, BuildError> {
    use tonic::transport::{Certificate, ClientTlsConfig};
    let config = ClientTlsConfig::new().timeout(CONNECT_TIMEOUT);
    let config = match tls {
        // tonic takes a text without any certificate, with which no server is trusted.
        Tls::Pem(pem) if !pem.windows(CERTIFICATE.len()).any(|part| part == CERTIFICATE) => {
            return Err(BuildError::Tls("there is no certificate in the PEM text".into()));
        }
        Tls::Pem(pem) => config.ca_certificate(Certificate::from_pem(pem)),
        _ => config.with_native_roots(),
    };
    let secured = endpoint.tls_config(config);
    secured.map_err(|error| BuildError::Tls(error.into()))
}

/// A channel that takes out details of a status that are not base64, because tonic panics on them.
#[derive(Clone, Debug)]
pub(crate) struct DetailsChecked(Channel);

impl Service<http::Request<Body>> for DetailsChecked {
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
            check_details(response.headers_mut());
            Ok(response.map(|body| {
                Body::new(body.map_frame(|mut frame| {
                    if let Some(trailers) = frame.trailers_mut() {
                        check_details(trailers);
                    }
                    frame
                }))
            }))
        })
    }
}

fn check_details(headers: &mut http::HeaderMap) {
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
    fn targets_are_hosts_with_ports_and_unix_sockets() {
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
    fn what_is_not_a_target_is_refused() {
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
            "a b:1",
            "unix:",
            "unix://",
            "a:1,b:2",
        ] {
            assert!(
                matches!(Target::parse(target), Err(BuildError::InvalidTarget(_))),
                "{target}"
            );
        }
    }

    #[test]
    fn only_this_machine_is_local() {
        for target in [
            "localhost:1",
            "LocalHost:1",
            "127.0.0.1:1",
            "127.9.9.9:1",
            "[::1]:1",
            "unix:x",
        ] {
            assert!(Target::parse(target).unwrap().is_local(), "{target}");
        }
        for target in [
            "localhost.example.com:1",
            "10.0.0.1:1",
            "127.0.0.1.example.com:1",
            "[::2]:1",
            "0.0.0.0:1",
        ] {
            assert!(!Target::parse(target).unwrap().is_local(), "{target}");
        }
    }

    #[test]
    fn details_that_are_not_base64_are_taken_out() {
        let mut headers = http::HeaderMap::new();
        headers.insert(DETAILS, "CAU".parse().unwrap());
        check_details(&mut headers);
        assert_eq!(headers[DETAILS], "CAU");
        headers.insert(DETAILS, "no base64".parse().unwrap());
        check_details(&mut headers);
        assert!(headers.is_empty());
    }
}
