package palaver

import (
	"math/rand/v2"
	"time"
)

const (
	firstPause   = 100 * time.Millisecond
	longestPause = 2 * time.Second
)

// attempts decides whether a turn is posted again, and after which pause. Posting again is safe because every post has
// the same request ID: the server replays a turn that is stored and joins one that is still running. A turn that was
// lost with its server, or cancelled because its caller seemed to be gone, runs again.
type attempts struct {
	deadline         time.Time // of the whole turn; zero if there is none
	reconnectTimeout time.Duration
	brokenSince      time.Time // zero if an event has arrived since the last break
	pause            time.Duration
}

func newAttempts(deadline time.Time, reconnectTimeout time.Duration) *attempts {
	return &attempts{deadline: deadline, reconnectTimeout: reconnectTimeout, pause: firstPause}
}

// reset forgets earlier breaks. It is called whenever an event arrives.
func (a *attempts) reset() {
	a.brokenSince = time.Time{}
	a.pause = firstPause
}

// backoff returns how long to wait before posting again. It returns false if the error is to be returned to the caller.
func (a *attempts) backoff(failure *Error) (time.Duration, bool) {
	if !failure.isBreak() {
		return 0, false
	}
	now := time.Now()
	if a.brokenSince.IsZero() {
		a.brokenSince = now
	}
	pause := a.pause/2 + rand.N(a.pause/2)
	if failure.RetryDelay != nil {
		pause = max(pause, *failure.RetryDelay)
	}
	a.pause = min(2*a.pause, longestPause)
	if pause > a.brokenSince.Add(a.reconnectTimeout).Sub(now) {
		return 0, false
	}
	if !a.deadline.IsZero() && pause > a.deadline.Sub(now) {
		return 0, false
	}
	return pause, true
}
