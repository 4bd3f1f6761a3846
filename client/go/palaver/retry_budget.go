package palaver

import (
	"math/rand/v2"
	"time"
)

const (
	firstDelay = 100 * time.Millisecond
	maxDelay   = 2 * time.Second
)

// retryBudget decides whether a turn is posted again, and after which delay. Posting again is safe because all posts of a
// turn have the same request ID: the server replays a stored turn and joins a running one. A turn that was lost with its
// server, or canceled because its caller seemed to be gone, runs again.
type retryBudget struct {
	deadline         time.Time // of the whole turn; zero if there is none
	reconnectTimeout time.Duration
	disconnectedAt   time.Time // zero if an event has arrived since the last break
	delay            time.Duration
}

func newRetryBudget(deadline time.Time, reconnectTimeout time.Duration) *retryBudget {
	return &retryBudget{deadline: deadline, reconnectTimeout: reconnectTimeout, delay: firstDelay}
}

// reset restores the full reconnect timeout, because an event has arrived.
func (b *retryBudget) reset() {
	b.disconnectedAt = time.Time{}
	b.delay = firstDelay
}

// delayAfter returns how long to wait before posting again after an error. It returns false if the turn is not posted
// again and the caller gets the error.
func (b *retryBudget) delayAfter(failure *Error) (time.Duration, bool) {
	if !failure.isBreak() {
		return 0, false
	}
	now := time.Now()
	if b.disconnectedAt.IsZero() {
		b.disconnectedAt = now
	}
	delay := b.delay/2 + rand.N(b.delay/2)
	if failure.RetryDelay != nil {
		delay = max(delay, *failure.RetryDelay)
	}
	b.delay = min(2*b.delay, maxDelay)
	if delay > b.disconnectedAt.Add(b.reconnectTimeout).Sub(now) {
		return 0, false
	}
	if !b.deadline.IsZero() && delay > b.deadline.Sub(now) {
		return 0, false
	}
	return delay, true
}
