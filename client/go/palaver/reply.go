package palaver

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
)

// An Event is one of a reply's: a [*TurnStarted], [*TextDelta], [*SkillCall], [*SkillResult] or [*TurnCompleted].
type Event = proto.Message

type responses = grpc.ServerStreamingClient[PostUserQueryResponse]

// A Reply is a turn: a stream of events, or of the pieces of its text alone. The query is posted when the iteration
// begins, and ends when it does; leaving it early ends the call at the server. A reply can be read once.
//
// When the connection breaks, the turn is posted again with the same request ID, and the iteration goes on where it was.
// Only where the turn had to run anew, and the model now writes something else, another [*TurnStarted] says that the
// reply begins again: what came before it is void. With [OnDisconnectContinue] that takes the death of a server.
//
// A reply is for one goroutine at a time.
type Reply struct {
	client    *Client
	ctx       context.Context // of the call that the iteration makes
	request   *PostUserQueryRequest
	read      atomic.Bool
	completed *TurnCompleted
}

// RequestID returns the identifier of the turn, with which to cancel it or to post it again: the caller's, or the one
// made for it. It is known before the query is posted.
func (r *Reply) RequestID() string {
	return r.request.GetRequestId()
}

// Completed returns the last event, with the usage, the finish reason and the stored messages. It is nil until the reply
// was read to its end without an error.
func (r *Reply) Completed() *TurnCompleted {
	return r.completed
}

// Events posts the query and yields the events of the reply. When the turn is stored, [*TurnCompleted] is the last one.
// An error, which is an [*Error], ends the iteration, and nothing of the turn is stored then. INTERNAL without a reason
// is the exception: the server broke the contract, and nobody knows if the turn is stored.
func (r *Reply) Events() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if r.read.Swap(true) {
			yield(nil, &Error{Status: codes.FailedPrecondition, Message: "a reply can be read only once"})
			return
		}
		ctx, end := r.client.begin(r.ctx)
		defer end()
		var progress progress
		err := r.client.postUntilDone(ctx, func(attempts *attempts) error {
			progress.postAgain()
			stream, err := r.client.stub.PostUserQuery(ctx, r.request)
			if err != nil {
				return err
			}
			err = read(stream, attempts, &progress, func(event Event) bool {
				r.completed, _ = event.(*TurnCompleted)
				return yield(event, nil)
			})
			if r.completed != nil {
				awaitEnd(stream, end)
			}
			return err
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// read hands out the events of one call. It returns nil after the last one, or when the caller leaves, else why the call
// ended.
func read(stream responses, attempts *attempts, progress *progress, handOut func(Event) bool) error {
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return malformed("the stream ended without `completed`")
		}
		if err != nil {
			return err
		}
		if err := stream.Context().Err(); err != nil { // gRPC looks only when it has handed out all that has arrived
			return status.FromContextError(err).Err()
		}
		attempts.succeeded()
		event := eventOf(response)
		if event == nil {
			continue
		}
		for _, event := range progress.accept(event) {
			if _, isLast := event.(*TurnCompleted); !handOut(event) || isLast {
				return nil
			}
		}
	}
}

// awaitEnd lets a call whose last event was read end by itself, so that nobody on the way takes it for cancelled. It
// does not wait for long: the turn is stored, and nothing that comes now matters.
func awaitEnd(stream responses, end context.CancelFunc) {
	timer := time.AfterFunc(time.Second, end)
	defer timer.Stop()
	for {
		if _, err := stream.Recv(); err != nil {
			return
		}
	}
}

// eventOf returns the event of a message of the stream; nil: this version does not know it, and skips it.
func eventOf(response *PostUserQueryResponse) Event {
	switch event := response.GetEvent().(type) {
	case *palaverv1.PostUserQueryResponse_Started:
		return event.Started
	case *palaverv1.PostUserQueryResponse_TextDelta:
		return event.TextDelta
	case *palaverv1.PostUserQueryResponse_SkillCall:
		return event.SkillCall
	case *palaverv1.PostUserQueryResponse_SkillResult:
		return event.SkillResult
	case *palaverv1.PostUserQueryResponse_Completed:
		return event.Completed
	default:
		return nil
	}
}

// Text is like [Reply.Events] for those who want the pieces of the reply's text alone, as they arrive. A piece can't be
// taken back, so where the reply begins again, the iteration ends with an [*Error]: UNAVAILABLE without a reason.
func (r *Reply) Text() iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := r.readText(func(text string) bool { return yield(text, nil) }); err != nil {
			yield("", err)
		}
	}
}

func (r *Reply) readText(handOut func(string) bool) error {
	begun := false
	for event, err := range r.Events() {
		if err != nil {
			return err
		}
		switch event := event.(type) {
		case *TurnStarted:
			if begun {
				return &Error{
					Status:  codes.Unavailable,
					Message: "the connection broke, and the turn had to run anew with another reply",
				}
			}
			begun = true
		case *TextDelta:
			if !handOut(event.Text) {
				return nil
			}
		}
	}
	return nil
}
