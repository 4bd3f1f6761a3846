// Command chat is a terminal chat with an assistant. Each line of the standard input is posted as a message, and the reply
// is printed as it streams. Ctrl-C cancels a reply, or ends the chat if there is none.
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
		printError(err)
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

// answer posts a message and prints the reply. An interrupt cancels it.
func (c *chat) answer(message string, interrupts <-chan os.Signal) {
	ctx, leave := context.WithCancel(context.Background())
	reply := c.client.PostUserQuery(ctx, &palaver.PostUserQueryRequest{ // posted when the reply is read
		Id:           c.id,
		UserMessage:  message,
		OnDisconnect: palaver.OnDisconnectContinue,
	})
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if err := c.show(ctx, reply); err != nil && !errors.Is(err, context.Canceled) {
			printError(err)
		}
	}()
	select {
	case <-answered:
	case <-interrupts:
		// Canceling the context is not enough, because the turn continues without its caller.
		cancel := &palaver.CancelTurnRequest{Id: c.id, RequestId: reply.RequestID()}
		if err := c.client.CancelTurn(ctx, cancel); err != nil {
			printError(err)
		}
	}
	leave()
	<-answered
}

func (c *chat) show(ctx context.Context, reply *palaver.Reply) error {
	if !c.created { // with the first message, so that the chat can start before the server
		create := &palaver.CreateAssistantRequest{Id: c.id, IfExists: palaver.IfExistsKeep}
		if _, err := c.client.CreateAssistant(ctx, create); err != nil {
			return err
		}
		c.created = true
	}
	defer fmt.Println()
	started := false
	for event, err := range reply.Events() {
		if err != nil {
			return err
		}
		switch event := event.(type) {
		case *palaver.TurnStarted:
			if started {
				fmt.Println()
				fmt.Fprintln(os.Stderr, "[the connection broke, and the reply restarts]")
			}
			started = true
		case *palaver.TextDelta:
			fmt.Print(printable(event.Text)) // os.Stdout is unbuffered
		case *palaver.SkillCall:
			fmt.Fprintf(os.Stderr, "[%s]\n", oneLine(event.Name+" "+event.ArgumentsJson))
		case *palaver.SkillResult:
			fmt.Fprintf(os.Stderr, "[%s]\n", oneLine(event.GetContent()+event.GetError()))
		}
	}
	return nil
}

// printError prints an error on one line, with its status and reason.
func printError(err error) {
	var failure *palaver.Error
	if !errors.As(err, &failure) {
		fmt.Fprintln(os.Stderr, printable(err.Error()))
		return
	}
	kind := code.Code(failure.Status).String() + " " + string(failure.Reason)
	fmt.Fprintf(os.Stderr, "error: %s: %s\n", oneLine(kind), oneLine(failure.Message))
}

func oneLine(text string) string {
	return printable(strings.Join(strings.Fields(text), " "))
}

// readLines reads lines in the background, so that an interrupt need not wait for one.
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

// isTerminal reports whether a file is a terminal: a character device other than the null device.
func isTerminal(file *os.File) bool {
	info, err := file.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}
