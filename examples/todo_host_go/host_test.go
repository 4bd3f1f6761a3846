package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// newHost returns a host for a file. With the same path as before, it is the host after a restart.
func newHost(t *testing.T, path, prefix string) *host {
	t.Helper()
	store, err := openStore(path)
	if err != nil {
		t.Fatal(err)
	}
	return &host{prefix: prefix, store: store}
}

// A step is a call and its expected outcome. The default assistant is "a".
type step struct {
	assistant, callID, skill, arguments string
	restart                             bool // before the call
	content                             string
	err                                 string // a regular expression
	code                                codes.Code
}

func TestInvokeSkill(t *testing.T) {
	add := func(callID, task string) step {
		return step{callID: callID, skill: "add_todo", arguments: fmt.Sprintf(`{"task": %q}`, task)}
	}
	answered := func(s step, content string) step { s.content = content; return s }
	restarted := func(s step) step { s.restart = true; return s }
	milk := answered(add("1", "Buy milk"), `{"id":1,"task":"Buy milk","done":false}`)
	lists := func(todos ...string) step {
		content := `{"todos":[` + strings.Join(todos, ",") + `]}`
		return step{callID: "list", skill: "list_todos", arguments: "{}", content: content}
	}
	wrong := func(skill, arguments, err string) step {
		return step{callID: "wrong", skill: skill, arguments: arguments, err: err}
	}
	refused := func(callID, skill, arguments string, code codes.Code) step {
		return step{callID: callID, skill: skill, arguments: arguments, code: code}
	}
	done := step{
		callID: "2", skill: "complete_todo", arguments: `{"id": 1}`, content: `{"id":1,"task":"Buy milk","done":true}`,
	}

	for name, steps := range map[string][]step{
		"adds, lists and completes": {
			lists(), milk, lists(milk.content), done, lists(done.content),
		},
		"counts the identifiers": {
			milk, answered(add("2", "Tom & <Jerry>"), `{"id":2,"task":"Tom & <Jerry>","done":false}`),
		},
		"keeps assistants apart, and their calls": {
			milk,
			{assistant: "b", callID: "list", skill: "list_todos", arguments: "{}", content: `{"todos":[]}`},
			{
				assistant: "b", callID: "1", skill: "add_todo", arguments: `{"task": "Sleep"}`,
				content: `{"id":1,"task":"Sleep","done":false}`,
			},
			lists(milk.content),
		},
		"answers a repeated call as before": {milk, done, milk, lists(done.content)},
		"answers it after a restart":        {milk, restarted(milk), lists(milk.content)},
		"answers it in other words":         {milk, answered(add("1", "Milk"), milk.content), lists(milk.content)},
		"refuses the call of another skill": {
			milk, refused("1", "complete_todo", `{"id": 1}`, codes.FailedPrecondition), lists(milk.content),
		},
		"does not remember what had no effect": {
			wrong("complete_todo", `{"id": 1}`, "no to-do 1; list_todos"), milk,
			{callID: "wrong", skill: "complete_todo", arguments: `{"id": 1}`, content: done.content},
		},
		"refuses an unknown skill":                {refused("1", "add_todos", "{}", codes.NotFound)},
		"refuses a call without its identifier":   {refused("", "list_todos", "{}", codes.InvalidArgument)},
		"refuses what is no JSON":                 {wrong("add_todo", `{"task": `, "the arguments are wrong")},
		"refuses what is empty":                   {wrong("list_todos", ``, "the arguments are wrong")},
		"refuses what is no object":               {wrong("add_todo", `["Buy milk"]`, "must be a JSON object, not array")},
		"refuses null":                            {wrong("list_todos", `null`, "must be a JSON object")},
		"refuses two objects":                     {wrong("list_todos", `{} {}`, "nothing after it")},
		"refuses an unknown argument":             {wrong("add_todo", `{"task": "x", "due": "now"}`, `unknown field "due"`)},
		"refuses an argument where there is none": {wrong("list_todos", `{"all": true}`, `unknown field "all"`)},
		"refuses a name in other letters":         {wrong("add_todo", `{"Task": "x"}`, `"task" is missing`)},
		"refuses a name in both letters":          {wrong("add_todo", `{"task": "x", "TASK": "y"}`, `no argument "TASK"`)},
		"misses an argument":                      {wrong("complete_todo", `{}`, `"id" is missing`)},
		"misses a null argument":                  {wrong("add_todo", `{"task": null}`, `"task" is missing`)},
		"refuses another type":                    {wrong("add_todo", `{"task": 1}`, `"task" has the wrong type: number`)},
		"refuses a fraction":                      {wrong("complete_todo", `{"id": 1.5}`, `"id" has the wrong type: number 1.5`)},
		"refuses an empty task":                   {wrong("add_todo", `{"task": " "}`, "must say")},
		"refuses a long task":                     {wrong("add_todo", `{"task": "`+strings.Repeat("é", 501)+`"}`, "500")},
		"refuses to-do 0":                         {milk, wrong("complete_todo", `{"id": 0}`, "no to-do 0")},
		"refuses a to-do that is not there yet":   {milk, wrong("complete_todo", `{"id": 2}`, "no to-do 2")},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "todos.json")
			h := newHost(t, path, "")
			for i, s := range steps {
				if s.restart {
					h = newHost(t, path, "")
				}
				if s.assistant == "" {
					s.assistant = "a"
				}
				response, err := h.InvokeSkill(t.Context(), &palaverv1.InvokeSkillRequest{
					AssistantId: s.assistant, CallId: s.callID, Name: s.skill, ArgumentsJson: s.arguments,
				})
				if status.Code(err) != s.code {
					t.Fatalf("step %d: got %v, want %v", i, err, s.code)
				}
				if response.GetContent() != s.content {
					t.Errorf("step %d: got %v, want the content %s", i, response, s.content)
				}
				if (s.err == "") != (response.GetError() == "") || !regexp.MustCompile(s.err).MatchString(response.GetError()) {
					t.Errorf("step %d: got the error %q, want %q", i, response.GetError(), s.err)
				}
			}
		})
	}
}

func TestListSkills(t *testing.T) {
	h := newHost(t, filepath.Join(t.TempDir(), "todos.json"), "go_")
	response, err := h.ListSkills(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range response.GetSkills() {
		names = append(names, s.GetName())
		_, err := h.InvokeSkill(t.Context(), &palaverv1.InvokeSkillRequest{
			AssistantId: "a", CallId: "1", Name: strings.TrimPrefix(s.GetName(), "go_"),
		})
		if status.Code(err) != codes.NotFound {
			t.Errorf("%s: without the prefix got %v, want NotFound", s.GetName(), err)
		}
	}
	if got, want := strings.Join(names, " "), "go_add_todo go_list_todos go_complete_todo"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestWhatCantBeStoredHasNoEffect(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "folder")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, filepath.Join(folder, "todos.json"), "")
	invoke := func(callID, skill, arguments string, want codes.Code, todos ...todo) {
		t.Helper()
		_, err := h.InvokeSkill(t.Context(), &palaverv1.InvokeSkillRequest{
			AssistantId: "a", CallId: callID, Name: skill, ArgumentsJson: arguments,
		})
		if status.Code(err) != want {
			t.Fatalf("got %v, want %v", err, want)
		}
		if got := h.store.todos("a"); !slices.Equal(got, todos) {
			t.Fatalf("got %v, want %v", got, todos)
		}
	}
	invoke("1", "add_todo", `{"task": "x"}`, codes.OK, todo{1, "x", false})
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	invoke("2", "add_todo", `{"task": "y"}`, codes.Internal, todo{1, "x", false})
	invoke("3", "complete_todo", `{"id": 1}`, codes.Internal, todo{1, "x", false})
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	invoke("3", "complete_todo", `{"id": 1}`, codes.OK, todo{1, "x", true})
	invoke("2", "add_todo", `{"task": "y"}`, codes.OK, todo{1, "x", true}, todo{2, "y", false})
}

func TestCallsAtTheSameTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "todos.json")
	h := newHost(t, path, "")
	var calls sync.WaitGroup
	for i := range 40 {
		calls.Go(func() {
			_, err := h.InvokeSkill(t.Context(), &palaverv1.InvokeSkillRequest{
				AssistantId: "a", CallId: fmt.Sprint(i / 2), Name: "add_todo", ArgumentsJson: `{"task": "x"}`,
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	for i, got := range newHost(t, path, "").store.todos("a") {
		if got.ID != i+1 {
			t.Errorf("to-do %d has the id %d", i+1, got.ID)
		}
	}
	if got := len(h.store.todos("a")); got != 20 {
		t.Errorf("got %d to-dos, want 20", got)
	}
}

func TestTheMemoryOfCallsIsLimited(t *testing.T) {
	path := filepath.Join(t.TempDir(), "todos.json")
	old := map[string]list{"a": {}}
	for i := range maxCalls {
		old["a"] = list{Calls: append(old["a"].Calls, call{ID: fmt.Sprint(i), Skill: "add_todo"})}
	}
	if err := save(path, old); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, path, "")
	add := &palaverv1.InvokeSkillRequest{AssistantId: "a", CallId: "new", Name: "add_todo", ArgumentsJson: `{"task": "x"}`}
	if _, err := h.InvokeSkill(t.Context(), add); err != nil {
		t.Fatal(err)
	}
	calls := newHost(t, path, "").store.lists["a"].Calls
	if len(calls) != maxCalls || calls[0].ID != "1" || calls[maxCalls-1].ID != "new" {
		t.Errorf("got %d calls, from %v to %v", len(calls), calls[0], calls[len(calls)-1])
	}
}

func TestOpenStore(t *testing.T) {
	for name, content := range map[string]string{"no JSON": `{"a"`, "no object": `[]`, "null": `null`} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "todos.json")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := openStore(path); err == nil || !strings.Contains(err.Error(), "is not a file of to-dos") {
				t.Errorf("got %v", err)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != content {
				t.Errorf("got %q, %v; the file must stay as it is", after, err)
			}
		})
	}
	if _, err := openStore(filepath.Join(t.TempDir(), "nowhere", "todos.json")); err == nil {
		t.Error("a folder that is not there is accepted")
	}
}

func TestCheckPrefix(t *testing.T) {
	for prefix, want := range map[string]bool{
		"": true, "go_": true, "go-2": true, "go.": false, "é": false,
		strings.Repeat("x", 51): true, strings.Repeat("x", 52): false, // complete_todo has 13 letters
	} {
		if err := checkPrefix(prefix); (err == nil) != want {
			t.Errorf("%q: got %v", prefix, err)
		}
	}
}
