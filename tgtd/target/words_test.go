package target

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"testing"
)

// TestRefusalsAreLoggedInTgtsWords: the words of an error come before those it was given later, each with its
// origin; an error without words is logged itself, and a silent one leaves nothing but a line for debugging.
func TestRefusalsAreLoggedInTgtsWords(t *testing.T) {
	plain := errors.New("no room")
	two := Worded(fmt.Errorf("opening: %w", Worded(plain, "inner", "first")), "outer", "second")
	for _, c := range []struct {
		err  error
		want string
	}{
		{plain, "level=WARN msg=\"new target refused: no room\"\n"},
		{two, "level=ERROR msg=first origin=inner\nlevel=ERROR msg=second origin=outer\n" +
			"level=DEBUG msg=\"new target refused: opening: no room\"\n"},
		{silent(plain), "level=DEBUG msg=\"new target refused: no room\"\n"},
	} {
		var out bytes.Buffer
		LogRefusal(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}})), "new target", c.err)
		if out.String() != c.want {
			t.Errorf("%v: logged\n%swant\n%s", c.err, out.String(), c.want)
		}
		if !errors.Is(c.err, plain) {
			t.Errorf("%v is no %v", c.err, plain)
		}
	}
}
