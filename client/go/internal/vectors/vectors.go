// Package vectors reads the test vectors that the clients of all languages share. The README of client/vectors
// describes their fields.
package vectors

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Folder is the path of the vectors.
var Folder = filepath.Join(sourceFolder(), "..", "..", "..", "vectors")

func sourceFolder() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(file)
}

// The files of vectors, and the service config.
const (
	Replays       = "replay.json"
	Breaks        = "breaks.json"
	Pauses        = "pauses.json"
	LocalTargets  = "local_targets.json"
	ServiceConfig = "service_config.json"
	Terminal      = "terminal.json"
)

// A Replay is a turn that is posted again, and what its caller gets.
type Replay struct {
	Name      string
	Posts     []Post
	Delivered []json.RawMessage
	Error     *Error
}

// A Post is what the server answers to one post.
type Post struct {
	Events []json.RawMessage
	Status Status
	Reason string
}

// A Break is an error after which a turn is posted again, or is not.
type Break struct {
	Name    string
	Error   Error
	IsBreak bool `json:"is_break"`
}

// A PauseSequence is a series of errors and the pauses after them.
type PauseSequence struct {
	Name               string
	TimeoutMS          *int64 `json:"timeout_ms"`
	ReconnectTimeoutMS int64  `json:"reconnect_timeout_ms"`
	Steps              []Step
}

// A Step is an event or an error at a point in time.
type Step struct {
	AtMS     int64 `json:"at_ms"`
	Received bool
	Error    *Error
	PauseMS  []int64 `json:"pause_ms"`
}

// An Error is how a call failed.
type Error struct {
	Status       Status
	Reason       string
	Message      string
	RetryDelayMS *int64 `json:"retry_delay_ms"`
}

// RetryDelay returns the retry delay, or nil.
func (e *Error) RetryDelay() *durationpb.Duration {
	if e.RetryDelayMS == nil {
		return nil
	}
	return &durationpb.Duration{Seconds: *e.RetryDelayMS / 1000, Nanos: int32(*e.RetryDelayMS % 1000 * 1_000_000)}
}

// A LocalTarget is a target that can only mean this machine, or may mean another one.
type LocalTarget struct {
	Name          string
	Target        string
	Local         bool
	UnsupportedIn []string `json:"unsupported_in"`
}

// A TerminalText is a text, and what of it a terminal may get.
type TerminalText struct {
	Name    string
	Text    string
	Printed string
}

// A Status is the name of a gRPC status.
type Status string

// Code returns the code of the status. The empty name is OK.
func (s Status) Code(t testing.TB) codes.Code {
	t.Helper()
	number, known := code.Code_value[string(s)]
	if !known && s != "" {
		t.Fatalf("no gRPC status is called %q", s)
	}
	return codes.Code(number)
}

// Load returns the vectors of a file. Unknown fields are errors.
func Load[Vector any](t testing.TB, name string) []Vector {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(Read(t, name)))
	decoder.DisallowUnknownFields()
	var result []Vector
	if err := decoder.Decode(&result); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if len(result) == 0 {
		t.Fatalf("%s is empty", name)
	}
	return result
}

// Read returns the content of a file. It skips the test outside a clone of the repository, where there are no vectors.
func Read(t testing.TB, name string) []byte {
	t.Helper()
	if _, err := os.Stat(Folder); os.IsNotExist(err) {
		t.Skip("this is not a clone of the repository")
	}
	content, err := os.ReadFile(filepath.Join(Folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}
