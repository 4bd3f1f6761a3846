package main

import (
	"testing"

	"github.com/palaver-chat/palaver/client/go/internal/vectors"
)

func TestPrintable(t *testing.T) {
	t.Parallel()
	for _, vector := range vectors.Load[vectors.TerminalText](t, vectors.Terminal) {
		if printed := printable(vector.Text); printed != vector.Printed {
			t.Errorf("%s: printed was %q, not %q", vector.Name, printed, vector.Printed)
		}
	}
}
