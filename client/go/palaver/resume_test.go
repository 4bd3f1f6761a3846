package palaver_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/palaver-chat/palaver/client/go/internal/scripted"
	"github.com/palaver-chat/palaver/client/go/palaver"
	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
)

type answer = scripted.Answer

var shuttingDown = scripted.Refusal(codes.Unavailable, "SHUTTING_DOWN", 0)

func unaryTurn(text string) *palaverv1.PostUserQueryUnaryResponse {
	return &palaverv1.PostUserQueryUnaryResponse{Completed: scripted.TurnCompleted(text)}
}

func TestTurnIsPostedAgainAndResumes(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]error{
		"a break":       scripted.Break,
		"shutting down": shuttingDown,
		"a reset":       status.Error(codes.Internal, "stream terminated by RST_STREAM with error code: INTERNAL_ERROR"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := scripted.Start(t)
			server.Script("PostUserQuery",
				answer{scripted.Started(), scripted.Delta("Hel"), end},
				answer{end},
				answer{scripted.Started(), scripted.Delta("He"), end},
				answer{scripted.Started(), scripted.Delta("Hello, "), end},
				scripted.Turn("Hello, wör", "ld"),
			)
			request := proto.CloneOf(hello)
			request.Temperature = new(0.0)
			reply := newClient(t, server.Target).PostUserQuery(background(t), request)
			request.UserMessage = "changed by the caller"
			expectShown(t, reply, "started", "Hel", "lo, ", "wör", "ld", "completed")
			calls := server.Calls()
			for _, call := range calls[1:] {
				if !proto.Equal(call.Request, calls[0].Request) {
					t.Errorf("another request was posted again: %v", call.Request)
				}
			}
			first := calls[0].Request.(*palaver.PostUserQueryRequest)
			if first.GetRequestId() != reply.RequestID() || first.GetUserMessage() != "Hello!" || first.Temperature == nil {
				t.Errorf("posted was %v", first)
			}
			expectCalls(t, server, 5)
		})
	}
}

func TestCutConnectionIsReopened(t *testing.T) {
	t.Parallel()
	for name, breaks := range map[string]func(*scripted.Proxy){
		"cut":                 (*scripted.Proxy).Cut,
		"reset as internal":   func(proxy *scripted.Proxy) { proxy.Reset(scripted.InternalError) },
		"reset as cancelled":  func(proxy *scripted.Proxy) { proxy.Reset(scripted.Cancel) },
		"reset without error": func(proxy *scripted.Proxy) { proxy.Reset(scripted.NoError) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := scripted.Start(t)
			proxy := scripted.StartProxy(t, server.Target)
			server.Script("PostUserQuery",
				answer{scripted.Started(), scripted.Delta("Hel"), scripted.Hang},
				scripted.Turn("Hell", "o"),
			)
			var lines []string
			for event, err := range newClient(t, proxy.Target).PostUserQuery(background(t), hello).Events() {
				if err != nil {
					t.Fatal(err)
				}
				lines = append(lines, show(t, event))
				if len(lines) == 2 {
					breaks(proxy)
				}
			}
			if expected := []string{"started", "Hel", "l", "o", "completed"}; !slices.Equal(lines, expected) {
				t.Errorf("shown was %q", lines)
			}
			expectCalls(t, server, 2)
			scripted.Wait(t, server.Calls()[0].Abandoned, "the end of the first call")
		})
	}
}

func TestConnectionCutInsideAnEventLosesNothing(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	proxy := scripted.StartProxy(t, server.Target)
	cut := make(chan struct{})
	text := strings.Repeat("All work and no play. ", 5000) // several frames
	server.Script("PostUserQuery",
		answer{scripted.Started(), cut, scripted.Delta(text), scripted.Hang},
		scripted.Turn(text),
	)
	var pieces strings.Builder
	for event, err := range newClient(t, proxy.Target).PostUserQuery(background(t), hello).Events() {
		if err != nil {
			t.Fatal(err)
		}
		switch event := event.(type) {
		case *palaver.TurnStarted:
			proxy.CutInside()
			close(cut)
		case *palaver.TextDelta:
			pieces.WriteString(event.Text)
		}
	}
	if pieces.String() != text {
		t.Errorf("the text has %d characters, not %d", pieces.Len(), len(text))
	}
	expectCalls(t, server, 2)
}

func TestEachTurnHasARandomRequestIDUnlessTheCallerGivesOne(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("PostUserQuery", scripted.Turn("Hi"))
	server.Script("PostUserQueryUnary", answer{unaryTurn("Hi")})
	client := newClient(t, server.Target)
	named := proto.CloneOf(hello)
	named.RequestId = "mine"
	made := map[string]bool{}
	for range 2 {
		reply := client.PostUserQuery(background(t), hello)
		name := reply.RequestID() // before the first event
		expectShown(t, reply, "started", "Hi", "completed")
		if len(name) != 32 || strings.Trim(name, "0123456789abcdef") != "" {
			t.Errorf("the request ID is %q, not 32 hexadecimal digits", name)
		}
		made[name] = true
	}
	if name := client.PostUserQuery(background(t), named).RequestID(); name != "mine" {
		t.Errorf("the request ID is %q", name)
	}
	for _, request := range []*palaver.PostUserQueryRequest{hello, named} {
		if _, err := client.PostUserQueryUnary(background(t), request); err != nil {
			t.Error(err)
		}
	}
	calls := server.Calls()
	made[calls[2].Request.(*palaver.PostUserQueryRequest).GetRequestId()] = true
	if len(made) != 3 || made[""] {
		t.Errorf("the request IDs are %v", made)
	}
	if name := calls[3].Request.(*palaver.PostUserQueryRequest).GetRequestId(); name != "mine" {
		t.Errorf("the request ID of the unary turn is %q", name)
	}
	if hello.GetRequestId() != "" {
		t.Error("the caller's request was changed")
	}
}

func TestUnaryTurnIsPostedAgain(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("PostUserQueryUnary", answer{scripted.Break}, answer{shuttingDown}, answer{unaryTurn("Hi there")})
	turn, err := newClient(t, server.Target).PostUserQueryUnary(background(t), hello)
	if err != nil || turn.GetMessages()[1].GetContent() != "Hi there" {
		t.Errorf("the turn is %v, %v", turn, err)
	}
	calls := server.Calls()
	if len(calls) != 3 || !proto.Equal(calls[0].Request, calls[2].Request) {
		t.Errorf("posted was %v", calls)
	}
}

func TestTextEndsAtARestart(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("PostUserQuery",
		answer{scripted.Started(), scripted.Delta("One"), scripted.Break},
		answer{scripted.Started(), scripted.Delta("Two"), scripted.Hang},
	)
	var pieces []string
	for text, err := range newClient(t, server.Target).PostUserQuery(background(t), hello).Text() {
		if err != nil {
			expectError(t, err, codes.Unavailable, "")
			scripted.Wait(t, server.Calls()[1].Abandoned, "the end of the call, before the caller hears of the error")
			continue
		}
		pieces = append(pieces, text)
	}
	if !slices.Equal(pieces, []string{"One"}) {
		t.Errorf("the text is %q", pieces)
	}
}

// When a turn is not posted again.

func TestErrorsThatTheServerDecidedAreReturned(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]error{
		"no model": scripted.Refusal(codes.Unavailable, "MODEL_UNAVAILABLE", 0),
		"internal": status.Error(codes.Internal, "from a proxy"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := scripted.Start(t)
			server.Script("PostUserQuery", answer{scripted.Started(), scripted.Delta("Hi"), refusal})
			server.Script("PostUserQueryUnary", answer{refusal})
			client := newClient(t, server.Target)
			lines, err := shown(t, client.PostUserQuery(background(t), hello).Events())
			if status.Code(err) != status.Code(refusal) || !slices.Equal(lines, []string{"started", "Hi"}) {
				t.Errorf("shown was %q, then %v", lines, err)
			}
			if _, err := client.PostUserQueryUnary(background(t), hello); status.Code(err) != status.Code(refusal) {
				t.Errorf("the error is %v", err)
			}
			expectCalls(t, server, 2)
		})
	}
}

func TestReconnectTimeoutEndsPostingAgain(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	client := newClient(t, server.Target, palaver.WithReconnectTimeout(500*time.Millisecond))
	server.Script("PostUserQuery", answer{scripted.Started(), scripted.Delta("Hi"), scripted.Break}, answer{scripted.Break})
	server.Script("PostUserQueryUnary", answer{scripted.Break})
	lines, err := shown(t, client.PostUserQuery(background(t), hello).Events())
	expectError(t, err, codes.Unavailable, "")
	if !slices.Equal(lines, []string{"started", "Hi"}) {
		t.Errorf("shown was %q", lines)
	}
	_, err = client.PostUserQueryUnary(background(t), hello)
	expectError(t, err, codes.Unavailable, "")
	if calls := len(server.Calls()); calls <= 4 {
		t.Errorf("there were only %d calls", calls)
	}
}

func TestWithoutAServerPostingAgainEnds(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	proxy := scripted.StartProxy(t, server.Target)
	proxy.Refuse()
	client := newClient(t, proxy.Target, palaver.WithReconnectTimeout(time.Second))
	_, err := shown(t, client.PostUserQuery(background(t), hello).Events())
	expectError(t, err, codes.Unavailable, "")
	_, err = client.PostUserQueryUnary(background(t), hello)
	expectError(t, err, codes.Unavailable, "")
}

func TestEachEventResetsTheReconnectTimeout(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	client := newClient(t, server.Target, palaver.WithReconnectTimeout(400*time.Millisecond))
	// Each of these delays is shorter than the timeout, but their sum is longer. Each post brings a character.
	text := strings.Repeat("x", 12)
	var answers []answer
	for length := range len(text) {
		answers = append(answers, answer{scripted.Started(), scripted.Delta(text[:length+1]), scripted.Break})
	}
	server.Script("PostUserQuery", append(answers, scripted.Turn(text))...)
	expected := append([]string{"started"}, strings.Split(text, "")...)
	expectShown(t, client.PostUserQuery(background(t), hello), append(expected, "completed")...)
}

func TestPostingAgainCanBeTurnedOff(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	client := newClient(t, server.Target, palaver.WithReconnectTimeout(0))
	server.Script("PostUserQuery", answer{scripted.Started(), scripted.Break})
	server.Script("PostUserQueryUnary", answer{scripted.Break})
	_, err := shown(t, client.PostUserQuery(background(t), hello).Events())
	expectError(t, err, codes.Unavailable, "")
	_, err = client.PostUserQueryUnary(background(t), hello)
	expectError(t, err, codes.Unavailable, "")
	expectCalls(t, server, 2)
}

func TestDeadlineCoversAllPosts(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	client := newClient(t, server.Target, palaver.WithTimeout(time.Minute), palaver.WithReconnectTimeout(2*long))
	short := scripted.Refusal(codes.Unavailable, "SHUTTING_DOWN", time.Second)
	later := scripted.Refusal(codes.Unavailable, "SHUTTING_DOWN", long)
	server.Script("PostUserQuery", answer{scripted.Started(), short}, answer{later})
	server.Script("PostUserQueryUnary", answer{short}, answer{later})
	_, err := shown(t, client.PostUserQuery(t.Context(), hello).Events())
	expectError(t, err, codes.Unavailable, palaver.ReasonShuttingDown)
	_, err = client.PostUserQueryUnary(t.Context(), hello)
	expectError(t, err, codes.Unavailable, palaver.ReasonShuttingDown)
	calls := server.Calls()
	for i := range 2 {
		first, again := calls[2*i].TimeRemaining, calls[2*i+1].TimeRemaining
		if first > time.Minute || again <= 0 || again > first-time.Second/2 {
			t.Errorf("the posts of %s had %v and %v left", calls[2*i].Method, first, again)
		}
	}
}

// Canceling between two posts.

func TestContextEndsATurnBetweenTwoPosts(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	gone := scripted.Refusal(codes.Unavailable, "SHUTTING_DOWN", long)
	server.Script("PostUserQuery", answer{gone})
	server.Script("PostUserQueryUnary", answer{gone})
	failed := make(chan struct{}, 2)
	signal := onError(func() { failed <- struct{}{} })
	client := newClient(t, server.Target, palaver.WithReconnectTimeout(2*long), signal)
	for _, post := range []func(context.Context) error{
		func(ctx context.Context) error {
			_, err := shown(t, client.PostUserQuery(ctx, hello).Events())
			return err
		},
		func(ctx context.Context) error {
			_, err := client.PostUserQueryUnary(ctx, hello)
			return err
		},
	} {
		ctx, cancel := context.WithCancel(background(t))
		go func() {
			<-failed
			cancel()
		}()
		err := post(ctx)
		failure := expectError(t, err, codes.Canceled, "")
		if !errors.Is(failure, context.Canceled) {
			t.Errorf("%v is not context.Canceled", failure)
		}
	}
	expectCalls(t, server, 2)
}

func TestClosingTheClientEndsATurnBetweenTwoPosts(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("PostUserQuery", answer{scripted.Refusal(codes.Unavailable, "SHUTTING_DOWN", long)})
	failed := make(chan struct{}, 2)
	signal := onError(func() { failed <- struct{}{} })
	client := newClient(t, server.Target, palaver.WithReconnectTimeout(2*long), signal)
	var closing sync.WaitGroup
	closing.Go(func() {
		<-failed
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	_, err := shown(t, client.PostUserQuery(background(t), hello).Events())
	closing.Wait()
	failure := expectError(t, err, codes.Canceled, "")
	if errors.Is(failure, context.Canceled) {
		t.Error("the caller's context was not canceled")
	}
	expectCalls(t, server, 1)
}
