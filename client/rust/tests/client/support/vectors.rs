//! The test vectors that the clients in all languages share; `client/vectors/README.md` describes them.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

pub const BREAKS: &str = "breaks.json";
pub const LOCAL_TARGETS: &str = "local_targets.json";
pub const PAUSES: &str = "pauses.json";
pub const REPLAY: &str = "replay.json";
pub const SERVICE_CONFIG: &str = "service_config.json";
pub const TERMINAL: &str = "terminal.json";

/// The error of a call.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    pub status: String,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
    pub retry_delay_ms: Option<u64>,
}

impl Failure {
    /// Returns the error as a status of the server.
    pub fn status(&self) -> Status {
        let mut details = ErrorDetails::new();
        if !self.reason.is_empty() {
            details.set_error_info(self.reason.as_str(), "palaver.v1", []);
        }
        if let Some(delay) = self.retry_delay_ms {
            details.set_retry_info(Some(Duration::from_millis(delay)));
        }
        Status::with_error_details(self.code(), self.message.as_str(), details)
    }

    pub fn code(&self) -> Code {
        let codes = (0..=16).map(Code::from_i32);
        codes
            .into_iter()
            .find(|code| name(*code) == self.status)
            .expect("a status of gRPC")
    }
}

/// Returns the name of a status, for instance `NOT_FOUND`.
fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// Reads a file. The type must reject unknown fields.
pub fn read<T: DeserializeOwned>(file: &str) -> T {
    let text = std::fs::read_to_string(folder().join(file)).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../vectors")
}

#[test]
fn all_files_are_tested() {
    let mut files: Vec<_> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "README.md")
        .collect();
    files.sort();
    assert_eq!(files, [BREAKS, LOCAL_TARGETS, PAUSES, REPLAY, SERVICE_CONFIG, TERMINAL]);
}
