package palaver

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

const domain = "palaver.v1"

// An Error says why a call failed. All errors of calls are of this type; get at it with errors.As.
type Error struct {
	// Status is the gRPC status.
	Status codes.Code

	// Message says what happened, for people to read. Its wording may change: go by Reason and Status.
	Message string

	// Reason says exactly what happened. It is empty when the error does not come from a Palaver server, for instance
	// because there is none. Expect reasons that you do not know, and go by Status then.
	Reason Reason

	// FieldViolations are the invalid fields of the request, all of them.
	FieldViolations []FieldViolation

	// RetryDelay is after how long the same request may succeed. It is nil where the server gives no such hint.
	RetryDelay *time.Duration

	status *status.Status
	cause  error
}

// A FieldViolation is one invalid field of a request.
type FieldViolation struct {
	// Field is its path in the contract's request, for instance "history.max_messages".
	Field string

	// Description says what is wrong with it and what is allowed.
	Description string
}

// Error returns the message, the status and the reason.
func (e *Error) Error() string {
	kind := code.Code(e.Status).String() // as the contract writes it: NOT_FOUND
	if e.Reason != "" {
		kind += ", " + string(e.Reason)
	}
	return fmt.Sprintf("palaver: %s (%s)", e.Message, kind)
}

// Unwrap returns [context.Canceled] or [context.DeadlineExceeded] where the caller's context or the deadline of the call
// ended it, else nil.
func (e *Error) Unwrap() error {
	return e.cause
}

// GRPCStatus returns the status with all of its details, for gRPC's status.FromError.
func (e *Error) GRPCStatus() *status.Status {
	if e.status == nil {
		return status.New(e.Status, e.Message)
	}
	return e.status
}

// fromRPC returns the error for one of gRPC's, with the details that came with it.
func fromRPC(err error) *Error {
	result := fromStatus(status.Convert(err))
	if result.Status == codes.DeadlineExceeded && result.Reason == "" {
		result.cause = context.DeadlineExceeded // whichever side has noticed it first
	}
	return result
}

func fromStatus(from *status.Status) *Error {
	result := &Error{Status: from.Code(), Message: from.Message(), status: from}
	if result.Message == "" {
		result.Message = "the call failed without a message"
	}
	if err := result.readDetails(from.Proto().GetDetails()); err != nil {
		// Something between us and the server has changed the status: its details are not ours.
		result.Reason, result.FieldViolations, result.RetryDelay = "", nil, nil
	}
	return result
}

func (e *Error) readDetails(details []*anypb.Any) error {
	var (
		info       errdetails.ErrorInfo
		badRequest errdetails.BadRequest
		retry      errdetails.RetryInfo
	)
	for _, detail := range details {
		switch {
		case detail.MessageIs(&info):
			if err := detail.UnmarshalTo(&info); err != nil {
				return err
			}
			if info.GetDomain() == domain {
				e.Reason = Reason(info.GetReason())
			}
		case detail.MessageIs(&badRequest):
			if err := detail.UnmarshalTo(&badRequest); err != nil {
				return err
			}
			for _, violation := range badRequest.GetFieldViolations() {
				e.FieldViolations = append(e.FieldViolations,
					FieldViolation{violation.GetField(), violation.GetDescription()})
			}
		case detail.MessageIs(&retry):
			if err := detail.UnmarshalTo(&retry); err != nil {
				return err
			}
			e.RetryDelay = new(retry.GetRetryDelay().AsDuration())
		}
	}
	return nil
}

// isBreak tells whether a call ended because of the way to the server or its stopping, and not for what it asked for.
func (e *Error) isBreak() bool {
	if e.Reason != "" { // every error that a Palaver server decides has one
		return e.Reason == ReasonShuttingDown
	}
	// Proxies end a stream whose other side has gone with a reset. gRPC has several statuses for that, and one text.
	return e.Status == codes.Unavailable || strings.Contains(e.Message, "RST_STREAM")
}

// malformed returns the error for a reply that breaks the contract; what says in which way.
func malformed(what string) *Error {
	return &Error{Status: codes.Internal, Message: "the server's reply can't be understood: " + what}
}
