package palaver

import (
	"slices"

	"google.golang.org/protobuf/proto"
)

// progress records the events of a reply that were delivered to the caller, so that each is delivered once however often
// the turn is posted.
type progress struct {
	started bool
	text    []byte
	skills  []Event
	replay  *replay // nil during the first post and after a restart
}

// A replay is a stream that begins with events that were already delivered.
type replay struct {
	events []Event // everything received so far, to be delivered on a restart
	text   []byte  // delivered text that has not been repeated yet
	skills []Event // delivered skill events that have not been repeated yet
}

// beginReplay expects the events to begin again with the first one.
func (p *progress) beginReplay() {
	if p.started {
		p.replay = &replay{text: p.text, skills: slices.Clone(p.skills)}
	}
}

// accept takes the next event of the stream and returns the events to deliver.
func (p *progress) accept(event Event) []Event {
	if p.replay == nil {
		return []Event{p.deliver(event)}
	}
	p.replay.events = append(p.replay.events, event)
	switch event := event.(type) {
	case *TurnStarted:
		return nil
	case *TextDelta:
		return p.skipText(event)
	case *TurnCompleted:
		if len(p.replay.text) > 0 || len(p.replay.skills) > 0 {
			return p.restart()
		}
	default:
		delivered := func(other Event) bool { return proto.Equal(event, other) }
		if i := slices.IndexFunc(p.replay.skills, delivered); i >= 0 {
			p.replay.skills = slices.Delete(p.replay.skills, i, i+1)
			return nil
		}
	}
	return []Event{p.deliver(event)}
}

// skipText delivers the part of a piece that goes beyond the delivered text.
func (p *progress) skipText(delta *TextDelta) []Event {
	length := min(len(delta.Text), len(p.replay.text))
	if delta.Text[:length] != string(p.replay.text[:length]) {
		return p.restart()
	}
	p.replay.text = p.replay.text[length:]
	if length == len(delta.Text) {
		return nil
	}
	return []Event{p.deliver(&TextDelta{Text: delta.Text[length:]})}
}

// restart delivers the whole stream from its TurnStarted, which voids the earlier events.
func (p *progress) restart() []Event {
	events := p.replay.events
	*p = progress{}
	for _, event := range events {
		p.deliver(event)
	}
	return events
}

// deliver records an event and returns it.
func (p *progress) deliver(event Event) Event {
	switch event := event.(type) {
	case *TurnStarted:
		p.started = true
	case *TextDelta:
		p.text = append(p.text, event.Text...)
	case *SkillCall, *SkillResult:
		p.skills = append(p.skills, proto.Clone(event)) // the caller may change its own
	}
	return event
}
