package palaver_test

import (
	"context"
	"errors"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/palaver-chat/palaver/client/go/internal/scripted"
	"github.com/palaver-chat/palaver/client/go/palaver"
	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
)

func TestReplyYieldsItsEvents(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("PostUserQuery", answer{
		scripted.Started(), scripted.Delta("Hi"), scripted.SkillCall("1"), scripted.SkillResult("1"),
		scripted.Progress(30500 * time.Millisecond), scripted.Delta(" there"), scripted.Completed("Hi there"),
	})
	reply := newClient(t, server.Target).PostUserQuery(background(t), hello)
	if reply.Completed() != nil {
		t.Error("it is completed before it is read")
	}
	expectShown(t, reply, "started", "Hi", "call 1", "result 1", "progress after 30.5s", " there", "completed")
	if tokens := reply.Completed().GetUsage().GetTotalTokens(); tokens != 42 {
		t.Errorf("it used %d tokens", tokens)
	}
}

func TestTextYieldsTheDeltas(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("PostUserQuery", answer{
		scripted.Started(), scripted.Progress(15 * time.Second), scripted.Delta("Hi"), scripted.SkillCall("1"),
		scripted.Break,
	}, answer{
		scripted.Started(), scripted.Delta("Hi"), scripted.SkillCall("1"), scripted.Delta(" there"),
		scripted.Completed("Hi there"),
	})
	reply := newClient(t, server.Target).PostUserQuery(background(t), hello)
	var pieces []string
	for text, err := range reply.Text() {
		if err != nil {
			t.Fatal(err)
		}
		pieces = append(pieces, text)
	}
	if !slices.Equal(pieces, []string{"Hi", " there"}) || reply.Completed() == nil {
		t.Errorf("the text is %q, completed by %v", pieces, reply.Completed())
	}
}

func TestUnknownEventsAreSkipped(t *testing.T) {
	t.Parallel()
	unknown := &palaverv1.PostUserQueryResponse{}
	unknown.ProtoReflect().SetUnknown([]byte{0xfa, 0x07, 0x00}) // field 127: a message
	server := scripted.Start(t)
	server.Script("PostUserQuery",
		answer{unknown, scripted.Started(), unknown, scripted.Delta("Hi"), scripted.Completed("Hi")})
	expectShown(t, newClient(t, server.Target).PostUserQuery(background(t), hello), "started", "Hi", "completed")
}

func TestUnknownEnumNumbersAreKept(t *testing.T) {
	t.Parallel()
	progress, completed := scripted.Progress(15*time.Second), scripted.Completed("Hi")
	progress.GetProgress().Phase = 77
	completed.GetCompleted().FinishReason = 77
	server := scripted.Start(t)
	server.Script("PostUserQuery", answer{scripted.Started(), progress, completed})
	reply := newClient(t, server.Target).PostUserQuery(background(t), hello)
	var phase palaver.ProgressPhase
	for event, err := range reply.Events() {
		if err != nil {
			t.Fatal(err)
		}
		if progress, ok := event.(*palaver.Progress); ok {
			phase = progress.Phase
		}
	}
	if phase != 77 {
		t.Errorf("the phase is %v", phase)
	}
	if reason := reply.Completed().GetFinishReason(); reason != 77 {
		t.Errorf("the finish reason is %v", reason)
	}
}

func TestStreamWithoutCompletedIsAnError(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("PostUserQuery", answer{scripted.Started(), scripted.Delta("Hi")})
	server.Script("PostUserQueryUnary", answer{&palaverv1.PostUserQueryUnaryResponse{}})
	client := newClient(t, server.Target)
	lines, err := shown(t, client.PostUserQuery(background(t), hello).Events())
	expectError(t, err, codes.Internal, "")
	if !slices.Equal(lines, []string{"started", "Hi"}) {
		t.Errorf("shown was %q", lines)
	}
	_, err = client.PostUserQueryUnary(background(t), hello)
	expectError(t, err, codes.Internal, "")
	expectCalls(t, server, 2)
}

func TestInvalidEventIsAnError(t *testing.T) {
	t.Parallel()
	broken := &palaverv1.PostUserQueryResponse{}
	broken.ProtoReflect().SetUnknown([]byte{0x1a, 0x03, 0x0a, 0x01, 0xff}) // a text that is not UTF-8
	server := scripted.Start(t)
	server.Script("PostUserQuery", answer{scripted.Started(), broken, scripted.Hang})
	_, err := shown(t, newClient(t, server.Target).PostUserQuery(background(t), hello).Events())
	expectError(t, err, codes.Internal, "")
	scripted.Wait(t, server.Calls()[0].Abandoned, "the end of the call")
	expectCalls(t, server, 1)
}

func TestEverythingAfterCompletedIsIgnored(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]any{
		"a break":         scripted.Break,
		"an error":        scripted.Refusal(codes.Internal, "INTERNAL", 0),
		"an event":        scripted.Delta("more"),
		"a server's hang": scripted.Hang,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := scripted.Start(t)
			server.Script("PostUserQuery", append(scripted.Turn("Hi"), after))
			reply := newClient(t, server.Target).PostUserQuery(background(t), hello)
			expectShown(t, reply, "started", "Hi", "completed")
			if reply.Completed() == nil {
				t.Error("it is not completed")
			}
			scripted.Wait(t, server.Calls()[0].Ended, "the end of the call")
			expectCalls(t, server, 1)
		})
	}
}

func TestCallThatWasReadToItsEndIsNotCanceled(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	end := make(chan struct{})
	server.Script("PostUserQuery", append(scripted.Turn("Hi"), end))
	for event, err := range newClient(t, server.Target).PostUserQuery(background(t), hello).Events() {
		if err != nil {
			t.Fatal(err)
		}
		if _, completed := event.(*palaver.TurnCompleted); completed {
			time.AfterFunc(50*time.Millisecond, func() { close(end) })
		}
	}
	call := server.Calls()[0]
	scripted.Wait(t, call.Ended, "the end of the call")
	select {
	case <-call.Abandoned:
		t.Error("the server saw it canceled")
	default:
	}
}

func TestReplyCanBeReadOnlyOnce(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("PostUserQuery", scripted.Turn("Hi"))
	reply := newClient(t, server.Target).PostUserQuery(background(t), hello)
	expectShown(t, reply, "started", "Hi", "completed")
	_, err := shown(t, reply.Events())
	expectError(t, err, codes.FailedPrecondition, "")
	for _, err := range reply.Text() {
		expectError(t, err, codes.FailedPrecondition, "")
	}
	if reply.Completed() == nil {
		t.Error("it was completed before")
	}
	expectCalls(t, server, 1)
}

// Cancellation.

func TestStoppingTheIterationEndsTheCall(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(*palaver.Reply){
		"events": func(reply *palaver.Reply) {
			for range reply.Events() {
				break
			}
		},
		"text": func(reply *palaver.Reply) {
			for range reply.Text() {
				break
			}
		},
		"by a panic": func(reply *palaver.Reply) {
			defer func() { _ = recover() }()
			for range reply.Events() {
				panic("in the caller's code")
			}
		},
		"pulled": func(reply *palaver.Reply) {
			next, stop := iter.Pull2(reply.Events())
			next()
			stop()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := scripted.Start(t)
			server.Script("PostUserQuery", answer{scripted.Started(), scripted.Delta("Hi"), scripted.Hang})
			leave(newClient(t, server.Target).PostUserQuery(background(t), hello))
			scripted.Wait(t, server.WaitForCalls(t, 1)[0].Abandoned, "the end of the call")
		})
	}
}

func TestCancelingTheContextEndsTheCall(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("PostUserQuery", answer{scripted.Started(), scripted.Delta("Hi"), scripted.Hang})
	ctx, cancel := context.WithCancel(background(t))
	defer cancel()
	var lines []string
	for event, err := range newClient(t, server.Target).PostUserQuery(ctx, hello).Events() {
		if err != nil {
			expectError(t, err, codes.Canceled, "")
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%v is not context.Canceled", err)
			}
			continue
		}
		lines = append(lines, show(t, event))
		if len(lines) == 2 {
			time.AfterFunc(0, cancel) // while the next event is awaited
		}
	}
	if !slices.Equal(lines, []string{"started", "Hi"}) {
		t.Errorf("shown was %q", lines)
	}
	scripted.Wait(t, server.Calls()[0].Abandoned, "the end of the call")
	expectCalls(t, server, 1)
}

func TestCancelingTheContextEndsTheCallWhileNobodyReads(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("PostUserQuery", answer{
		scripted.Started(), scripted.Delta("Hi"), scripted.Delta(" there"), scripted.Hang,
	})
	ctx, cancel := context.WithCancel(background(t))
	defer cancel()
	seen := 0
	for event, err := range newClient(t, server.Target).PostUserQuery(ctx, hello).Events() {
		seen++
		switch seen {
		case 1:
			cancel()
			scripted.Wait(t, server.WaitForCalls(t, 1)[0].Abandoned, "the end of the call")
		case 2: // events that arrived in the meantime are not delivered
			expectError(t, err, codes.Canceled, "")
		default:
			t.Errorf("and then came %v", event)
		}
	}
}

func TestErrorAfterCancellationIsCanceled(t *testing.T) {
	t.Parallel()
	for _, try := range []struct {
		end      error
		expected codes.Code
	}{
		{scripted.Break, codes.Canceled},
		{shuttingDown, codes.Canceled},
		{status.Error(codes.Internal, "of a proxy"), codes.Canceled},
		{scripted.Refusal(codes.Aborted, "CONCURRENT_WRITE", 0), codes.Aborted}, // the server answered first
	} {
		server := scripted.Start(t)
		server.Script("PostUserQuery", answer{scripted.Started(), try.end})
		server.Script("PostUserQueryUnary", answer{try.end})
		ctx, cancel := context.WithCancel(background(t))
		client := newClient(t, server.Target, onError(cancel))
		_, err := shown(t, client.PostUserQuery(ctx, hello).Events())
		if status.Code(err) != try.expected || errors.Is(err, context.Canceled) != (try.expected == codes.Canceled) {
			t.Errorf("after %v the error is %v", try.end, err)
		}
		ctx, cancelUnary := context.WithCancel(background(t))
		client = newClient(t, server.Target, onError(cancelUnary))
		_, err = client.PostUserQueryUnary(ctx, hello)
		if status.Code(err) != try.expected || errors.Is(err, context.Canceled) != (try.expected == codes.Canceled) {
			t.Errorf("after %v the error is %v", try.end, err)
		}
		expectCalls(t, server, 2)
	}
}

func TestDeadlineEndsAReply(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("PostUserQuery", answer{scripted.Started(), scripted.Hang})
	server.Script("PostUserQueryUnary", answer{scripted.Hang})
	client := newClient(t, server.Target, palaver.WithTimeout(time.Second))
	_, streamed := shown(t, client.PostUserQuery(background(t), hello).Events())
	_, unary := client.PostUserQueryUnary(background(t), hello)
	for _, err := range []error{streamed, unary} {
		expectError(t, err, codes.DeadlineExceeded, "")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v is not context.DeadlineExceeded", err)
		}
	}
	for _, call := range server.Calls() {
		scripted.Wait(t, call.Abandoned, "the end of the call")
	}
}

func TestClosingTheClientEndsItsCalls(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("PostUserQuery", answer{scripted.Started(), scripted.Hang})
	server.Script("GetAssistant", answer{scripted.Hang})
	client := newClient(t, server.Target)
	var calls sync.WaitGroup
	calls.Go(func() {
		_, err := client.GetAssistant(background(t), &palaver.GetAssistantRequest{Id: "support"})
		expectError(t, err, codes.Canceled, "")
	})
	calls.Go(func() {
		_, err := shown(t, client.PostUserQuery(background(t), hello).Events())
		expectError(t, err, codes.Canceled, "")
	})
	server.WaitForCalls(t, 2)
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	calls.Wait()
	for _, call := range server.Calls() {
		scripted.Wait(t, call.Abandoned, "the end of the call")
	}
	_, err := client.GetAssistant(background(t), &palaver.GetAssistantRequest{Id: "support"})
	expectError(t, err, codes.Canceled, "")
	_, err = shown(t, client.PostUserQuery(background(t), hello).Events())
	expectError(t, err, codes.Canceled, "")
	expectCalls(t, server, 2)
}

// This test is not parallel, because the goroutines of other tests would look like leaks.
func TestNoGoroutinesLeak(t *testing.T) {
	server := scripted.Start(t)
	proxy := scripted.StartProxy(t, server.Target)
	server.Script("PostUserQuery", answer{scripted.Started(), scripted.Delta("Hi"), scripted.Hang})
	client := newClient(t, proxy.Target)
	for round := range 20 {
		ctx, cancel := context.WithCancel(background(t))
		for range client.PostUserQuery(ctx, hello).Events() {
			switch round % 3 {
			case 1:
				cancel()
				continue
			case 2:
				proxy.Cut()
			}
			break
		}
		cancel()
	}
	_ = client.PostUserQuery(background(t), hello) // never read
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	for _, call := range server.Calls() {
		scripted.Wait(t, call.Ended, "the end of the calls")
	}
	deadline := time.Now().Add(scripted.Patience)
	for stacks := clientGoroutines(); len(stacks) > 0; stacks = clientGoroutines() {
		if time.Now().After(deadline) {
			t.Fatalf("leaked goroutines:\n%s", strings.Join(stacks, "\n\n"))
		}
		runtime.Gosched()
	}
}

// clientGoroutines returns the stacks of goroutines that were started by clients.
func clientGoroutines() []string {
	all := make([]byte, 1<<20)
	all = all[:runtime.Stack(all, true)]
	var result []string
	for stack := range strings.SplitSeq(string(all), "\n\n") {
		for _, origin := range []string{"grpc.newClientStream", "transport.NewHTTP2Client", "grpc.NewClient", "palaver.("} {
			if strings.Contains(stack, origin) && !strings.Contains(stack, "palaver_test.") {
				result = append(result, stack)
				break
			}
		}
	}
	return result
}

func TestClientIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	proxy := scripted.StartProxy(t, server.Target)
	server.Script("PostUserQuery", scripted.Turn("Hello, ", "world"))
	client := newClient(t, proxy.Target)
	var replies sync.WaitGroup
	for range 8 {
		replies.Go(func() {
			for range 20 {
				var text strings.Builder
				for piece, err := range client.PostUserQuery(background(t), hello).Text() {
					if err != nil {
						t.Error(err)
						return
					}
					text.WriteString(piece)
				}
				if text.String() != "Hello, world" {
					t.Errorf("the text is %q", text.String())
				}
			}
		})
	}
	server.WaitForCalls(t, 20)
	proxy.Cut()
	server.WaitForCalls(t, 60)
	proxy.Cut()
	replies.Wait()
}

// A server that writes faster than the caller reads has to wait, because the data in flight is limited.
func TestFlowControlKeepsUnreadEventsAtTheServer(t *testing.T) {
	t.Parallel()
	const pieces = 4000
	piece := strings.Repeat("x", 16<<10)
	turn := answer{scripted.Started()}
	for range pieces {
		turn = append(turn, scripted.Delta(piece))
	}
	sent := make(chan struct{})
	server := scripted.Start(t)
	server.Script("PostUserQuery", append(turn, scripted.Signal(sent), scripted.Completed("")))
	read := 0
	for event, err := range newClient(t, server.Target).PostUserQuery(background(t), hello).Events() {
		if err != nil {
			t.Fatal(err)
		}
		if _, isText := event.(*palaver.TextDelta); !isText {
			continue
		}
		if read++; read > 1 {
			continue
		}
		select {
		case <-sent:
			t.Error("the client buffered all pieces although only one was read")
		case <-time.After(time.Second): // ten times as long as it takes without flow control
		}
	}
	if read != pieces {
		t.Errorf("%d pieces were read", read)
	}
}
