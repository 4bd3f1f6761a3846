package scripted

import (
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
)

// Break is the error of a broken connection.
var Break = status.Error(codes.Unavailable, "Socket closed")

// Refusal returns an error of a Palaver server. A retry delay of zero is left out.
func Refusal(code codes.Code, reason string, retryDelay time.Duration) error {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Domain: "palaver.v1", Reason: reason}}
	if retryDelay != 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(retryDelay)})
	}
	refusal, err := status.New(code, "refused").WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return refusal.Err()
}

// Started returns the first event of a turn.
func Started() *palaverv1.PostUserQueryResponse {
	started := &palaverv1.TurnStarted{RequestId: "r1", ChatModel: "gpt-x"}
	return &palaverv1.PostUserQueryResponse{Event: &palaverv1.PostUserQueryResponse_Started{Started: started}}
}

// Delta returns a piece of a reply.
func Delta(text string) *palaverv1.PostUserQueryResponse {
	delta := &palaverv1.TextDelta{Text: text}
	return &palaverv1.PostUserQueryResponse{Event: &palaverv1.PostUserQueryResponse_TextDelta{TextDelta: delta}}
}

// SkillCall returns the event of a skill call.
func SkillCall(id string) *palaverv1.PostUserQueryResponse {
	call := &palaverv1.SkillCall{Id: id, Name: "clock"}
	return &palaverv1.PostUserQueryResponse{Event: &palaverv1.PostUserQueryResponse_SkillCall{SkillCall: call}}
}

// SkillResult returns the event of a skill's result.
func SkillResult(id string) *palaverv1.PostUserQueryResponse {
	outcome := &palaverv1.SkillResult_Content{Content: "result of " + id}
	result := &palaverv1.SkillResult{Id: id, Outcome: outcome}
	return &palaverv1.PostUserQueryResponse{Event: &palaverv1.PostUserQueryResponse_SkillResult{SkillResult: result}}
}

// Progress returns the event of a turn that has been waiting for the model.
func Progress(elapsed time.Duration) *palaverv1.PostUserQueryResponse {
	progress := &palaverv1.Progress{
		Phase: palaverv1.ProgressPhase_PROGRESS_PHASE_MODEL, Elapsed: durationpb.New(elapsed),
	}
	return &palaverv1.PostUserQueryResponse{Event: &palaverv1.PostUserQueryResponse_Progress{Progress: progress}}
}

// TurnCompleted returns a stored turn.
func TurnCompleted(text string) *palaverv1.TurnCompleted {
	return &palaverv1.TurnCompleted{
		Assistant: &palaverv1.Assistant{Id: "support", TotalMessages: 3, TotalTokens: 42},
		Messages: []*palaverv1.Message{
			{Index: 2, Role: palaverv1.Role_ROLE_USER, Content: "Hello!"},
			{Index: 3, Role: palaverv1.Role_ROLE_ASSISTANT, Content: text},
		},
		FinishReason: palaverv1.FinishReason_FINISH_REASON_STOP,
		Usage:        &palaverv1.Usage{TotalTokens: 42, ModelCalls: 1},
	}
}

// Completed returns the last event of a turn.
func Completed(text string) *palaverv1.PostUserQueryResponse {
	completed := TurnCompleted(text)
	return &palaverv1.PostUserQueryResponse{Event: &palaverv1.PostUserQueryResponse_Completed{Completed: completed}}
}

// Turn returns the answer to a whole turn, with the reply in these pieces.
func Turn(texts ...string) Answer {
	answer := Answer{Started()}
	for _, text := range texts {
		answer = append(answer, Delta(text))
	}
	return append(answer, Completed(strings.Join(texts, "")))
}
