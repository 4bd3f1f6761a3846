package palaver_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/palaver-chat/palaver/client/go/internal/scripted"
	"github.com/palaver-chat/palaver/client/go/palaver"
	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
)

// target is the address of the server for the examples.
var target = palaver.DefaultTarget

func Example() {
	client, err := palaver.NewClient(target)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	ctx := context.Background()
	create := &palaver.CreateAssistantRequest{Id: "support-42", IfExists: palaver.IfExistsKeep}
	if _, err := client.CreateAssistant(ctx, create); err != nil {
		log.Fatal(err)
	}
	reply := client.PostUserQuery(ctx, &palaver.PostUserQueryRequest{Id: "support-42", UserMessage: "Hello!"})
	for text, err := range reply.Text() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(text)
	}
	// Output: Hello, world!
}

func ExampleReply_Events() {
	client, err := palaver.NewClient(target)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	reply := client.PostUserQuery(context.Background(), &palaver.PostUserQueryRequest{
		Id:           "support-42",
		UserMessage:  "Hello!",
		Temperature:  new(0.0), // zero differs from unset
		OnDisconnect: palaver.OnDisconnectContinue,
	})
	for event, err := range reply.Events() {
		if err != nil {
			log.Fatal(err)
		}
		switch event := event.(type) {
		case *palaver.TurnStarted: // a second one voids the events before it
			fmt.Println("asking", event.ChatModel)
		case *palaver.TextDelta:
			fmt.Print(event.Text)
		case *palaver.SkillCall:
			fmt.Println("running", event.Name)
		case *palaver.TurnCompleted:
			fmt.Printf("\n%v, %d tokens\n", event.FinishReason == palaver.FinishReasonStop, event.Usage.TotalTokens)
		}
	}
	// Output:
	// asking gpt-x
	// Hello, world!
	// true, 42 tokens
}

func ExampleClient_ListMessages() {
	client, err := palaver.NewClient(target)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	request := &palaver.ListMessagesRequest{Id: "support-42", Order: palaver.OrderOldestFirst}
	for message, err := range client.ListMessages(context.Background(), request) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(message.Role == palaver.RoleUser, message.Content)
	}
	// Output:
	// true Hello!
	// false Hello, world!
}

func ExampleError() {
	client, err := palaver.NewClient(target, palaver.WithTimeout(time.Minute))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	_, err = client.GetAssistant(context.Background(), &palaver.GetAssistantRequest{Id: "nobody"})
	var failure *palaver.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		fmt.Println("it took too long")
	case errors.As(err, &failure) && failure.Reason == palaver.ReasonAssistantNotFound:
		fmt.Println("there is no such assistant")
	case err != nil:
		log.Fatal(err)
	}
	// Output: there is no such assistant
}

// TestMain runs the server for the examples.
func TestMain(m *testing.M) {
	server, stop := scripted.Serve()
	server.Script("CreateAssistant", answer{&palaverv1.CreateAssistantResponse{Assistant: support}})
	server.Script("GetAssistant", answer{scripted.Refusal(codes.NotFound, "ASSISTANT_NOT_FOUND", 0)})
	server.Script("ListMessages", answer{
		&palaverv1.ListMessagesResponse{Messages: scripted.TurnCompleted("Hello, world!").GetMessages()},
	})
	server.Script("PostUserQuery", scripted.Turn("Hello, ", "world!"))
	target = server.Target
	code := m.Run()
	stop()
	os.Exit(code)
}
