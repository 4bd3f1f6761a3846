package palaver

import (
	"slices"

	"google.golang.org/protobuf/proto"
)

// progress is what the caller has had of a reply, so that it gets each piece once however often the turn is posted.
type progress struct {
	begun  bool
	text   []byte
	skills []Event
	again  *replay // nil in the first post, and once the reply goes another way
}

// A replay is a stream that repeats what the caller has had, as long as it does.
type replay struct {
	events []Event // all of it so far: the caller gets them when the reply turns out to be another one
	text   []byte  // what was handed out and is still to come
	skills []Event // the same of skill events
}

// postAgain notes that the events begin again with the first one.
func (p *progress) postAgain() {
	if p.begun {
		p.again = &replay{text: p.text, skills: slices.Clone(p.skills)}
	}
}

// accept takes the next event of the stream and returns those that the caller gets.
func (p *progress) accept(event Event) []Event {
	if p.again == nil {
		return []Event{p.handOut(event)}
	}
	p.again.events = append(p.again.events, event)
	switch event := event.(type) {
	case *TurnStarted:
		return nil
	case *TextDelta:
		return p.repeatText(event)
	case *TurnCompleted:
		if len(p.again.text) > 0 || len(p.again.skills) > 0 {
			return p.beginAnew()
		}
	default:
		handedOut := func(other Event) bool { return proto.Equal(event, other) }
		if i := slices.IndexFunc(p.again.skills, handedOut); i >= 0 {
			p.again.skills = slices.Delete(p.again.skills, i, i+1)
			return nil
		}
	}
	return []Event{p.handOut(event)}
}

func (p *progress) repeatText(delta *TextDelta) []Event {
	length := min(len(delta.Text), len(p.again.text))
	if delta.Text[:length] != string(p.again.text[:length]) {
		return p.beginAnew()
	}
	p.again.text = p.again.text[length:]
	if length == len(delta.Text) {
		return nil
	}
	return []Event{p.handOut(&TextDelta{Text: delta.Text[length:]})}
}

// beginAnew hands out the whole stream from its TurnStarted: what came before it is void.
func (p *progress) beginAnew() []Event {
	events := p.again.events
	*p = progress{}
	for _, event := range events {
		p.handOut(event)
	}
	return events
}

func (p *progress) handOut(event Event) Event {
	switch event := event.(type) {
	case *TurnStarted:
		p.begun = true
	case *TextDelta:
		p.text = append(p.text, event.Text...)
	case *SkillCall, *SkillResult:
		p.skills = append(p.skills, proto.Clone(event)) // the caller may change its own
	}
	return event
}
