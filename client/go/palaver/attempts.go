package palaver

import (
	"math/rand/v2"
	"time"
)

const (
	firstPause   = 100 * time.Millisecond
	longestPause = 2 * time.Second
)

// attempts decides if a turn is posted again, and after which pause. That is safe because all posts have the same
// request ID: the server replays a turn that is stored and joins one that still runs. One that was lost with its
// server, or cancelled because its caller seemed to be gone, runs anew.
type attempts struct {
	deadline         time.Time // of the whole turn; zero: none
	reconnectTimeout time.Duration
	brokenSince      time.Time // zero: the server has answered since
	pause            time.Duration
}

func newAttempts(deadline time.Time, reconnectTimeout time.Duration) *attempts {
	return &attempts{deadline: deadline, reconnectTimeout: reconnectTimeout, pause: firstPause}
}

// succeeded notes that the server has sent something, so that the next break counts anew.
func (a *attempts) succeeded() {
	a.brokenSince = time.Time{}
	a.pause = firstPause
}

// pauseAfter returns how long to wait before posting again; false: the error is the caller's.
func (a *attempts) pauseAfter(failure *Error) (time.Duration, bool) {
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
