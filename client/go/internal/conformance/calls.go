package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/palaver-chat/palaver/client/go/palaver"
	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
)

// calls keeps track of running calls and writes their output.
type calls struct {
	client *palaver.Client

	writing sync.Mutex
	out     io.Writer

	mu      sync.Mutex
	running map[string]context.CancelFunc
}

func newCalls(out io.Writer) *calls {
	return &calls{out: out, running: map[string]context.CancelFunc{}}
}

func (c *calls) close() {
	if c.client != nil {
		_ = c.client.Close()
		c.client = nil
	}
}

func (c *calls) cancel(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cancel, running := c.running[id]; running {
		cancel()
	}
}

// begin starts a call in the background.
func (c *calls) begin(next command) error {
	if c.client == nil {
		return errors.New("there is no client")
	}
	invoke, err := caller(c.client, next)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	if next.Timeout != nil {
		cancel()
		ctx, cancel = context.WithTimeout(context.Background(), seconds(*next.Timeout))
	}
	c.mu.Lock()
	c.running[next.ID] = cancel
	c.mu.Unlock()
	go func() {
		defer cancel()
		response, err := invoke(ctx, func(kind string, value any) {
			c.mustWrite(map[string]any{"id": next.ID, kind: value})
		})
		c.mu.Lock()
		delete(c.running, next.ID)
		c.mu.Unlock()
		if err != nil {
			c.mustWrite(map[string]any{"id": next.ID, "error": describe(err)})
			return
		}
		c.mustWrite(map[string]any{"id": next.ID, "response": toJSON(response)})
	}()
	return nil
}

// write writes a line. Messages in it must have been converted with toJSON.
func (c *calls) write(line map[string]any) error {
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err = c.out.Write(append(text, '\n'))
	return err
}

// mustWrite writes a line, and exits the program if that fails.
func (c *calls) mustWrite(line map[string]any) {
	if err := c.write(line); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A call makes a call, reports what arrives before its end, and returns the response.
type call func(ctx context.Context, report func(kind string, value any)) (proto.Message, error)

// empty is the response of calls that return nothing.
var empty = &palaver.CancelTurnResponse{}

// caller returns the call that a command describes.
func caller(client *palaver.Client, next command) (call, error) {
	switch next.Call {
	case "CreateAssistant":
		return unary(next, client.CreateAssistant)
	case "GetAssistant":
		return unary(next, func(
			ctx context.Context, request *palaver.GetAssistantRequest,
		) (*palaver.GetAssistantResponse, error) {
			assistant, err := client.GetAssistant(ctx, request)
			return &palaver.GetAssistantResponse{Assistant: assistant}, err
		})
	case "DeleteAssistant":
		return unary(next, func(
			ctx context.Context, request *palaver.DeleteAssistantRequest,
		) (*palaver.DeleteAssistantResponse, error) {
			return &palaver.DeleteAssistantResponse{}, client.DeleteAssistant(ctx, request)
		})
	case "CancelTurn":
		return unary(next, func(
			ctx context.Context, request *palaver.CancelTurnRequest,
		) (*palaver.CancelTurnResponse, error) {
			return empty, client.CancelTurn(ctx, request)
		})
	case "PostUserQueryUnary":
		return unary(next, func(
			ctx context.Context, request *palaver.PostUserQueryRequest,
		) (*palaver.PostUserQueryUnaryResponse, error) {
			completed, err := client.PostUserQueryUnary(ctx, request)
			return &palaver.PostUserQueryUnaryResponse{Completed: completed}, err
		})
	case "ListMessages":
		request, err := read[palaver.ListMessagesRequest](next)
		return func(ctx context.Context, report func(string, any)) (proto.Message, error) {
			for message, err := range client.ListMessages(ctx, request) {
				if err != nil {
					return nil, err
				}
				report("message", toJSON(message))
			}
			return empty, nil
		}, err
	case "PostUserQuery":
		request, err := read[palaver.PostUserQueryRequest](next)
		return func(ctx context.Context, report func(string, any)) (proto.Message, error) {
			reply := client.PostUserQuery(ctx, request)
			report("request_id", reply.RequestID())
			for event, err := range reply.Events() {
				if err != nil {
					return nil, err
				}
				report("event", toJSON(wrap(event)))
			}
			return empty, nil
		}, err
	case "PostUserQueryText":
		request, err := read[palaver.PostUserQueryRequest](next)
		return func(ctx context.Context, report func(string, any)) (proto.Message, error) {
			for text, err := range client.PostUserQuery(ctx, request).Text() {
				if err != nil {
					return nil, err
				}
				report("text", text)
			}
			return empty, nil
		}, err
	default:
		return nil, errors.New("no such call")
	}
}

// A message is a pointer to a T that is a message of the contract.
type message[T any] interface {
	*T
	proto.Message
}

func unary[T any, Request message[T], Response proto.Message](
	next command, method func(context.Context, Request) (Response, error),
) (call, error) {
	request, err := read[T, Request](next)
	return func(ctx context.Context, _ func(string, any)) (proto.Message, error) {
		return method(ctx, request)
	}, err
}

func read[T any, Request message[T]](next command) (Request, error) {
	request := Request(new(T))
	return request, protojson.Unmarshal(next.Request, request)
}

func toJSON(message proto.Message) json.RawMessage {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err != nil {
		panic(err) // messages that a client has received can be encoded
	}
	return text
}

// wrap returns the response that holds an event.
func wrap(event palaver.Event) *palaver.PostUserQueryResponse {
	response := &palaver.PostUserQueryResponse{}
	switch event := event.(type) {
	case *palaver.TurnStarted:
		response.Event = &palaverv1.PostUserQueryResponse_Started{Started: event}
	case *palaver.TextDelta:
		response.Event = &palaverv1.PostUserQueryResponse_TextDelta{TextDelta: event}
	case *palaver.SkillCall:
		response.Event = &palaverv1.PostUserQueryResponse_SkillCall{SkillCall: event}
	case *palaver.SkillResult:
		response.Event = &palaverv1.PostUserQueryResponse_SkillResult{SkillResult: event}
	case *palaver.Progress:
		response.Event = &palaverv1.PostUserQueryResponse_Progress{Progress: event}
	case *palaver.TurnCompleted:
		response.Event = &palaverv1.PostUserQueryResponse_Completed{Completed: event}
	}
	return response
}

// describe returns the fields of an error, as the suite expects them.
func describe(err error) map[string]any {
	var failure *palaver.Error
	if !errors.As(err, &failure) {
		panic(fmt.Sprintf("%v is not an error of the client", err))
	}
	violations := []map[string]string{}
	for _, violation := range failure.FieldViolations {
		violations = append(violations, map[string]string{
			"field": violation.Field, "description": violation.Description,
		})
	}
	var delay any
	if failure.RetryDelay != nil {
		delay = failure.RetryDelay.Seconds()
	}
	return map[string]any{
		"status":           code.Code(failure.Status).String(),
		"reason":           failure.Reason,
		"message":          failure.Message,
		"field_violations": violations,
		"retry_delay":      delay,
	}
}
