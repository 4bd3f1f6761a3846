// Package scripted provides a gRPC server on loopback that plays scripted answers and records its calls, and a proxy that
// breaks connections to it.
//
// Every method of AssistantService has a list of answers: the first call gets the first answer, and so on. The last answer
// serves all further calls. An answer consists of steps. A step is one of
//
//   - a message of the contract, which is sent;
//   - an error, which ends the call with its status;
//   - a channel, which the call waits for to be closed;
//   - a Signal, which the call closes;
//   - Hang, which makes the call wait until its caller is gone.
package scripted

import (
	"context"
	"net"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
)

// Patience is how long a test waits for something that should happen immediately.
const Patience = 30 * time.Second

type hang struct{}

// Hang is the step that makes a call wait until its caller is gone.
var Hang = hang{}

// A Signal is the step that is closed when a call reaches it.
type Signal chan struct{}

// An Answer is the sequence of steps that one call plays.
type Answer []any

// A Call is a call as the server saw it.
type Call struct {
	Method        string
	Request       proto.Message
	Metadata      metadata.MD
	TimeRemaining time.Duration // zero if there is no deadline
	Ended         chan struct{} // closed when the call has ended in any way
	Abandoned     chan struct{} // closed when the caller ended the call before the server did
}

// A Server is a scripted server that listens on Target.
type Server struct {
	Target string

	mu      sync.Mutex
	calls   []*Call
	called  chan struct{} // closed and replaced with each call
	answers map[string][]Answer
}

// Start starts a server that stops at the end of the test.
func Start(t testing.TB, options ...grpc.ServerOption) *Server {
	t.Helper()
	server, stop := Serve(options...)
	t.Cleanup(stop)
	return server
}

// Serve starts a server, and returns a function that stops it.
func Serve(options ...grpc.ServerOption) (*Server, func()) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	s := &Server{Target: listener.Addr().String(), called: make(chan struct{}), answers: map[string][]Answer{}}
	server := grpc.NewServer(append(options, grpc.UnknownServiceHandler(s.handle))...)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	return s, func() {
		server.Stop()
		serving.Wait()
	}
}

// Script sets the answers of a method.
func (s *Server) Script(method string, answers ...Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[method] = answers
}

// Calls returns the calls so far.
func (s *Server) Calls() []*Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// WaitForCalls waits until there have been count calls, and returns all of them.
func (s *Server) WaitForCalls(t testing.TB, count int) []*Call {
	t.Helper()
	for {
		s.mu.Lock()
		calls, called := slices.Clone(s.calls), s.called
		s.mu.Unlock()
		if len(calls) >= count {
			return calls
		}
		Wait(t, called, "another call")
	}
}

// Wait waits until a channel is closed.
func Wait(t testing.TB, channel <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-channel:
	case <-time.After(Patience):
		t.Fatalf("timed out waiting for %s", what)
	}
}

func (s *Server) handle(_ any, stream grpc.ServerStream) error {
	call, answer, err := s.begin(stream)
	if err != nil {
		return err
	}
	err = play(stream, answer)
	if stream.Context().Err() != nil {
		close(call.Abandoned)
	}
	close(call.Ended)
	return err
}

func (s *Server) begin(stream grpc.ServerStream) (*Call, Answer, error) {
	fullMethod, _ := grpc.MethodFromServerStream(stream)
	method := path.Base(fullMethod)
	request, err := newRequest(method)
	if err != nil {
		return nil, nil, err
	}
	if err := stream.RecvMsg(request); err != nil {
		return nil, nil, err
	}
	call := &Call{Method: method, Request: request, Ended: make(chan struct{}), Abandoned: make(chan struct{})}
	call.Metadata, _ = metadata.FromIncomingContext(stream.Context())
	if deadline, ok := stream.Context().Deadline(); ok {
		call.TimeRemaining = time.Until(deadline)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
	close(s.called)
	s.called = make(chan struct{})
	answers := s.answers[method]
	if len(answers) > 1 {
		s.answers[method] = answers[1:]
	}
	return call, answers[0], nil
}

func newRequest(method string) (proto.Message, error) {
	service := palaverv1.File_palaver_v1_assistant_service_proto.Services().ByName("AssistantService")
	input := service.Methods().ByName(protoreflect.Name(method)).Input()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(input.FullName())
	if err != nil {
		return nil, err
	}
	return kind.New().Interface(), nil
}

func play(stream grpc.ServerStream, answer Answer) error {
	for _, step := range answer {
		switch step := step.(type) {
		case proto.Message:
			if err := stream.SendMsg(step); err != nil {
				return err
			}
		case error:
			return step
		case chan struct{}:
			if err := wait(stream.Context(), step); err != nil {
				return err
			}
		case Signal:
			close(step)
		case hang:
			return wait(stream.Context(), nil)
		}
	}
	return nil
}

func wait(ctx context.Context, channel <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-channel:
		return nil
	}
}
