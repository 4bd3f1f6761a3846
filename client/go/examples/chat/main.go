// Command chat is a conversation with an assistant in the terminal: each line of the standard input is a message, and its
// reply is printed as it streams. Ctrl-C ends a reply, and the chat where there is none.
//
//	chat [TARGET] [ASSISTANT_ID]
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"

	"github.com/palaver-chat/palaver/client/go/palaver"
)

func main() {
	target, id := palaver.DefaultTarget, "chat-go"
	if len(os.Args) > 1 {
		target = os.Args[1]
	}
	if len(os.Args) > 2 {
		id = os.Args[2]
	}
	client, err := palaver.NewClient(target)
	if err != nil {
		tell(err)
		os.Exit(1)
	}
	defer client.Close()

	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	chat := &chat{client: client, id: id}
	lines := readLines(os.Stdin)
	for {
		if isTerminal(os.Stdin) {
			fmt.Print("> ")
		}
		select {
		case <-interrupts:
			fmt.Println()
			return
		case line, more := <-lines:
			if !more {
				return
			}
			if strings.TrimSpace(line) != "" {
				chat.answer(line, interrupts)
			}
		}
	}
}

// A chat is a conversation with one assistant.
type chat struct {
	client  *palaver.Client
	id      string
	created bool
}

// answer posts a message and prints the reply. An interrupt ends it.
func (c *chat) answer(message string, interrupts <-chan os.Signal) {
	ctx, leave := context.WithCancel(context.Background())
	reply := c.client.PostUserQuery(ctx, &palaver.PostUserQueryRequest{ // which is posted when it is read
		Id:           c.id,
		UserMessage:  message,
		OnDisconnect: palaver.OnDisconnectContinue,
	})
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if err := c.show(ctx, reply); err != nil && !errors.Is(err, context.Canceled) {
			tell(err)
		}
	}()
	select {
	case <-answered:
	case <-interrupts:
		// To leave is not enough: the turn was posted to go on without its caller.
		cancel := &palaver.CancelTurnRequest{Id: c.id, RequestId: reply.RequestID()}
		if err := c.client.CancelTurn(ctx, cancel); err != nil {
			tell(err)
		}
	}
	leave()
	<-answered
}

func (c *chat) show(ctx context.Context, reply *palaver.Reply) error {
	if !c.created { // with the first message, so that a server which is not there yet ends nothing
		create := &palaver.CreateAssistantRequest{Id: c.id, IfExists: palaver.IfExistsKeep}
		if _, err := c.client.CreateAssistant(ctx, create); err != nil {
			return err
		}
		c.created = true
	}
	defer fmt.Println()
	begun := false
	for event, err := range reply.Events() {
		if err != nil {
			return err
		}
		switch event := event.(type) {
		case *palaver.TurnStarted:
			if begun {
				fmt.Println()
				fmt.Fprintln(os.Stderr, "[the connection broke, and the reply begins again]")
			}
			begun = true
		case *palaver.TextDelta:
			fmt.Print(event.Text) // os.Stdout has no buffer
		case *palaver.SkillCall:
			fmt.Fprintf(os.Stderr, "[%s %s]\n", event.Name, event.ArgumentsJson)
		case *palaver.SkillResult:
			fmt.Fprintf(os.Stderr, "[%s]\n", oneLine(event.GetContent()+event.GetError()))
		}
	}
	return nil
}

// tell prints an error in one line, with its status and reason.
func tell(err error) {
	var failure *palaver.Error
	if !errors.As(err, &failure) {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	kind := strings.TrimSpace(code.Code(failure.Status).String() + " " + string(failure.Reason))
	fmt.Fprintf(os.Stderr, "error: %s: %s\n", kind, oneLine(failure.Message))
}

func oneLine(text string) string {
	return strings.Join(strings.Fields(text), " ")
}

// readLines reads lines in the background, so that an interrupt can end the wait for one.
func readLines(in io.Reader) <-chan string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		reader := bufio.NewReader(in)
		for {
			line, err := reader.ReadString('\n')
			if line != "" {
				lines <- strings.ToValidUTF8(strings.TrimRight(line, "\r\n"), "\uFFFD")
			}
			if err != nil {
				return
			}
		}
	}()
	return lines
}

// isTerminal tells whether somebody types. Null is the one other device that chats are given.
func isTerminal(file *os.File) bool {
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}
