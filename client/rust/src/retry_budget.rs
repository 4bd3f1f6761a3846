//! Decides whether a call is retried after an error, and after which delay. No I/O.

use std::time::Duration;

use tokio::time::Instant;

use crate::Error;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(2);

/// The delays between the attempts of a call that only reads, before jitter.
const READ_RETRY_DELAYS: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

/// Returns the delay before each retry of a call that only reads.
pub(crate) fn read_retry_delays() -> impl Iterator<Item = Duration> {
    READ_RETRY_DELAYS.into_iter().map(with_jitter)
}

/// The time that a turn has left: for all of its posts together, and without a connection.
///
/// Posting a turn again is safe because all of its posts have the same `request_id`: the server replays a stored turn and
/// joins a running one. A turn that was lost with its server, or cancelled because its caller seemed to be gone, runs
/// again.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    deadline: Option<Instant>,
    reconnect_timeout: Duration,
    disconnected_at: Option<Instant>,
    delay: Duration,
}

impl RetryBudget {
    /// Creates a budget with the deadline of the whole turn, and the time that it may be without a connection.
    pub(crate) fn new(deadline: Option<Instant>, reconnect_timeout: Duration) -> Self {
        Self {
            deadline,
            reconnect_timeout,
            disconnected_at: None,
            delay: FIRST_DELAY,
        }
    }

    /// The deadline of each post.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Restores the full reconnect timeout, because an event has arrived.
    pub(crate) fn reset(&mut self) {
        self.disconnected_at = None;
        self.delay = FIRST_DELAY;
    }

    /// Returns how long to wait before posting again, or the error if the caller gets it.
    pub(crate) fn delay_after(&mut self, error: Error, now: Instant) -> Result<Duration, Error> {
        if !error.is_break() {
            return Err(error);
        }
        let disconnected_at = *self.disconnected_at.get_or_insert(now);
        let delay = with_jitter(self.delay).max(error.retry_delay().unwrap_or_default());
        self.delay = (2 * self.delay).min(MAX_DELAY);
        let fits = now.checked_add(delay).is_some_and(|end| {
            end - disconnected_at <= self.reconnect_timeout && self.deadline.is_none_or(|deadline| end <= deadline)
        });
        if fits { Ok(delay) } else { Err(error) }
    }
}

/// Returns a random duration between half of the delay and all of it, so that callers don't retry simultaneously.
fn with_jitter(delay: Duration) -> Duration {
    rand::random_range(delay / 2..=delay)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde::Deserialize;
    use serde_json::{Value, json};
    use tonic::{Code, Status};
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;
    use crate::vectors::{self, Failure};

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pauses {
        name: String,
        timeout_ms: Option<u64>,
        reconnect_timeout_ms: u64,
        steps: Vec<Step>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Step {
        at_ms: u64,
        #[serde(default)]
        received: bool,
        error: Option<Failure>,
        pause_ms: Option<[u64; 2]>,
    }

    #[test]
    fn pauses_grow_and_end_at_the_limits() {
        for vector in vectors::read::<Vec<Pauses>>(vectors::PAUSES) {
            let start = Instant::now();
            let after = |milliseconds| start + Duration::from_millis(milliseconds);
            let timeout = Duration::from_millis(vector.reconnect_timeout_ms);
            let mut budget = RetryBudget::new(vector.timeout_ms.map(after), timeout);
            for Step {
                at_ms,
                received,
                error,
                pause_ms,
            } in vector.steps
            {
                let Some(error) = error else {
                    assert!(received, "{}", vector.name);
                    budget.reset();
                    continue;
                };
                let delay = budget.delay_after(error.status().into(), after(at_ms)).ok();
                let limits = pause_ms.map(|limits| limits.map(Duration::from_millis));
                let is_expected = match (delay, limits) {
                    (Some(delay), Some([shortest, longest])) => (shortest..=longest).contains(&delay),
                    (delay, limits) => delay.is_none() && limits.is_none(),
                };
                assert!(is_expected, "{} at {at_ms} ms: {delay:?}, not {limits:?}", vector.name);
            }
        }
    }

    #[test]
    fn pauses_are_random() {
        let delays: HashSet<_> = (0..20).map(|_| with_jitter(MAX_DELAY)).collect();
        assert!(delays.len() > 1);
    }

    #[test]
    fn an_endless_retry_delay_is_the_callers() {
        let details = ErrorDetails::with_retry_info(Some(Duration::MAX));
        let error = Status::with_error_details(Code::Unavailable, "gone", details).into();
        let mut budget = RetryBudget::new(None, Duration::from_secs(1000));
        assert!(budget.delay_after(error, Instant::now()).is_err());
    }

    #[test]
    fn reads_are_retried_as_the_service_config_says() {
        let service = "palaver.v1.AssistantService";
        let equivalent = json!({
            "loadBalancingConfig": [{"round_robin": {}}], // tonic connects to one address
            "methodConfig": [{
                "name": [
                    {"service": service, "method": "GetAssistant"},
                    {"service": service, "method": "ListMessages"},
                ],
                "retryPolicy": {
                    "maxAttempts": READ_RETRY_DELAYS.len() + 1,
                    "initialBackoff": format!("{}s", READ_RETRY_DELAYS[0].as_secs_f64()),
                    "maxBackoff": format!("{}s", MAX_DELAY.as_secs()),
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }],
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1}, // the client has none
        });
        assert_eq!(vectors::read::<Value>(vectors::SERVICE_CONFIG), equivalent);
        assert!(READ_RETRY_DELAYS.windows(2).all(|pair| pair[1] == 2 * pair[0]));
        assert!(READ_RETRY_DELAYS.iter().all(|delay| *delay <= MAX_DELAY));
    }
}
