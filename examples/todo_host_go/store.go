package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// maxCalls is how many calls are remembered for each assistant. Calls are repeated soon, if at all, and the whole file is
// rewritten with each change, so the number must be limited.
const maxCalls = 1000

// A todo is a task. The identifiers of an assistant's to-dos count from 1.
type todo struct {
	ID   int    `json:"id"`
	Task string `json:"task"`
	Done bool   `json:"done"`
}

// A call is a call that took effect, with its result.
type call struct {
	ID      string `json:"id"`
	Skill   string `json:"skill"`
	Content string `json:"content"`
}

// A list holds the to-dos of one assistant and the calls that changed them, oldest first.
type list struct {
	Todos []todo `json:"todos"`
	Calls []call `json:"calls"`
}

// A store keeps the lists of all assistants in one file, which no other process may write.
type store struct {
	path string

	mu    sync.Mutex
	lists map[string]list // by assistant; lists are replaced, never modified
}

// openStore reads the file or creates it. If the path is not writable, this fails at the start.
func openStore(path string) (*store, error) {
	s := &store{path: path, lists: map[string]list{}}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, save(path, s.lists)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &s.lists); err != nil {
		return nil, fmt.Errorf("%s is not a file of to-dos: %w", path, err)
	}
	if s.lists == nil { // the file contains null
		return nil, fmt.Errorf("%s is not a file of to-dos", path)
	}
	return s, nil
}

// todos returns the to-dos of an assistant, which must not be changed.
func (s *store) todos(assistant string) []todo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lists[assistant].Todos
}

// once changes an assistant's to-dos unless the call already took effect. It returns the call, or the earlier one. The
// change and the record of its call are written together, so that neither exists without the other. After an error,
// neither exists.
func (s *store) once(assistant, callID, skill string, change func([]todo) ([]todo, string, error)) (call, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.lists[assistant]
	if i := slices.IndexFunc(old.Calls, func(c call) bool { return c.ID == callID }); i >= 0 {
		return old.Calls[i], nil
	}
	todos, content, err := change(slices.Clone(old.Todos))
	if err != nil {
		return call{}, err
	}
	made := call{ID: callID, Skill: skill, Content: content}
	calls := append(slices.Clone(old.Calls), made)
	lists := maps.Clone(s.lists)
	lists[assistant] = list{Todos: todos, Calls: calls[max(0, len(calls)-maxCalls):]}
	if err := save(s.path, lists); err != nil {
		return call{}, &storageError{err}
	}
	s.lists = lists
	return made, nil
}

// A storageError is a failure to store a change.
type storageError struct{ err error }

func (e *storageError) Error() string { return e.err.Error() }
func (e *storageError) Unwrap() error { return e.err }

// save replaces the file atomically: even after a crash, it holds either all old or all new lists.
func save(path string, lists map[string]list) error {
	data, err := json.Marshal(lists)
	if err != nil {
		return err
	}
	draft := path + ".tmp" // a fixed name, so that crashes leave at most one draft behind
	file, err := os.OpenFile(draft, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(draft, path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// syncFolder makes a rename survive a loss of power.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
