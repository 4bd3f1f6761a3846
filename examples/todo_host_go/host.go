package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"
	"unicode/utf8"

	palaverv1 "github.com/palaver-chat/palaver/client/go/palaver/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const maxTask = 500 // characters, as the schema of add_todo says

// A skill consists of its description for the model and its implementation.
type skill struct {
	name        string
	description string
	schema      string
	run         func(h *host, request *palaverv1.InvokeSkillRequest) (string, error)
}

var skills = []skill{
	{
		"add_todo",
		"Adds a task to the user's to-do list. Returns the new to-do with its id.",
		`{"type": "object", "properties": {"task": {"type": "string", "minLength": 1, "maxLength": 500, ` +
			`"description": "What is to be done."}}, "required": ["task"], "additionalProperties": false}`,
		(*host).addTodo,
	},
	{
		"list_todos",
		"Lists all to-dos of the user, done or not, with their ids.",
		`{"type": "object", "properties": {}, "additionalProperties": false}`,
		(*host).listTodos,
	},
	{
		"complete_todo",
		"Marks a to-do of the user as done.",
		`{"type": "object", "properties": {"id": {"type": "integer", "minimum": 1, ` +
			`"description": "The id of the to-do."}}, "required": ["id"], "additionalProperties": false}`,
		(*host).completeTodo,
	},
}

// A host serves the skills of a store.
type host struct {
	palaverv1.UnimplementedSkillHostServiceServer
	prefix string // of all skill names
	store  *store
}

// A mistake is an error that the model can correct, so it is sent to the model.
type mistake string

func (m mistake) Error() string { return string(m) }

// names returns the prefixed names of the skills.
func names(prefix string) []string {
	var all []string
	for _, s := range skills {
		all = append(all, prefix+s.name)
	}
	return all
}

// ListSkills returns the skills with their prefixed names.
func (h *host) ListSkills(context.Context, *palaverv1.ListSkillsRequest) (*palaverv1.ListSkillsResponse, error) {
	response := &palaverv1.ListSkillsResponse{}
	for _, s := range skills {
		response.Skills = append(response.Skills, &palaverv1.Skill{
			Name: h.prefix + s.name, Description: s.description, ParametersJsonSchema: s.schema,
		})
	}
	return response, nil
}

// InvokeSkill runs a skill. Errors that the model can correct are in the response, others in the status.
func (h *host) InvokeSkill(
	_ context.Context, request *palaverv1.InvokeSkillRequest,
) (*palaverv1.InvokeSkillResponse, error) {
	if request.GetAssistantId() == "" || request.GetCallId() == "" {
		return nil, status.Error(codes.InvalidArgument, "assistant_id and call_id must not be empty")
	}
	for _, s := range skills {
		if h.prefix+s.name != request.GetName() {
			continue
		}
		content, err := s.run(h, request)
		if wrong, ok := errors.AsType[mistake](err); ok {
			outcome := &palaverv1.InvokeSkillResponse_Error{Error: wrong.Error()}
			return &palaverv1.InvokeSkillResponse{Outcome: outcome}, nil
		}
		if unstored, ok := errors.AsType[*storageError](err); ok {
			log.Printf("%s: %v", request.GetName(), unstored)
			return nil, status.Error(codes.Internal, "the to-dos can't be stored")
		}
		if err != nil {
			return nil, err
		}
		return &palaverv1.InvokeSkillResponse{Outcome: &palaverv1.InvokeSkillResponse_Content{Content: content}}, nil
	}
	return nil, status.Errorf(codes.NotFound, "there is no skill %q", request.GetName())
}

func (h *host) addTodo(request *palaverv1.InvokeSkillRequest) (string, error) {
	var arguments struct {
		Task string `json:"task"`
	}
	if err := parse(request.GetArgumentsJson(), &arguments, "task"); err != nil {
		return "", err
	}
	if strings.TrimSpace(arguments.Task) == "" {
		return "", mistake(`"task" must say what is to be done`)
	}
	if utf8.RuneCountInString(arguments.Task) > maxTask {
		return "", mistake(fmt.Sprintf(`"task" must not have more than %d characters`, maxTask))
	}
	return h.once(request, "add_todo", func(todos []todo) ([]todo, string, error) {
		added := todo{ID: len(todos) + 1, Task: arguments.Task}
		return append(todos, added), text(added), nil
	})
}

func (h *host) listTodos(request *palaverv1.InvokeSkillRequest) (string, error) {
	if err := parse(request.GetArgumentsJson(), &struct{}{}); err != nil {
		return "", err
	}
	todos := h.store.todos(request.GetAssistantId())
	// An empty list is [] and not null.
	return text(map[string][]todo{"todos": append([]todo{}, todos...)}), nil
}

func (h *host) completeTodo(request *palaverv1.InvokeSkillRequest) (string, error) {
	var arguments struct {
		ID int `json:"id"`
	}
	if err := parse(request.GetArgumentsJson(), &arguments, "id"); err != nil {
		return "", err
	}
	return h.once(request, "complete_todo", func(todos []todo) ([]todo, string, error) {
		i := arguments.ID - 1
		if i < 0 || i >= len(todos) {
			return nil, "", mistake(fmt.Sprintf("there is no to-do %d; %slist_todos lists all", arguments.ID, h.prefix))
		}
		todos[i].Done = true
		return todos, text(todos[i]), nil
	})
}

// once changes the to-dos of the calling assistant. A repeated call gets the same result as before. Its arguments
// are not compared, because a model may phrase them differently when it runs again. The result of another skill, however,
// would mislead the model.
func (h *host) once(
	request *palaverv1.InvokeSkillRequest, skill string, change func([]todo) ([]todo, string, error),
) (string, error) {
	made, err := h.store.once(request.GetAssistantId(), request.GetCallId(), skill, change)
	if err != nil {
		return "", err
	}
	if made.Skill != skill {
		return "", status.Errorf(codes.FailedPrecondition, "the call %q was a call of %s", made.ID, made.Skill)
	}
	return made.Content, nil
}

// parse decodes the arguments, which must be an object with exactly these names.
func parse(arguments string, into any, names ...string) error {
	decoder := json.NewDecoder(strings.NewReader(arguments))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return mistake(explain(err))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return mistake("the arguments must be one JSON object, with nothing after it")
	}
	// The decoder accepts null, missing names, and names in another case.
	var given map[string]any
	if err := json.Unmarshal([]byte(arguments), &given); err != nil || given == nil {
		return mistake("the arguments must be a JSON object")
	}
	for _, name := range names {
		if given[name] == nil {
			return mistake(fmt.Sprintf("%q is missing", name))
		}
		delete(given, name)
	}
	for name := range given {
		return mistake(fmt.Sprintf("there is no argument %q", name))
	}
	return nil
}

// explain describes a decoding error without Go's terms.
func explain(err error) string {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrong.Field == "" {
			return "the arguments must be a JSON object, not " + wrong.Value
		}
		return fmt.Sprintf("%q has the wrong type: %s", wrong.Field, wrong.Value)
	}
	return "the arguments are wrong: " + strings.TrimPrefix(err.Error(), "json: ")
}

// text returns JSON for the model, without HTML escapes.
func text(value any) string {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic(err) // the values are of the types above, which can all be encoded
	}
	return strings.TrimSuffix(buffer.String(), "\n")
}
