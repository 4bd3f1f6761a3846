package palaver_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/palaver-chat/palaver/client/go/internal/scripted"
	"github.com/palaver-chat/palaver/client/go/palaver"
)

const long = 1000 * time.Second

var hello = &palaver.PostUserQueryRequest{Id: "support", UserMessage: "Hello!"}

// newClient returns a client that is closed at the end of the test.
func newClient(t testing.TB, target string, options ...palaver.Option) *palaver.Client {
	t.Helper()
	client, err := palaver.NewClient(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

// shown reads events and returns a line for each.
func shown(t testing.TB, events iter.Seq2[palaver.Event, error]) ([]string, error) {
	t.Helper()
	var lines []string
	for event, err := range events {
		if err != nil {
			return lines, err
		}
		lines = append(lines, show(t, event))
	}
	return lines, nil
}

func show(t testing.TB, event palaver.Event) string {
	t.Helper()
	switch event := event.(type) {
	case *palaver.TurnStarted:
		return "started"
	case *palaver.TextDelta:
		return event.Text
	case *palaver.SkillCall:
		return "call " + event.Id
	case *palaver.SkillResult:
		return "result " + event.Id
	case *palaver.Progress:
		return "progress after " + event.Elapsed.AsDuration().String()
	case *palaver.TurnCompleted:
		return "completed"
	default:
		t.Fatalf("an unknown kind of event: %v", event)
		return ""
	}
}

// expectShown reads a reply to its end and compares its events.
func expectShown(t testing.TB, reply *palaver.Reply, expected ...string) {
	t.Helper()
	lines, err := shown(t, reply.Events())
	if err != nil {
		t.Errorf("the reply failed: %v", err)
	}
	if !slices.Equal(lines, expected) {
		t.Errorf("the reply showed %q, not %q", lines, expected)
	}
}

// expectError checks the type, status and reason of an error, and returns it.
func expectError(t testing.TB, err error, status codes.Code, reason palaver.Reason) *palaver.Error {
	t.Helper()
	var failure *palaver.Error
	if !errors.As(err, &failure) {
		t.Fatalf("%v is not a *palaver.Error", err)
	}
	if failure.Status != status || failure.Reason != reason {
		t.Errorf("the error is %v, not %v with the reason %q", failure, status, reason)
	}
	return failure
}

func expectCalls(t testing.TB, server *scripted.Server, count int) {
	t.Helper()
	if calls := server.Calls(); len(calls) != count {
		t.Errorf("the server was called %d times, not %d", len(calls), count)
	}
}

// background returns a context for calls that must not hang. If one does, the test fails.
func background(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	watchdog := time.AfterFunc(2*scripted.Patience, func() {
		t.Error("the call hangs")
		cancel()
	})
	t.Cleanup(func() {
		watchdog.Stop()
		cancel()
	})
	return ctx
}

// onError returns an option that runs do before the client receives an error from gRPC.
func onError(do func()) palaver.Option {
	unary := func(
		ctx context.Context, method string, request, response any, connection *grpc.ClientConn, invoke grpc.UnaryInvoker,
		options ...grpc.CallOption,
	) error {
		err := invoke(ctx, method, request, response, connection, options...)
		if err != nil {
			do()
		}
		return err
	}
	stream := func(
		ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn, method string, open grpc.Streamer,
		options ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		stream, err := open(ctx, description, connection, method, options...)
		return &watchedStream{stream, do}, err
	}
	return palaver.WithDialOptions(grpc.WithUnaryInterceptor(unary), grpc.WithStreamInterceptor(stream))
}

type watchedStream struct {
	grpc.ClientStream
	do func()
}

func (s *watchedStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if err != nil {
		s.do()
	}
	return err
}
