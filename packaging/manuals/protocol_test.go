package manuals

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// protocolRow is a row of docs/protocol.md that begins with a number and a name.
var protocolRow = regexp.MustCompile(`(?m)^\| (\d+) \| ([a-z-]+) \|`)

// TestProtocolNumbers: the tables of frames and of operations have the numbers and the names of the code, all of them.
func TestProtocolNumbers(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(root, "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	frames, operations, found := strings.Cut(string(b), "\n## Operations\n")
	if !found {
		t.Fatal("there is no section Operations")
	}
	check := func(what, text string, name func(int) string, last int) {
		t.Helper()
		next := map[int]bool{}
		for _, m := range protocolRow.FindAllStringSubmatch(text, -1) {
			n, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			next[n] = true
			if got := name(n); got != m[2] {
				t.Errorf("%s %d is %s in the code, and %s in the text", what, n, got, m[2])
			}
		}
		if !next[1] || !next[last] {
			t.Errorf("the table of %ss lacks number 1 or %d", what, last)
		}
	}
	operations, errors, found := strings.Cut(operations, "\n| error | text |\n")
	if !found {
		t.Fatal("there is no table of errors")
	}
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \| (.*) \|$`).FindAllStringSubmatch(errors, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		if got := op.Errno(n).Error(); got != m[2] {
			t.Errorf("error %d is %q in the code, and %q in the text", n, got, m[2])
		}
	}
	check("frame", frames, func(n int) string { return wire.Kind(n).String() }, int(wire.KindMember))
	check("operation", operations, func(n int) string { return op.Code(n).String() }, int(op.EventAck))
}
