// Command conformance is the runner of the conformance suite. It reads commands from its standard input, makes the calls
// through the client, and writes what they return to its standard output. tests/conformance/README.md specifies it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/palaver-chat/palaver/client/go/palaver"
)

// A command is a line of the input. The fields that are set determine its kind.
type command struct {
	Client *struct {
		Target           string   `json:"target"`
		TLS              string   `json:"tls"`
		Certificate      string   `json:"certificate"`
		Key              string   `json:"key"`
		Token            *string  `json:"token"`
		Tokens           []string `json:"tokens"`
		Timeout          *float64 `json:"timeout"`
		ReconnectTimeout *float64 `json:"reconnect_timeout"`
	} `json:"client"`

	ID      string          `json:"id"`
	Call    string          `json:"call"`
	Request json.RawMessage `json:"request"`
	Timeout *float64        `json:"timeout"`

	Cancel string `json:"cancel"`
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	calls := newCalls(out)
	defer calls.close()
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var next command
			if err := json.Unmarshal(line, &next); err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
			if err := calls.execute(next); err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *calls) execute(next command) error {
	switch {
	case next.Client != nil:
		c.close()
		var options []palaver.Option
		if next.Client.TLS != "" {
			options = append(options, palaver.WithCertificateAuthorities(next.Client.TLS))
		}
		if next.Client.Certificate != "" {
			options = append(options, palaver.WithClientCertificate(next.Client.Certificate, next.Client.Key))
		}
		if tokens := next.Client.Tokens; tokens != nil {
			options = append(options, palaver.WithTokenFunc(tokenFunc(tokens)))
		}
		if token := next.Client.Token; token != nil {
			options = append(options, palaver.WithToken(*token))
		}
		if timeout := next.Client.Timeout; timeout != nil {
			options = append(options, palaver.WithTimeout(seconds(*timeout)))
		}
		if timeout := next.Client.ReconnectTimeout; timeout != nil {
			options = append(options, palaver.WithReconnectTimeout(seconds(*timeout)))
		}
		client, err := palaver.NewClient(next.Client.Target, options...)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return c.write(map[string]any{"client": "refused"})
		}
		c.client = client
		return c.write(map[string]any{"client": "ready"})
	case next.Call != "":
		return c.begin(next)
	case next.Cancel != "":
		c.cancel(next.Cancel)
		return nil
	default:
		return fmt.Errorf("no such command")
	}
}

// tokenFunc returns a function that returns the tokens one after another, and then fails.
func tokenFunc(tokens []string) func(context.Context) (string, error) {
	left := make(chan string, len(tokens))
	for _, token := range tokens {
		left <- token
	}
	return func(context.Context) (string, error) {
		select {
		case token := <-left:
			return token, nil
		default:
			return "", errors.New("no token left")
		}
	}
}

func seconds(value float64) time.Duration {
	return time.Duration(value * float64(time.Second))
}
