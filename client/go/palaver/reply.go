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

// An Event is an event of a reply: a [*TurnStarted], [*TextDelta], [*SkillCall], [*SkillResult], [*Progress] or
// [*TurnCompleted]. The first event is a [*TurnStarted] and the last one the [*TurnCompleted]. The others come in any order.
type Event = proto.Message

type responses = grpc.ServerStreamingClient[PostUserQueryResponse]

// A Reply is the reply to a user query: a stream of events, or of only their text. The query is posted when the iteration
// starts. Stopping the iteration early ends the call immediately. A reply can be read only once.
//
// When the connection breaks or the server shuts down, the turn is posted again with the same request ID, and the
// iteration resumes where it stopped. If the turn had to run again and the model wrote something else, the reply restarts:
// a second [*TurnStarted] voids all events before it. With [OnDisconnectContinue], this happens only if the server dies.
// After three posts in a row that the server answered but that brought nothing new, the iteration ends with the error,
// because each post may be another model call.
//
// A Reply is not safe for concurrent use.
type Reply struct {
	client    *Client
	ctx       context.Context // of the call that the iteration makes
	request   *PostUserQueryRequest
	read      atomic.Bool
	completed *TurnCompleted
}

// RequestID returns the identifier of the turn, to cancel it or to post it again: the one of the request, or the generated
// one. It is known before the query is posted.
func (r *Reply) RequestID() string {
	return r.request.GetRequestId()
}

// Completed returns the last event, with the usage, the finish reason and the stored messages. It returns nil until the
// reply has been read to its end without an error.
func (r *Reply) Completed() *TurnCompleted {
	return r.completed
}

// Events posts the query and yields the events of the reply. [*TurnCompleted] is the last one and means that the turn is
// stored. An error, which is an [*Error], ends the iteration and means that the turn is not stored. The exception is
// INTERNAL without a reason: the server broke the contract, and it is unknown whether the turn is stored.
func (r *Reply) Events() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if r.read.Swap(true) {
			yield(nil, &Error{Status: codes.FailedPrecondition, Message: "a reply can be read only once"})
			return
		}
		ctx, end := r.client.begin(r.ctx)
		defer end()
		var filter replayFilter
		err := r.client.postUntilDone(ctx, func(budget *retryBudget) (bool, error) {
			filter.beginPost()
			stream, err := r.client.stub.PostUserQuery(ctx, r.request)
			if err != nil {
				return filter.mayRepeat(), err
			}
			err = read(stream, budget, &filter, func(event Event) bool {
				r.completed, _ = event.(*TurnCompleted)
				return yield(event, nil)
			})
			if r.completed != nil {
				awaitEnd(stream, end)
			}
			return filter.mayRepeat(), err
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// read yields the events of one call. It returns nil after the last event or when yield returns false, and otherwise the
// error that ended the call.
func read(stream responses, budget *retryBudget, filter *replayFilter, yield func(Event) bool) error {
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return malformed("the stream ended without `completed`")
		}
		if err != nil {
			return err
		}
		if err := stream.Context().Err(); err != nil { // gRPC first returns everything that it has buffered
			return status.FromContextError(err).Err()
		}
		budget.reset()
		event := eventOf(response)
		if event == nil {
			continue
		}
		for _, event := range filter.accept(event) {
			if _, isLast := event.(*TurnCompleted); !yield(event) || isLast {
				return nil
			}
		}
	}
}

// awaitEnd waits for the status of a call after its last event, so that proxies and the server do not see a canceled
// call. It does not wait long, because the turn is stored and the status no longer matters.
func awaitEnd(stream responses, end context.CancelFunc) {
	timer := time.AfterFunc(time.Second, end)
	defer timer.Stop()
	for {
		if _, err := stream.Recv(); err != nil {
			return
		}
	}
}

// eventOf returns the event in a response, or nil if this version does not know it.
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
	case *palaverv1.PostUserQueryResponse_Progress:
		return event.Progress
	case *palaverv1.PostUserQueryResponse_Completed:
		return event.Completed
	default:
		return nil
	}
}

// Text is like [Reply.Events] but yields only the pieces of the reply's text. Delivered text can't be taken back: if the
// reply restarts, the iteration ends with an [*Error], UNAVAILABLE without a reason.
func (r *Reply) Text() iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if err := r.readText(func(text string) bool { return yield(text, nil) }); err != nil {
			yield("", err)
		}
	}
}

// readText yields the pieces of the text. It returns nil at the end or when yield returns false, and otherwise an *Error.
func (r *Reply) readText(yield func(string) bool) error {
	started := false
	for event, err := range r.Events() {
		if err != nil {
			return err
		}
		switch event := event.(type) {
		case *TurnStarted:
			if started {
				return &Error{
					Status:  codes.Unavailable,
					Message: "the connection broke, and the turn ran again with a different reply",
				}
			}
			started = true
		case *TextDelta:
			if !yield(event.Text) {
				return nil
			}
		}
	}
	return nil
}
