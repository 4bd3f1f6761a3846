package palaver

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestTextIsDeliveredOnceRegardlessOfItsPieces(t *testing.T) {
	const text = "Größe: 36 ㎡ — 👩‍👩‍👧 und 🇩🇪, fertig."
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var filter replayFilter
		var got strings.Builder
		for post := range 5 {
			filter.beginPost()
			pieces := cut(random, text)
			if post < 4 {
				pieces = pieces[:random.IntN(len(pieces)+1)]
			}
			for _, event := range append([]Event{&TurnStarted{}}, pieces...) {
				for _, event := range filter.accept(event) {
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

func TestSkillEventsModifiedByTheCallerAreStillSkipped(t *testing.T) {
	var filter replayFilter
	call := &SkillCall{Id: "1", Name: "clock"}
	filter.beginPost()
	filter.accept(&TurnStarted{})
	filter.accept(call)
	call.Name = "changed by the caller"
	filter.beginPost()
	filter.accept(&TurnStarted{})
	if got := filter.accept(&SkillCall{Id: "1", Name: "clock"}); got != nil {
		t.Errorf("delivered was %v", got)
	}
}
