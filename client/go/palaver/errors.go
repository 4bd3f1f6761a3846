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

// An Error describes why a call failed. All errors of calls are of this type; use errors.As to get it.
type Error struct {
	// Status is the gRPC status.
	Status codes.Code

	// Message describes what happened, for people to read. Its wording may change: programs should use Reason and Status.
	Message string

	// Reason is the exact cause. It is empty if the error does not come from a Palaver server, for instance because the
	// server can't be reached. Newer servers may send reasons that you don't know: fall back to Status then.
	Reason Reason

	// FieldViolations are all invalid fields of the request.
	FieldViolations []FieldViolation

	// RetryDelay is how long to wait before sending the same request again. It is nil if the server did not suggest a delay.
	RetryDelay *time.Duration

	status *status.Status
	cause  error
}

// A FieldViolation is one invalid field of a request.
type FieldViolation struct {
	// Field is its path in the contract's request, for instance "history.max_messages".
	Field string

	// Description explains what is wrong with the field and what is allowed.
	Description string
}

// Error returns the message, the status and the reason.
func (e *Error) Error() string {
	kind := code.Code(e.Status).String() // NOT_FOUND, where String of codes.Code returns NotFound
	if e.Reason != "" {
		kind += ", " + string(e.Reason)
	}
	return fmt.Sprintf("palaver: %s (%s)", e.Message, kind)
}

// Unwrap returns [context.Canceled] or [context.DeadlineExceeded] if the caller's context or the deadline ended the call,
// the error of the function of [WithTokenFunc] if that failed, and nil otherwise.
func (e *Error) Unwrap() error {
	return e.cause
}

// GRPCStatus returns the status with all of its details. It is used by gRPC's status.FromError.
func (e *Error) GRPCStatus() *status.Status {
	if e.status == nil {
		return status.New(e.Status, e.Message)
	}
	return e.status
}

// fromRPC converts an error of gRPC, including its details.
func fromRPC(err error) *Error {
	result := fromStatus(status.Convert(err))
	if result.Status == codes.DeadlineExceeded && result.Reason == "" {
		result.cause = context.DeadlineExceeded // whether the server or the client noticed first
	}
	return result
}

func fromStatus(from *status.Status) *Error {
	result := &Error{Status: from.Code(), Message: from.Message(), status: from}
	if result.Message == "" {
		result.Message = "the call failed without a message"
	}
	if err := result.readDetails(from.Proto().GetDetails()); err != nil {
		// A proxy has tampered with the status, so none of its details can be trusted.
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

// isBreak reports whether the connection or a shutdown of the server ended the call, rather than the request itself.
func (e *Error) isBreak() bool {
	if e.Reason != "" { // a Palaver server gives a reason with every error
		return e.Reason == ReasonShuttingDown
	}
	// Proxies reset a stream when its server is gone. gRPC reports that with several statuses but always with this text.
	return e.Status == codes.Unavailable || strings.Contains(e.Message, "RST_STREAM")
}

// malformed returns the error for a response that breaks the contract.
func malformed(problem string) *Error {
	return &Error{Status: codes.Internal, Message: "the server's response can't be understood: " + problem}
}
