package palaver

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
)

var broken = &Error{Status: codes.Unavailable, Message: "the connection broke"}

// pauses waits and asks again until the error is the caller's, and returns the pauses.
func pauses(a *attempts, failure *Error) []time.Duration {
	var result []time.Duration
	for {
		pause, again := a.pauseAfter(failure)
		if !again {
			return result
		}
		result = append(result, pause)
		time.Sleep(pause)
	}
}

func TestPausesDoubleUpToALimitAndAreRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seen := map[time.Duration]bool{}
		for range 20 {
			length := 100 * time.Millisecond
			for _, pause := range pauses(newAttempts(time.Time{}, time.Minute), broken) {
				if pause < length/2 || pause > length {
					t.Errorf("a pause of %v, not half to all of %v", pause, length)
				}
				length = min(2*length, 2*time.Second)
				seen[pause] = true
			}
		}
		if len(seen) < 100 {
			t.Errorf("there are only %d pauses", len(seen))
		}
	})
}

func TestPausesEndWithinTheReconnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, timeout := range []time.Duration{100 * time.Millisecond, time.Second, 10 * time.Second} {
			a := newAttempts(time.Time{}, timeout)
			time.Sleep(time.Hour) // it counts from the first break on
			start := time.Now()
			count := len(pauses(a, broken))
			if passed := time.Since(start); count == 0 || passed > timeout || passed < timeout-2*time.Second {
				t.Errorf("%d pauses take %v of %v", count, passed, timeout)
			}
		}
	})
}

func TestWhateverArrivesSetsPausesAndTheClockBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAttempts(time.Time{}, time.Second)
		for range 100 {
			pause, again := a.pauseAfter(broken)
			if !again || pause > 100*time.Millisecond {
				t.Fatalf("a pause of %v, %v", pause, again)
			}
			time.Sleep(pause)
			a.succeeded()
		}
	})
}

func TestPausesEndBeforeTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deadline := time.Now().Add(3 * time.Second)
		if count := len(pauses(newAttempts(deadline, time.Hour), broken)); count == 0 || time.Now().After(deadline) {
			t.Errorf("%d pauses end %v after the deadline", count, time.Since(deadline))
		}
	})
}

func TestAPauseIsNoShorterThanTheServerWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := &Error{Status: codes.Unavailable, Reason: ReasonShuttingDown, RetryDelay: new(3 * time.Second)}
		if pause, again := newAttempts(time.Time{}, 10*time.Second).pauseAfter(asked); !again || pause != 3*time.Second {
			t.Errorf("a pause of %v, %v", pause, again)
		}
		if pause, again := newAttempts(time.Time{}, 2*time.Second).pauseAfter(asked); again {
			t.Errorf("a pause of %v, longer than the reconnect timeout", pause)
		}
		soon := &Error{Status: codes.Unavailable, RetryDelay: new(time.Duration(0))}
		if pause, _ := newAttempts(time.Time{}, time.Second).pauseAfter(soon); pause < 50*time.Millisecond {
			t.Errorf("a pause of %v", pause)
		}
	})
}

func TestAReconnectTimeoutOfZeroIsNoPause(t *testing.T) {
	if pause, again := newAttempts(time.Time{}, 0).pauseAfter(broken); again {
		t.Errorf("a pause of %v", pause)
	}
}

func TestWhichErrorsAreBreaks(t *testing.T) {
	for _, try := range []struct {
		failure Error
		isBreak bool
	}{
		{Error{Status: codes.Unavailable}, true},
		{Error{Status: codes.Unavailable, Reason: ReasonShuttingDown}, true},
		{Error{Status: codes.Internal, Message: "stream terminated by RST_STREAM with error code: INTERNAL_ERROR"}, true},
		{Error{Status: codes.Canceled, Message: "stream terminated by RST_STREAM with error code: CANCEL"}, true},
		{Error{Status: codes.Unavailable, Reason: ReasonModelUnavailable}, false},
		{Error{Status: codes.Unavailable, Reason: ReasonStoreUnavailable}, false},
		{Error{Status: codes.Unavailable, Reason: "OF_A_NEWER_SERVER"}, false},
		{Error{Status: codes.Internal, Reason: ReasonInternal, Message: "RST_STREAM"}, false},
		{Error{Status: codes.Canceled, Reason: ReasonTurnCancelled}, false},
		{Error{Status: codes.Canceled, Message: "context canceled"}, false},
		{Error{Status: codes.DeadlineExceeded}, false},
		{Error{Status: codes.Internal}, false},
		{Error{Status: codes.Unknown}, false},
	} {
		if try.failure.isBreak() != try.isBreak {
			t.Errorf("%v: a break is %v", &try.failure, !try.isBreak)
		}
	}
}
