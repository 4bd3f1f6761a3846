package palaver

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

func accepted(p *progress, events ...Event) []string {
	var result []string
	for _, event := range events {
		for _, event := range p.accept(event) {
			result = append(result, describe(event))
		}
	}
	return result
}

func describe(event Event) string {
	switch event := event.(type) {
	case *TextDelta:
		return event.Text
	case *SkillCall:
		return "call " + event.Id
	default:
		return string(event.ProtoReflect().Descriptor().Name())
	}
}

func TestTextIsHandedOutOnceHoweverItIsCut(t *testing.T) {
	const text = "Größe: 36 ㎡ — 👩‍👩‍👧 und 🇩🇪, fertig."
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var p progress
		var got strings.Builder
		for post := range 5 {
			p.postAgain()
			pieces := cut(random, text)
			if post < 4 {
				pieces = pieces[:random.IntN(len(pieces)+1)]
			}
			for _, event := range append([]Event{&TurnStarted{}}, pieces...) {
				for _, event := range p.accept(event) {
					if delta, ok := event.(*TextDelta); ok {
						got.WriteString(delta.Text)
					}
				}
			}
		}
		if got.String() != text {
			t.Fatalf("the text became %q", got.String())
		}
	}
}

// cut cuts a text into pieces of whole characters.
func cut(random *rand.Rand, text string) []Event {
	var result []Event
	var piece strings.Builder
	for _, character := range text {
		piece.WriteRune(character)
		if random.IntN(3) == 0 {
			result = append(result, &TextDelta{Text: piece.String()})
			piece.Reset()
		}
	}
	if piece.Len() > 0 {
		result = append(result, &TextDelta{Text: piece.String()})
	}
	return result
}

func TestSkillEventsThatAreEqualAreSkippedOnceEach(t *testing.T) {
	var p progress
	call := &SkillCall{Id: "1", Name: "clock"}
	accepted(&p, &TurnStarted{}, call, proto.CloneOf(call))
	call.Name = "changed by the caller"
	p.postAgain()
	original := &SkillCall{Id: "1", Name: "clock"}
	got := accepted(&p, &TurnStarted{}, original, original, original, &SkillCall{Id: "1", Name: "other"})
	if fmt.Sprint(got) != "[call 1 call 1]" {
		t.Errorf("handed out was %q", got)
	}
}

func TestSkillEventsAreSkippedAfterEveryBreak(t *testing.T) {
	var p progress
	calls := []Event{&SkillCall{Id: "1"}, &SkillCall{Id: "2"}, &SkillCall{Id: "3"}}
	accepted(&p, append([]Event{&TurnStarted{}}, calls...)...)
	for range 3 {
		p.postAgain()
		if got := accepted(&p, &TurnStarted{}, calls[0]); got != nil {
			t.Errorf("handed out was %q", got)
		}
	}
	p.postAgain()
	if got := accepted(&p, append([]Event{&TurnStarted{}}, calls...)...); got != nil {
		t.Errorf("handed out was %q", got)
	}
}

func TestAnotherReplyIsHandedOutFromItsBeginning(t *testing.T) {
	var p progress
	accepted(&p, &TurnStarted{}, &TextDelta{Text: "One"}, &SkillCall{Id: "1"})
	p.postAgain()
	got := accepted(&p, &TurnStarted{}, &SkillCall{Id: "1"}, &TextDelta{Text: "On"}, &TextDelta{Text: "ce"})
	if expected := []string{"TurnStarted", "call 1", "On", "ce"}; !slices.Equal(got, expected) {
		t.Errorf("handed out was %q", got)
	}
	p.postAgain() // and that is what counts then
	got = accepted(&p, &TurnStarted{}, &TextDelta{Text: "Once"}, &SkillCall{Id: "1"}, &TextDelta{Text: "!"}, &TurnCompleted{})
	if expected := []string{"!", "TurnCompleted"}; !slices.Equal(got, expected) {
		t.Errorf("handed out was %q", got)
	}
}
