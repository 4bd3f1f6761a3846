//! What a call can fail with, read from what tonic and the layers below it report.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetail, StatusExt as _};

const DOMAIN: &str = "palaver.v1";

/// A call failed.
///
/// Which errors a call has, and what to do about each, is described at [`ErrorReason`](crate::ErrorReason) and at the
/// methods of [`Client`](crate::Client).
#[derive(Clone, PartialEq)]
pub struct Error(Box<Content>);

#[derive(Clone, PartialEq)]
struct Content {
    code: Code,
    message: String,
    reason: String,
    field_violations: Vec<FieldViolation>,
    retry_delay: Option<Duration>,
    /// Whether the connection or the call's stream on it broke, rather than that somebody answered.
    is_transport: bool,
}

/// One invalid field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FieldViolation {
    /// Its path in the request, for instance `history.max_messages`.
    pub field: String,
    /// What is wrong with it and what is allowed.
    pub description: String,
}

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Content {
            code,
            message: message.into(),
            reason: String::new(),
            field_violations: Vec::new(),
            retry_delay: None,
            is_transport: false,
        }))
    }

    fn of_transport(mut self) -> Self {
        self.0.is_transport = true;
        self
    }

    /// The error of a call that took longer than its caller allows.
    pub(crate) fn deadline_exceeded() -> Self {
        Self::new(Code::DeadlineExceeded, "the timeout of the call passed")
    }

    /// The error of a reply that breaks the contract: `what` says in which way.
    pub(crate) fn malformed(what: &str) -> Self {
        let message = format!("the server's reply can't be understood: {what}");
        Self::new(Code::Internal, message)
    }

    /// The error of whoever reads the text alone, which can't be taken back.
    pub(crate) fn begun_anew() -> Self {
        let message = "the connection broke, and the turn had to run anew with another reply";
        Self::new(Code::Unavailable, message)
    }

    /// The gRPC status.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What happened, for people to read. The wording may change; go by [`reason`](Self::reason) and
    /// [`code`](Self::code).
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The exact reason: the name of a value of [`ErrorReason`](crate::ErrorReason) without its prefix, for instance
    /// `"ASSISTANT_NOT_FOUND"`.
    ///
    /// It is empty when the error does not come from a Palaver server, for instance because there is none. Expect
    /// reasons that you do not know, and go by [`code`](Self::code) then.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// The invalid fields of the request, all of them, where the reason is `"INVALID_FIELD"`.
    #[must_use]
    pub fn field_violations(&self) -> &[FieldViolation] {
        &self.0.field_violations
    }

    /// After how long the same request may succeed. `None` where the server gives no such hint.
    #[must_use]
    pub fn retry_delay(&self) -> Option<Duration> {
        self.0.retry_delay
    }

    /// Whether a call ended because of the way to the server or its stopping, and not for what it asked for.
    pub(crate) fn is_break(&self) -> bool {
        match self.reason() {
            // A gateway that is a gRPC client itself passes on in words that the stream behind it was reset.
            "" => self.0.is_transport || self.code() == Code::Unavailable || self.message().contains("RST_STREAM"),
            reason => reason == "SHUTTING_DOWN", // every error that a Palaver server decides has a reason
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

impl StdError for Error {}

/// The error that a call has where tonic reports this status: for tests of what a program does about errors.
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

/// Returns the details that came with a status. Where something between has changed the status, they are not its own.
fn details(status: &Status) -> Vec<ErrorDetail> {
    match tonic_types::Status::decode(status.details()) {
        Ok(rich) if rich.code == i32::from(status.code()) => status.get_error_details_vec(),
        _ => Vec::new(),
    }
}

/// Returns the status of a call that the layers below gRPC ended, and `None` where somebody answered it.
///
/// tonic's own choice depends on its features and is mostly `Unknown`; these are gRPC's.
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

/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#errors>
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

/// Returns what the layers below say, outermost first, each thing once.
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
    use super::*;
    use tonic_types::ErrorDetails;

    fn not_found(domain: &str) -> ErrorDetails {
        ErrorDetails::with_error_info("ASSISTANT_NOT_FOUND", domain, [])
    }

    #[test]
    fn an_error_has_what_the_server_says_of_it() {
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
    fn an_error_of_somebody_else_has_no_reason() {
        let status = Status::with_error_details(Code::NotFound, "no such", not_found("example.com"));
        let error = Error::from(status);
        assert_eq!(error.reason(), "");
        assert_eq!(error.to_string(), "no such (NotFound)");
    }

    #[test]
    fn details_that_do_not_parse_count_as_none() {
        let status = Status::with_details(Code::NotFound, "no such", b"\xff\xff"[..].to_vec().into());
        let error = Error::from(status);
        assert_eq!((error.code(), error.reason()), (Code::NotFound, ""));
    }

    #[test]
    fn details_of_another_status_count_as_none() {
        let other = Status::with_error_details(Code::NotFound, "no such", not_found(DOMAIN));
        let details = other.details().to_vec().into();
        let error = Error::from(Status::with_details(Code::Unavailable, "gone", details));
        assert_eq!(error.reason(), "");
    }

    #[test]
    fn an_error_always_has_a_message() {
        assert_ne!(Error::from(Status::new(Code::Unknown, "")).message(), "");
    }

    #[test]
    fn errors_are_breaks_by_their_reason_and_else_by_their_status() {
        let with_reason = |code, reason: &str| {
            let details = ErrorDetails::with_error_info(reason, DOMAIN, []);
            Error::from(Status::with_error_details(code, "", details)).is_break()
        };
        assert!(with_reason(Code::Unavailable, "SHUTTING_DOWN"));
        assert!(!with_reason(Code::Unavailable, "MODEL_UNAVAILABLE"));
        assert!(!with_reason(Code::Cancelled, "TURN_CANCELLED"));
        assert!(Error::new(Code::Unavailable, "").is_break());
        assert!(Error::new(Code::Internal, "Received RST_STREAM with error code 2").is_break());
        assert!(!Error::new(Code::Internal, "").is_break());
        assert!(!Error::new(Code::Cancelled, "").is_break());
        assert!(!Error::deadline_exceeded().is_break());
    }
}
