package palaver_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/palaver-chat/palaver/client/go/internal/scripted"
	"github.com/palaver-chat/palaver/client/go/palaver"
	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
)

var (
	support = &palaver.Assistant{Id: "support", TotalMessages: 1}
	get     = &palaver.GetAssistantRequest{Id: "support"}
)

func TestCallsCarryRequestsAndResponses(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("CreateAssistant", answer{&palaverv1.CreateAssistantResponse{Assistant: support, Created: true}})
	server.Script("GetAssistant", answer{&palaverv1.GetAssistantResponse{Assistant: support}})
	server.Script("DeleteAssistant", answer{&palaverv1.DeleteAssistantResponse{}})
	server.Script("CancelTurn", answer{&palaverv1.CancelTurnResponse{}})
	client := newClient(t, server.Target)
	ctx := background(t)

	create := &palaver.CreateAssistantRequest{Id: "support", Instructions: new(""), IfExists: palaver.IfExistsKeep}
	created, err := client.CreateAssistant(ctx, create)
	if err != nil || !created.GetCreated() || !proto.Equal(created.GetAssistant(), support) {
		t.Errorf("created was %v, %v", created, err)
	}
	assistant, err := client.GetAssistant(ctx, get)
	if err != nil || !proto.Equal(assistant, support) {
		t.Errorf("got was %v, %v", assistant, err)
	}
	cancelTurn := &palaver.CancelTurnRequest{Id: "support", RequestId: "r1"}
	if err := client.CancelTurn(ctx, cancelTurn); err != nil {
		t.Error(err)
	}
	deleteAssistant := &palaver.DeleteAssistantRequest{Id: "support", CollectionName: "Chats"}
	if err := client.DeleteAssistant(ctx, deleteAssistant); err != nil {
		t.Error(err)
	}
	for i, request := range []proto.Message{create, get, cancelTurn, deleteAssistant} {
		if call := server.Calls()[i]; !proto.Equal(call.Request, request) {
			t.Errorf("%s was asked %v, not %v", call.Method, call.Request, request)
		}
	}
}

func TestResponseWithoutAnAssistantIsAnError(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("CreateAssistant", answer{&palaverv1.CreateAssistantResponse{}})
	server.Script("GetAssistant", answer{&palaverv1.GetAssistantResponse{}})
	client := newClient(t, server.Target)
	_, err := client.CreateAssistant(background(t), &palaver.CreateAssistantRequest{Id: "support"})
	expectError(t, err, codes.Internal, "")
	_, err = client.GetAssistant(background(t), get)
	expectError(t, err, codes.Internal, "")
}

// Retries.

func TestReadingIsRetriedWhileTheServerIsUnavailable(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	no, yes := answer{scripted.Break}, answer{&palaverv1.GetAssistantResponse{Assistant: support}}
	server.Script("GetAssistant", no, no, no, yes)
	page := answer{&palaverv1.ListMessagesResponse{Messages: []*palaver.Message{{Index: 1}}}}
	server.Script("ListMessages", no, no, no, page)
	client := newClient(t, server.Target)
	if _, err := client.GetAssistant(background(t), get); err != nil {
		t.Error(err)
	}
	indices, err := list(background(t), client, &palaver.ListMessagesRequest{Id: "support"})
	if err != nil || !slices.Equal(indices, []int32{1}) {
		t.Errorf("listed was %v, %v", indices, err)
	}
	expectCalls(t, server, 8)
}

func TestReadingIsTriedAtMostFourTimes(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("GetAssistant", answer{scripted.Break})
	_, err := newClient(t, server.Target).GetAssistant(background(t), get)
	expectError(t, err, codes.Unavailable, "")
	expectCalls(t, server, 4)
}

func TestWritingIsNotRetried(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	client := newClient(t, server.Target)
	ctx := background(t)
	for method, call := range map[string]func() error{
		"CreateAssistant": func() error {
			_, err := client.CreateAssistant(ctx, &palaver.CreateAssistantRequest{Id: "support"})
			return err
		},
		"DeleteAssistant": func() error {
			return client.DeleteAssistant(ctx, &palaver.DeleteAssistantRequest{Id: "support"})
		},
		"CancelTurn": func() error { return client.CancelTurn(ctx, &palaver.CancelTurnRequest{Id: "support"}) },
	} {
		server.Script(method, answer{scripted.Break})
		expectError(t, call(), codes.Unavailable, "")
	}
	expectCalls(t, server, 3)
}

// Deadlines.

func TestCallHasNoDeadlineUnlessTheCallerSetsOne(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("GetAssistant", answer{&palaverv1.GetAssistantResponse{Assistant: support}})
	server.Script("PostUserQuery", scripted.Turn("Hi"))
	none, minute := newClient(t, server.Target), newClient(t, server.Target, palaver.WithTimeout(time.Minute))
	hour, cancel := context.WithTimeout(background(t), time.Hour)
	defer cancel()
	for _, try := range []struct {
		ctx           context.Context
		client        *palaver.Client
		above, atMost time.Duration
	}{
		{background(t), none, -1, 0},
		{background(t), minute, 0, time.Minute},
		{hour, none, time.Minute, time.Hour},
		{hour, minute, time.Minute, time.Hour}, // the deadline of the call takes precedence
	} {
		if _, err := try.client.GetAssistant(try.ctx, get); err != nil {
			t.Error(err)
		}
		expectShown(t, try.client.PostUserQuery(try.ctx, hello), "started", "Hi", "completed")
		calls := server.Calls()
		for _, call := range calls[len(calls)-2:] {
			if call.TimeRemaining <= try.above || call.TimeRemaining > try.atMost {
				t.Errorf("%s has %v, not %v to %v", call.Method, call.TimeRemaining, try.above, try.atMost)
			}
		}
	}
}

func TestCallEndsAtItsDeadlineAndWhenItsContextIsCanceled(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("GetAssistant", answer{scripted.Hang})
	client := newClient(t, server.Target, palaver.WithTimeout(200*time.Millisecond))
	_, err := client.GetAssistant(background(t), get)
	expectError(t, err, codes.DeadlineExceeded, "")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v is not context.DeadlineExceeded", err)
	}
	ctx, cancel := context.WithTimeout(background(t), time.Hour)
	next := len(server.Calls()) + 1
	go func() {
		server.WaitForCalls(t, next)
		cancel()
	}()
	_, err = client.GetAssistant(ctx, get)
	expectError(t, err, codes.Canceled, "")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v is not context.Canceled", err)
	}
}

// Listing.

func list(ctx context.Context, client *palaver.Client, request *palaver.ListMessagesRequest) ([]int32, error) {
	var indices []int32
	for message, err := range client.ListMessages(ctx, request) {
		if err != nil {
			return indices, err
		}
		indices = append(indices, message.GetIndex())
	}
	return indices, nil
}

func page(next string, indices ...int32) answer {
	response := &palaverv1.ListMessagesResponse{NextPageToken: next}
	for _, index := range indices {
		response.Messages = append(response.Messages, &palaver.Message{Index: index})
	}
	return answer{response}
}

func TestListMessagesIteratesOverAllPages(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("ListMessages", page("two", 1, 2), page("three"), page("", 3), page("two", 1, 2), page("", 3))
	request := &palaver.ListMessagesRequest{
		Id: "support", Order: palaver.OrderNewestFirst, PageSize: 2, AfterTime: timestamppb.New(time.Unix(1, 0)),
	}
	original := proto.CloneOf(request)
	messages := newClient(t, server.Target).ListMessages(background(t), request)
	request.Id = "changed by the caller"
	for range 2 { // each iteration starts with the first page
		var indices []int32
		for message, err := range messages {
			if err != nil {
				t.Fatal(err)
			}
			indices = append(indices, message.GetIndex())
		}
		if !slices.Equal(indices, []int32{1, 2, 3}) {
			t.Errorf("listed was %v", indices)
		}
	}
	if request.GetPageToken() != "" {
		t.Errorf("the caller's request was changed: %v", request)
	}
	for i, token := range []string{"", "two", "three", "", "two"} {
		expected := proto.CloneOf(original)
		expected.PageToken = token
		if !proto.Equal(server.Calls()[i].Request, expected) {
			t.Errorf("asked was %v, not %v", server.Calls()[i].Request, expected)
		}
	}
}

func TestListMessagesStartsOverWithEachIteration(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("ListMessages", page("two", 1), page("", 2), page("", 1))
	messages := newClient(t, server.Target).ListMessages(background(t), &palaver.ListMessagesRequest{Id: "support"})
	for message, err := range messages {
		if err != nil || message.GetIndex() == 2 {
			break
		}
	}
	for range messages {
		break
	}
	if token := server.Calls()[2].Request.(*palaver.ListMessagesRequest).GetPageToken(); token != "" {
		t.Errorf("it went on at %q", token)
	}
}

func TestPagesAreFetchedWhenTheIterationReachesThem(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("ListMessages", page("two", 1, 2), page("", 3))
	messages := newClient(t, server.Target).ListMessages(background(t), &palaver.ListMessagesRequest{Id: "support"})
	expectCalls(t, server, 0)
	for message, err := range messages {
		if err != nil || message.GetIndex() == 2 {
			break
		}
	}
	expectCalls(t, server, 1)
}

func TestErrorEndsTheListing(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("ListMessages", page("two", 1), answer{scripted.Refusal(codes.NotFound, "ASSISTANT_NOT_FOUND", 0)})
	indices, err := list(background(t), newClient(t, server.Target), &palaver.ListMessagesRequest{Id: "support"})
	expectError(t, err, codes.NotFound, palaver.ReasonAssistantNotFound)
	if !slices.Equal(indices, []int32{1}) {
		t.Errorf("listed was %v", indices)
	}
}

func TestStubSharesTheConnectionAndTheToken(t *testing.T) {
	t.Parallel()
	server := scripted.Start(t)
	server.Script("GetAssistant", answer{&palaverv1.GetAssistantResponse{Assistant: support}})
	client := newClient(t, server.Target, palaver.WithToken("secret"))
	if _, err := client.Stub().GetAssistant(background(t), get); err != nil {
		t.Error(err)
	}
	if token := server.Calls()[0].Metadata.Get("authorization"); !slices.Equal(token, []string{"Bearer secret"}) {
		t.Errorf("the token is %q", token)
	}
}
