package cell

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/cockroachdb/datadriven"
)

// TestParse runs the files of testdata/parse through Parse: the answer is the list of servers, or the error.
func TestParse(t *testing.T) {
	datadriven.RunTest(t, "testdata/parse", func(t *testing.T, d *datadriven.TestData) string {
		if d.Cmd != "parse" {
			d.Fatalf(t, "unknown command %s", d.Cmd)
		}
		input := strings.NewReplacer(`\t`, "\t", `\r`, "\r", `\0`, "\x00", `\e`, "\x1b").Replace(d.Input)
		c, err := Parse("server.conf", strings.NewReader(input))
		if err != nil {
			return err.Error() + "\n"
		}
		var b strings.Builder
		for _, s := range c.Servers {
			role := "core"
			if !s.ID.Core() {
				role = "replica"
			}
			fmt.Fprintf(&b, "%d %s udp=%s tcp=%s root=%s\n", s.ID, role, s.UDPAddr(), s.TCPAddr(), s.Root())
		}
		return b.String()
	})
}

const threeServers = "0 a /p\n1 b /p\n2 c /p\n"

func TestParseLimits(t *testing.T) {
	cases := []struct {
		name, input, want string
	}{
		{"long line", threeServers + "#" + strings.Repeat("x", MaxLine) + "\n", "f:4: the line is longer than 4096 bytes"},
		{"long file", threeServers + strings.Repeat("#"+strings.Repeat("x", 1000)+"\n", 66), "f: longer than 65536 bytes"},
		{"long host", "0 " + strings.Repeat("a.", 127) + "b /p\n", "is neither a host name nor an address"},
		{"long label", "0 " + strings.Repeat("a", 64) + " /p\n", "is neither a host name nor an address"},
	}
	for _, c := range cases {
		if _, err := Parse("f", strings.NewReader(c.input)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := Parse("f", strings.NewReader(threeServers+"#"+strings.Repeat("x", MaxLine-2))); err != nil {
		t.Errorf("the longest line: %v", err)
	}
	_, err := Parse("f", strings.NewReader(strings.Repeat("x\n", 100)))
	if n := strings.Count(err.Error(), "\n") + 1; n != maxReported {
		t.Errorf("%d bad lines reported", n)
	}
}

func TestParseReadError(t *testing.T) {
	broken := errors.New("broken")
	if _, err := Parse("f", iotest.ErrReader(broken)); !errors.Is(err, broken) || !strings.Contains(err.Error(), "read f") {
		t.Errorf("error %v", err)
	}
}

func TestSyntaxErrorIsTyped(t *testing.T) {
	_, err := Parse("f", strings.NewReader("\n\n9 a /p\n"))
	var s *SyntaxError
	if !errors.As(err, &s) || s.File != "f" || s.Line != 3 {
		t.Errorf("error %#v", err)
	}
}

// Whatever Parse accepts is a cell that keeps the package's promises, and reads the same again when
// it is written down.
func FuzzParse(f *testing.F) {
	f.Add(threeServers)
	f.Add("# c\n0 192.0.2.1 /p # x\r\n1 [::1] 1 2 /q\n2 h_-x.example. /\n7 z /z\n")
	f.Add("0 a 4000 4010 /p\n1 a 4000 4011 /p\n")
	f.Add("8 a /p\n\x00")
	f.Add("0 fe80::1%eth0 /p\n1 ::ffff:1.2.3.4 /p\n2 1.2.3 /p\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("f", strings.NewReader(text))
		if err != nil {
			var s *SyntaxError
			if !errors.As(err, &s) || !strings.HasPrefix(err.Error(), "f:") {
				t.Fatalf("an error without a place: %v", err)
			}
			return
		}
		if n := len(c.Servers); n < 3 || n > MaxServers || len(c.Core()) < MinCore || len(c.Core())+len(c.Replicas()) != n {
			t.Fatalf("%d servers, %d core", n, len(c.Core()))
		}
		var b strings.Builder
		for i, s := range c.Servers {
			if i > 0 && c.Servers[i-1].ID >= s.ID {
				t.Fatalf("ids are not in order: %v", c.Servers)
			}
			fmt.Fprintf(&b, "%d %s %d %d %s\n", s.ID, s.Host, s.UDPPort, s.TCPPort, s.Path)
		}
		again, err := Parse("g", strings.NewReader(b.String()))
		if err != nil || fmt.Sprint(again.Servers) != fmt.Sprint(c.Servers) {
			t.Fatalf("written down and read again: %v, %v\n%s", again, err, b.String())
		}
	})
}
