package palaver

import (
	"slices"

	"google.golang.org/protobuf/proto"
)

// maxFruitlessPosts is how many posts in a row may bring nothing new before the caller gets the error: each may be a paid
// model call.
const maxFruitlessPosts = 3

// replayFilter delivers each event of a reply once, even if the turn is posted several times.
type replayFilter struct {
	started bool
	text    []byte
	skills  []Event
	replay  *replay // nil during the first post and after a restart

	posts           int // how many there were, with the current one
	post            post
	fruitlessBefore int // how many posts in a row, up to the one before the current one, brought nothing new
}

// A post is what the current post of the turn has brought so far.
type post struct {
	answered  bool
	delivered bool // the caller got text or skill events from it
	restarted bool
}

// A replay is a stream that starts with events that were delivered before.
type replay struct {
	events []Event // everything received so far, to be delivered on a restart
	text   []byte  // delivered text that has not been repeated yet
	skills []Event // delivered skill events that have not been repeated yet
}

// beginPost expects the events of the turn from the first one, even if the turn was posted before.
func (f *replayFilter) beginPost() {
	f.fruitlessBefore = f.fruitlessPosts()
	f.posts++
	f.post = post{}
	if f.started {
		f.replay = &replay{text: f.text, skills: slices.Clone(f.skills)}
	}
}

// mayRepeat returns whether the turn may be posted again, now that the current post has broken off.
func (f *replayFilter) mayRepeat() bool {
	return f.fruitlessPosts() < maxFruitlessPosts
}

// fruitlessPosts returns how many posts in a row, up to the current one, brought nothing new.
func (f *replayFilter) fruitlessPosts() int {
	switch {
	case f.post.delivered && !f.post.restarted: // a reply that starts over replaces what was there before
		return 0
	case f.post.answered && f.posts > 1: // the server ran or joined the turn again
		return f.fruitlessBefore + 1
	default:
		return f.fruitlessBefore
	}
}

// accept takes the next event of the stream and returns the events to deliver.
func (f *replayFilter) accept(event Event) []Event {
	f.post.answered = true
	if _, isProgress := event.(*Progress); isProgress {
		return []Event{event}
	}
	if f.replay == nil {
		return []Event{f.deliver(event)}
	}
	f.replay.events = append(f.replay.events, event)
	switch event := event.(type) {
	case *TurnStarted:
		return nil
	case *TextDelta:
		return f.matchText(event)
	case *TurnCompleted:
		if len(f.replay.text) > 0 || len(f.replay.skills) > 0 {
			return f.restart()
		}
	default:
		delivered := func(other Event) bool { return proto.Equal(event, other) }
		if i := slices.IndexFunc(f.replay.skills, delivered); i >= 0 {
			f.replay.skills = slices.Delete(f.replay.skills, i, i+1)
			return nil
		}
	}
	return []Event{f.deliver(event)}
}

// matchText skips text that was delivered before and delivers the rest. It restarts the reply if the text differs.
func (f *replayFilter) matchText(delta *TextDelta) []Event {
	length := min(len(delta.Text), len(f.replay.text))
	if delta.Text[:length] != string(f.replay.text[:length]) {
		return f.restart()
	}
	f.replay.text = f.replay.text[length:]
	if length == len(delta.Text) {
		return nil
	}
	return []Event{f.deliver(&TextDelta{Text: delta.Text[length:]})}
}

// restart delivers the new stream from its TurnStarted, which voids all events before it.
func (f *replayFilter) restart() []Event {
	events := f.replay.events
	f.replay, f.text, f.skills = nil, nil, nil
	f.post.restarted = true
	for _, event := range events {
		f.deliver(event)
	}
	return events
}

// deliver records an event as delivered and returns it.
func (f *replayFilter) deliver(event Event) Event {
	switch event := event.(type) {
	case *TurnStarted:
		f.started = true
	case *TextDelta:
		f.post.delivered = true
		f.text = append(f.text, event.Text...)
	case *SkillCall, *SkillResult:
		f.post.delivered = true
		f.skills = append(f.skills, proto.Clone(event)) // the caller may change the event
	}
	return event
}
