package palaver

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/palaver-chat/palaver/client/go/internal/vectors"
)

func TestDelays(t *testing.T) {
	for _, vector := range vectors.Load[vectors.PauseSequence](t, vectors.Pauses) {
		t.Run(vector.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { play(t, vector) })
		})
	}
}

func play(t *testing.T, vector vectors.PauseSequence) {
	start := time.Now()
	var deadline time.Time
	if vector.TimeoutMS != nil {
		deadline = start.Add(milliseconds(*vector.TimeoutMS))
	}
	budget := newRetryBudget(deadline, milliseconds(vector.ReconnectTimeoutMS))
	for _, step := range vector.Steps {
		time.Sleep(time.Until(start.Add(milliseconds(step.AtMS))))
		if step.Received == (step.Error != nil) {
			t.Fatalf("at %d ms there must be either an event or an error", step.AtMS)
		}
		if step.Received {
			budget.reset()
			continue
		}
		delay, again := budget.delayAfter(errorOf(t, *step.Error))
		switch {
		case again != (step.PauseMS != nil):
			t.Errorf("at %d ms: posted again is %v", step.AtMS, again)
		case again && (delay < milliseconds(step.PauseMS[0]) || delay > milliseconds(step.PauseMS[1])):
			t.Errorf("at %d ms: a delay of %v, not %v ms", step.AtMS, delay, step.PauseMS)
		}
	}
}

func TestDelaysAreRandom(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 100 {
		delay, _ := newRetryBudget(time.Time{}, time.Minute).delayAfter(&Error{Status: codes.Unavailable})
		seen[delay] = true
	}
	if len(seen) < 50 {
		t.Errorf("100 delays have only %d lengths", len(seen))
	}
}

func TestBreaks(t *testing.T) {
	for _, vector := range vectors.Load[vectors.Break](t, vectors.Breaks) {
		if failure := errorOf(t, vector.Error); failure.isBreak() != vector.IsBreak {
			t.Errorf("%s: %v is a break: %v", vector.Name, failure, !vector.IsBreak)
		}
	}
}

func errorOf(t *testing.T, vector vectors.Error) *Error {
	t.Helper()
	result := &Error{Status: vector.Status.Code(t), Reason: Reason(vector.Reason), Message: vector.Message}
	if delay := vector.RetryDelay(); delay != nil {
		result.RetryDelay = new(delay.AsDuration())
	}
	return result
}

func milliseconds(count int64) time.Duration {
	return time.Duration(count) * time.Millisecond
}

func TestServiceConfigIsTheSharedOne(t *testing.T) {
	if serviceConfig != string(vectors.Read(t, vectors.ServiceConfig)) {
		t.Error("service_config.json is not that of client/vectors")
	}
}
