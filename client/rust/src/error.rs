//! The error of a call, converted from the errors of tonic and the layers below it.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetail, StatusExt as _};

const DOMAIN: &str = "palaver.v1";

/// A call failed.
///
/// [`ErrorReason`](crate::ErrorReason) and the methods of [`Client`](crate::Client) document the errors of each call and what
/// to do about them.
#[derive(Clone, PartialEq)]
pub struct Error(Box<Fields>);

#[derive(Clone, PartialEq)]
struct Fields {
    code: Code,
    message: String,
    reason: String,
    field_violations: Vec<FieldViolation>,
    retry_delay: Option<Duration>,
    /// Whether the connection or the stream of the call broke, without a response of the server or a proxy.
    is_transport: bool,
    cause: Option<Cause>,
}

/// The error of a token function.
#[derive(Clone)]
struct Cause(Arc<dyn StdError + Send + Sync>);

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// One invalid field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldViolation {
    /// The path of the field in the request, for instance `history.max_messages`.
    pub field: String,
    /// What is wrong with the field, and what is allowed.
    pub description: String,
}

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Fields {
            code,
            message: message.into(),
            reason: String::new(),
            field_violations: Vec::new(),
            retry_delay: None,
            is_transport: false,
            cause: None,
        }))
    }

    fn of_transport(mut self) -> Self {
        self.0.is_transport = true;
        self
    }

    /// Returns the error of a call whose timeout has expired.
    pub(crate) fn deadline_exceeded() -> Self {
        Self::new(Code::DeadlineExceeded, "the timeout of the call expired")
    }

    /// Returns the error of a call that was not sent because the token function failed.
    pub(crate) fn token_failed(cause: Box<dyn StdError + Send + Sync>) -> Self {
        let message = format!("the token function failed: {cause}");
        let mut error = Self::new(Code::Unauthenticated, message);
        error.0.cause = Some(Cause(cause.into()));
        error
    }

    /// Returns the error for a response that breaks the contract.
    pub(crate) fn malformed_response(problem: &str) -> Self {
        let message = format!("the server's response can't be understood: {problem}");
        Self::new(Code::Internal, message)
    }

    /// Returns the error for reading only the text of a reply that restarts: delivered text can't be taken back.
    pub(crate) fn reply_restarted() -> Self {
        let message = "the connection broke, and the turn ran again with a different reply";
        Self::new(Code::Unavailable, message)
    }

    /// Returns the gRPC status.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Returns a description of the error for people. Its wording may change: programs use [`reason`](Self::reason) and
    /// [`code`](Self::code).
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the exact reason: the name of a value of [`ErrorReason`](crate::ErrorReason) without its prefix, for instance
    /// `"ASSISTANT_NOT_FOUND"`.
    ///
    /// The reason is empty if the error does not come from a Palaver server. Newer servers may send reasons that you
    /// don't know: fall back to [`code`](Self::code) then.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// Returns all invalid fields of the request, if the reason is `"INVALID_FIELD"`.
    #[must_use]
    pub fn field_violations(&self) -> &[FieldViolation] {
        &self.0.field_violations
    }

    /// Returns how long to wait before repeating the request, or `None` if the server did not suggest a delay.
    #[must_use]
    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_delay
    }

    /// Returns whether the connection or a shutdown of the server ended the call, rather than the request itself.
    pub(crate) fn is_break(&self) -> bool {
        match self.reason() {
            // A gateway that is a gRPC client reports a reset of its stream to the server in the message.
            "" => self.0.is_transport || self.code() == Code::Unavailable || self.message().contains("RST_STREAM"),
            reason => reason == "SHUTTING_DOWN", // a Palaver server gives a reason for each of its own errors
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}", self.message(), self.code())?;
        if !self.reason().is_empty() {
            write!(f, ", {}", self.reason())?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("code", &self.code())
            .field("message", &self.message())
            .field("reason", &self.reason())
            .field("field_violations", &self.field_violations())
            .field("retry_delay", &self.retry_delay())
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_ref().map(|Cause(cause)| &**cause as _)
    }
}

/// Converts a status as the client does. Programs can use this to test their error handling.
impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let mut error = match (transport_code(&status), status.message()) {
            (Some(Code::DeadlineExceeded), _) => Self::deadline_exceeded(),
            (Some(code), _) => Self::new(code, with_causes(&status)).of_transport(),
            (None, "") => Self::new(status.code(), "the call failed without a message"),
            (None, message) => Self::new(status.code(), message),
        };
        for detail in details(&status) {
            match detail {
                ErrorDetail::ErrorInfo(info) if info.domain == DOMAIN => error.0.reason = info.reason,
                ErrorDetail::BadRequest(bad_request) => {
                    let violations = bad_request.field_violations.into_iter();
                    error.0.field_violations = violations
                        .map(|violation| FieldViolation {
                            field: violation.field,
                            description: violation.description,
                        })
                        .collect();
                }
                ErrorDetail::RetryInfo(info) => error.0.retry_delay = info.retry_delay,
                _ => {}
            }
        }
        error
    }
}

/// Returns the details of a status, or none if a proxy has tampered with it.
fn details(status: &Status) -> Vec<ErrorDetail> {
    match tonic_types::Status::decode(status.details()) {
        Ok(rich) if rich.code == i32::from(status.code()) => status.get_error_details_vec(),
        _ => Vec::new(),
    }
}

/// Returns the status of a call that was ended by the layers below gRPC, or `None` if the call got a response.
///
/// tonic's own status depends on its features and is mostly `Unknown`. These are the statuses that gRPC specifies.
fn transport_code(status: &Status) -> Option<Code> {
    let mut code = None;
    for cause in causes(status) {
        if cause.is::<tonic::TimeoutExpired>() {
            return Some(Code::DeadlineExceeded);
        }
        if cause.is::<tonic::ConnectError>() || cause.is::<hyper::Error>() {
            code = Some(Code::Unavailable);
        }
        if let Some(error) = cause.downcast_ref::<h2::Error>()
            && error.is_reset()
            && let Some(reason) = error.reason()
        {
            return Some(reset_code(reason));
        }
    }
    code
}

/// Returns the gRPC status of a reset stream, as specified in
/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#errors>.
fn reset_code(reason: h2::Reason) -> Code {
    match reason {
        h2::Reason::REFUSED_STREAM => Code::Unavailable,
        h2::Reason::CANCEL => Code::Cancelled,
        h2::Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        h2::Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(status.source(), |&cause| cause.source())
}

/// Joins the messages of all causes, outermost first and without repetitions.
fn with_causes(status: &Status) -> String {
    let mut message = String::new();
    for cause in causes(status).map(ToString::to_string) {
        if !message.contains(&cause) {
            if !message.is_empty() {
                message.push_str(": ");
            }
            message.push_str(&cause);
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use tonic_types::ErrorDetails;

    use super::*;
    use crate::vectors::{self, Failure};

    fn not_found(domain: &str) -> ErrorDetails {
        ErrorDetails::with_error_info("ASSISTANT_NOT_FOUND", domain, [])
    }

    #[test]
    fn an_error_has_all_details_of_the_server() {
        let mut details = not_found(DOMAIN);
        details
            .add_bad_request_violation("id", "must not be empty")
            .set_retry_info(Some(Duration::from_millis(1500)));
        let error: Error = Status::with_error_details(Code::NotFound, "no such", details).into();
        assert_eq!(error.code(), Code::NotFound);
        assert_eq!(error.message(), "no such");
        assert_eq!(error.reason(), "ASSISTANT_NOT_FOUND");
        assert_eq!(error.field_violations()[0].field, "id");
        assert_eq!(error.field_violations()[0].description, "must not be empty");
        assert_eq!(error.retry_delay(), Some(Duration::from_millis(1500)));
        assert_eq!(error.to_string(), "no such (NotFound, ASSISTANT_NOT_FOUND)");
    }

    #[test]
    fn an_error_of_another_domain_has_no_reason() {
        let status = Status::with_error_details(Code::NotFound, "no such", not_found("example.com"));
        let error = Error::from(status);
        assert_eq!(error.reason(), "");
        assert_eq!(error.to_string(), "no such (NotFound)");
    }

    #[test]
    fn unparsable_details_are_ignored() {
        let status = Status::with_details(Code::NotFound, "no such", b"\xff\xff"[..].to_vec().into());
        let error = Error::from(status);
        assert_eq!((error.code(), error.reason()), (Code::NotFound, ""));
    }

    #[test]
    fn details_of_another_status_are_ignored() {
        let other = Status::with_error_details(Code::NotFound, "no such", not_found(DOMAIN));
        let details = other.details().to_vec().into();
        let error = Error::from(Status::with_details(Code::Unavailable, "gone", details));
        assert_eq!(error.reason(), "");
    }

    #[test]
    fn an_error_always_has_a_message() {
        assert_ne!(Error::from(Status::new(Code::Unknown, "")).message(), "");
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Vector {
        name: String,
        error: Failure,
        is_break: bool,
    }

    #[test]
    fn breaks_are_recognized() {
        for vector in vectors::read::<Vec<Vector>>(vectors::BREAKS) {
            let error = Error::from(vector.error.status());
            assert_eq!(error.is_break(), vector.is_break, "{}", vector.name);
        }
    }
}
