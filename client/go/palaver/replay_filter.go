package palaver

import (
	"slices"

	"google.golang.org/protobuf/proto"
)

// replayFilter delivers each event of a reply once, even if the turn is posted several times.
type replayFilter struct {
	started bool
	text    []byte
	skills  []Event
	replay  *replay // nil during the first post and after a restart
}

// A replay is a stream that starts with events that were delivered before.
type replay struct {
	events []Event // everything received so far, to be delivered on a restart
	text   []byte  // delivered text that has not been repeated yet
	skills []Event // delivered skill events that have not been repeated yet
}

// beginReplay expects the events of the turn from the first one again, because the turn is posted again.
func (f *replayFilter) beginReplay() {
	if f.started {
		f.replay = &replay{text: f.text, skills: slices.Clone(f.skills)}
	}
}

// accept takes the next event of the stream and returns the events to deliver.
func (f *replayFilter) accept(event Event) []Event {
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
	*f = replayFilter{}
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
		f.text = append(f.text, event.Text...)
	case *SkillCall, *SkillResult:
		f.skills = append(f.skills, proto.Clone(event)) // the caller may change the event
	}
	return event
}
