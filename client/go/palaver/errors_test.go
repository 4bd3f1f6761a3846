package palaver_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statusv1 "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/palaver-chat/palaver/client/go/internal/scripted"
	"github.com/palaver-chat/palaver/client/go/palaver"
)

func details(t *testing.T, messages ...proto.Message) []*anypb.Any {
	t.Helper()
	var result []*anypb.Any
	for _, message := range messages {
		detail, err := anypb.New(message)
		if err != nil {
			t.Fatal(err)
		}
		result = append(result, detail)
	}
	return result
}

// failure returns the error that a caller gets for a status with details.
func failure(t *testing.T, code codes.Code, message string, details []*anypb.Any) *palaver.Error {
	t.Helper()
	server := scripted.Start(t)
	rich := status.FromProto(&statusv1.Status{Code: int32(code), Message: message, Details: details})
	server.Script("GetAssistant", answer{rich.Err()})
	_, err := newClient(t, server.Target).GetAssistant(background(t), get)
	return expectErrorOf(t, err)
}

func expectErrorOf(t *testing.T, err error) *palaver.Error {
	t.Helper()
	var failure *palaver.Error
	if !errors.As(err, &failure) {
		t.Fatalf("%v is not a *palaver.Error", err)
	}
	return failure
}

func TestErrorHasTheDetailsOfTheServer(t *testing.T) {
	t.Parallel()
	got := failure(t, codes.InvalidArgument, "two fields are wrong", details(t,
		&durationpb.Duration{}, // an unknown detail
		&errdetails.ErrorInfo{Domain: "palaver.v1", Reason: "INVALID_FIELD"},
		&errdetails.ErrorInfo{Domain: "proxy.example", Reason: "SOMETHING_ELSE"},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: "id", Description: "too long"}, {Field: "history.max_messages", Description: "too many"},
		}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)},
	))
	if got.Status != codes.InvalidArgument || got.Reason != palaver.ReasonInvalidField || got.Message != "two fields are wrong" {
		t.Errorf("the error is %v", got)
	}
	violations := []palaver.FieldViolation{{"id", "too long"}, {"history.max_messages", "too many"}}
	if !slices.Equal(got.FieldViolations, violations) {
		t.Errorf("the violations are %v", got.FieldViolations)
	}
	if got.RetryDelay == nil || *got.RetryDelay != 1500*time.Millisecond {
		t.Errorf("the retry delay is %v", got.RetryDelay)
	}
	if text := "palaver: two fields are wrong (INVALID_ARGUMENT, INVALID_FIELD)"; got.Error() != text {
		t.Errorf("it reads %q", got)
	}
	if rich, ok := status.FromError(got); !ok || rich.Code() != codes.InvalidArgument || len(rich.Details()) != 5 {
		t.Errorf("gRPC reads %v from it", rich)
	}
}

func TestDetailsOfOthersAreIgnored(t *testing.T) {
	t.Parallel()
	for name, details := range map[string][]*anypb.Any{
		"no details":           nil,
		"another domain":       details(t, &errdetails.ErrorInfo{Domain: "proxy.example", Reason: "NO_UPSTREAM"}),
		"what does not parse":  {{TypeUrl: "type.googleapis.com/google.rpc.ErrorInfo", Value: []byte{0xff}}},
		"part does not parse":  append(details(t, &errdetails.ErrorInfo{Domain: "palaver.v1", Reason: "INTERNAL"}, &errdetails.RetryInfo{}), &anypb.Any{TypeUrl: "type.googleapis.com/google.rpc.BadRequest", Value: []byte{0xff}}),
		"an empty type":        {{}},
		"an unknown type":      {{TypeUrl: "type.googleapis.com/unknown", Value: []byte{0xff}}},
		"a retry of somewhere": {{TypeUrl: "type.googleapis.com/google.rpc.RetryInfo", Value: []byte{0xff}}},
	} {
		got := failure(t, codes.PermissionDenied, "", details)
		if got.Status != codes.PermissionDenied || got.Reason != "" || got.FieldViolations != nil || got.RetryDelay != nil {
			t.Errorf("with %s the error is %#v", name, got)
		}
		if text := "palaver: the call failed without a message (PERMISSION_DENIED)"; got.Error() != text {
			t.Errorf("it reads %q", got)
		}
	}
}

func TestRetryDelayOfZeroIsNotNil(t *testing.T) {
	t.Parallel()
	got := failure(t, codes.Aborted, "busy", details(t, &errdetails.RetryInfo{RetryDelay: &durationpb.Duration{}}))
	if got.RetryDelay == nil || *got.RetryDelay != 0 {
		t.Errorf("the retry delay is %v", got.RetryDelay)
	}
}

func TestUnknownStatusIsKept(t *testing.T) {
	t.Parallel()
	if got := failure(t, 77, "odd", nil); got.Status != 77 || got.Error() != "palaver: odd (77)" {
		t.Errorf("the error is %v", got)
	}
}

func TestTurnCanceledByOthersIsNotContextCanceled(t *testing.T) {
	t.Parallel()
	reason := details(t, &errdetails.ErrorInfo{Domain: "palaver.v1", Reason: "TURN_CANCELLED"})
	if got := failure(t, codes.Canceled, "cancelled", reason); errors.Is(got, context.Canceled) {
		t.Errorf("%v is context.Canceled", got)
	}
	reason = details(t, &errdetails.ErrorInfo{Domain: "palaver.v1", Reason: "MODEL_TIMEOUT"})
	if got := failure(t, codes.DeadlineExceeded, "too slow", reason); errors.Is(got, context.DeadlineExceeded) {
		t.Errorf("%v is context.DeadlineExceeded", got)
	}
}

func TestErrorConstructedByAProgramHasAStatus(t *testing.T) {
	t.Parallel()
	made := &palaver.Error{Status: codes.NotFound, Message: "no such thing"} // for instance in its tests
	if status.Code(made) != codes.NotFound || status.Convert(made).Message() != "no such thing" {
		t.Errorf("gRPC reads %v from it", status.Convert(made))
	}
}
