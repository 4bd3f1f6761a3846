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

// maxCalls is how many calls are remembered for each assistant. A call is repeated soon after it was made, and the file
// is written anew with each effect, so that the memory must not grow for ever.
const maxCalls = 1000

// A todo is one thing to do. The identifiers of an assistant's to-dos count from 1.
type todo struct {
	ID   int    `json:"id"`
	Task string `json:"task"`
	Done bool   `json:"done"`
}

// A call is a call that took effect, and what it was answered.
type call struct {
	ID      string `json:"id"`
	Skill   string `json:"skill"`
	Content string `json:"content"`
}

// A list is what is kept for one assistant: the to-dos and, from old to new, the calls that made them what they are.
type list struct {
	Todos []todo `json:"todos"`
	Calls []call `json:"calls"`
}

// A store keeps the lists of all assistants in one file, which no other process may write at the same time.
type store struct {
	path string

	mu    sync.Mutex
	lists map[string]list // by assistant; a list that stands here is never changed, only replaced
}

// openStore reads the file, or writes the first one, so that a place that can't be written to is found at the start.
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
	if s.lists == nil { // the file says null
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

// once runs a change of an assistant's to-dos, unless the call took effect before. It returns the call that counts,
// which is the earlier one if there is one. The change and the memory of its call reach the disk in one write, so that
// there is never one without the other; after an error, neither is there.
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

// A storageError says that an effect could not be stored.
type storageError struct{ err error }

func (e *storageError) Error() string { return e.err.Error() }
func (e *storageError) Unwrap() error { return e.err }

// save replaces the file at once: whoever reads it, even after a crash, finds all of the old lists or all of the new.
func save(path string, lists map[string]list) error {
	data, err := json.Marshal(lists)
	if err != nil {
		return err
	}
	draft := path + ".tmp" // one name, so that a crash leaves no more than one draft behind
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

// syncFolder makes the new name of a file outlast a loss of power.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
