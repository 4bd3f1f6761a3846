//! When to make a call again whose way to the server broke, and when to give up. No input or output here.
//!
//! Posting a turn again is safe because all its posts have the same `request_id`: the server replays a turn that is
//! stored and joins one that still runs. One that was lost with its server runs anew.

use std::time::Duration;

use tokio::time::Instant;

use crate::Error;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The pauses between the attempts of a call that only reads, while the server is unavailable. One that doubled
/// further would stay below 2 s.
const READING_PAUSES: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

/// Makes a `request_id` that no other turn has.
pub(crate) fn new_request_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Returns how long to wait before each further attempt of a call that only reads.
pub(crate) fn reading_pauses() -> impl Iterator<Item = Duration> {
    READING_PAUSES.into_iter().map(spread)
}

/// How often a turn is posted, and until when.
#[derive(Debug)]
pub(crate) struct Attempts {
    deadline: Option<Instant>,
    reconnect_timeout: Duration,
    broken_since: Option<Instant>,
    pause: Duration,
}

impl Attempts {
    /// Takes when the whole turn must be over, and how long its connection may be lost.
    pub(crate) fn new(deadline: Option<Instant>, reconnect_timeout: Duration) -> Self {
        Self {
            deadline,
            reconnect_timeout,
            broken_since: None,
            pause: FIRST_PAUSE,
        }
    }

    /// The deadline of each post.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Notes that the server has sent something, so that the next break counts anew.
    pub(crate) fn succeeded(&mut self) {
        self.broken_since = None;
        self.pause = FIRST_PAUSE;
    }

    /// Returns how long to wait before posting again, or the error where that is the caller's.
    pub(crate) fn pause_after(&mut self, error: Error, now: Instant) -> Result<Duration, Error> {
        if !error.is_break() {
            return Err(error);
        }
        let broken_since = *self.broken_since.get_or_insert(now);
        let pause = spread(self.pause).max(error.retry_delay().unwrap_or_default());
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        let is_in_time = now.checked_add(pause).is_some_and(|end| {
            end - broken_since <= self.reconnect_timeout && self.deadline.is_none_or(|deadline| end <= deadline)
        });
        if is_in_time { Ok(pause) } else { Err(error) }
    }
}

/// Returns a random duration between the half and the whole of one, so that callers don't come back all at once.
fn spread(pause: Duration) -> Duration {
    rand::random_range(pause / 2..=pause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::{Code, Status};

    fn unavailable() -> Error {
        Error::new(Code::Unavailable, "gone")
    }

    fn without_deadline(reconnect_timeout: u64) -> Attempts {
        Attempts::new(None, Duration::from_secs(reconnect_timeout))
    }

    fn shutting_down(retry_delay: Duration) -> Error {
        use tonic_types::{ErrorDetails, StatusExt as _};
        let mut details = ErrorDetails::with_error_info("SHUTTING_DOWN", "palaver.v1", []);
        details.set_retry_info(Some(retry_delay));
        Status::with_error_details(Code::Unavailable, "stopping", details).into()
    }

    #[test]
    fn pauses_double_from_a_tenth_of_a_second_to_two_seconds() {
        let now = Instant::now();
        let mut attempts = without_deadline(1000);
        for whole in [100, 200, 400, 800, 1600, 2000, 2000] {
            let pause = attempts.pause_after(unavailable(), now).unwrap();
            let whole = Duration::from_millis(whole);
            assert!((whole / 2..=whole).contains(&pause), "{pause:?} of {whole:?}");
        }
        attempts.succeeded();
        let pause = attempts.pause_after(unavailable(), now).unwrap();
        assert!(pause <= FIRST_PAUSE);
    }

    #[test]
    fn pauses_are_not_all_the_same() {
        let pauses: std::collections::HashSet<_> = (0..20).map(|_| spread(LONGEST_PAUSE)).collect();
        assert!(pauses.len() > 1);
    }

    #[test]
    fn a_pause_is_no_shorter_than_the_server_asks_for() {
        let delay = Duration::from_secs(7);
        let pause = without_deadline(10).pause_after(shutting_down(delay), Instant::now());
        assert_eq!(pause.unwrap(), delay);
    }

    #[test]
    fn a_break_lasts_no_longer_than_the_reconnect_timeout() {
        let now = Instant::now();
        let mut attempts = without_deadline(10);
        assert!(attempts.pause_after(unavailable(), now).is_ok());
        let late = now + Duration::from_millis(9_700);
        assert!(attempts.pause_after(unavailable(), late).is_ok());
        let later = now + Duration::from_millis(9_900);
        let error = attempts.pause_after(unavailable(), later).unwrap_err();
        assert_eq!(error.message(), "gone");
        attempts.succeeded();
        assert!(attempts.pause_after(unavailable(), later).is_ok());
    }

    #[test]
    fn nothing_is_posted_again_without_a_reconnect_timeout() {
        assert!(without_deadline(0).pause_after(unavailable(), Instant::now()).is_err());
    }

    #[test]
    fn a_pause_does_not_outlast_the_deadline() {
        let now = Instant::now();
        let deadline = now + Duration::from_millis(40);
        let mut attempts = Attempts::new(Some(deadline), Duration::from_secs(10));
        assert!(attempts.pause_after(unavailable(), now).is_err());
    }

    #[test]
    fn an_endless_retry_delay_is_the_callers() {
        let error = shutting_down(Duration::MAX);
        assert!(without_deadline(1000).pause_after(error, Instant::now()).is_err());
    }

    #[test]
    fn request_ids_are_32_hexadecimal_digits_and_differ() {
        let id = new_request_id();
        assert_eq!(id.len(), 32);
        assert!(id.bytes().all(|digit| digit.is_ascii_hexdigit()));
        assert_ne!(id, new_request_id());
    }
}
