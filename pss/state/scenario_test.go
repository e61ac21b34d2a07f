package state

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// TestScenarios runs the files of testdata/scenarios. Commands are
//
//	apply           one operation a line; see scenario.entry
//	query           a line each: stat PATH, or readdir PATH [CURSOR]
//	read            a line each: OBJECT OFFSET SIZE
//	object          a line each: OBJECT
//	volume          a line each: OBJECT [ATTRIBUTE], its token, or an attribute's version and value
//	sessions        what is known of them
//
// Every operation is applied to twins, one of which is restored from its snapshot before.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, file string) {
		s := scenario{twins: newTwins(), session: 1, clients: map[uint64]*client{}}
		datadriven.RunTest(t, file, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "sessions" {
				return s.sessions()
			}
			run := map[string]func(*testing.T, []string) string{"apply": s.line, "query": s.query, "read": s.read, "object": s.object, "volume": s.volume}[d.Cmd]
			if run == nil {
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			var out strings.Builder
			for _, line := range strings.Split(d.Input, "\n") {
				if fields := strings.Fields(line); len(fields) > 0 {
					fmt.Fprintf(&out, "%s: %s\n", line, run(t, fields))
				}
			}
			s.checkStores(t)
			return out.String()
		})
	})
}

type scenario struct {
	*twins
	session uint64 // of operations that don't say
	clients map[uint64]*client
	version uint64 // v= of the operation at hand
}

// client is what a session's client counts.
type client struct {
	epoch uint32
	seq   uint64
}

// entry makes an operation of: NAME [KEY=VALUE]... [PATH]... Paths stand for themselves, or in Go's
// syntax when they begin with a quote. Sessions, epochs and sequence numbers count up by themselves
// unless s=, e= or seq= are there. data= is the payload, old= stands before it.
func (s *scenario) entry(t *testing.T, fields []string) []byte {
	t.Helper()
	var h op.Header
	for c := op.Code(1); c.String() != "code-"+strconv.Itoa(int(c)); c++ {
		if c.String() == fields[0] {
			h.Code = c
		}
	}
	h.Session, s.version = s.session, 0
	var paths []string
	var data, old string
	given := map[string]bool{}
	for _, f := range fields[1:] {
		key, value, ok := strings.Cut(f, "=")
		if !ok {
			if strings.HasPrefix(f, `"`) {
				f = s.unquote(t, f)
			}
			paths = append(paths, f)
			continue
		}
		given[key] = true
		switch key {
		case "data":
			data = s.unquote(t, value)
		case "old":
			old = s.unquote(t, value)
		default:
			s.set(t, &h, key, value)
		}
	}
	c := s.clients[h.Session]
	if c == nil {
		c = &client{epoch: 1}
		s.clients[h.Session] = c
	}
	if given["e"] {
		c.epoch = h.Epoch
	}
	h.Epoch = c.epoch
	if !given["seq"] && h.Code != op.SessionOpen && h.Code != op.SessionClose {
		c.seq++
		h.Seq = c.seq
	}
	if h.Code == op.AttrSet {
		return encodeAttr(h, paths[0], s.version, []byte(data))
	}
	if h.Code == op.Write || h.Code == op.CompareAndWrite {
		return encodeData(h, []byte(old+data))
	}
	return encode(h, paths...)
}

func (s *scenario) set(t *testing.T, h *op.Header, key, value string) {
	t.Helper()
	unit := uint64(1)
	if u := strings.IndexByte("KMGT", value[len(value)-1]); u >= 0 {
		unit, value = 1<<(10*(u+1)), value[:len(value)-1]
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	n *= unit
	switch key {
	case "s":
		h.Session = n
	case "e":
		h.Epoch = uint32(n)
	case "seq":
		h.Seq = n
	case "acked":
		h.Acked = n
	case "obj":
		h.Object = n
	case "tok":
		h.Token = n
	case "off":
		h.Offset = n
	case "len":
		h.Length = n
	case "at":
		h.Stamp = n
	case "flags":
		h.Flags = uint16(n)
	case "v":
		s.version = n
	default:
		t.Fatalf("unknown key %s", key)
	}
}

// unquote reads one or more of "text" and "text"*N, joined by a plus sign.
func (s *scenario) unquote(t *testing.T, value string) (out string) {
	t.Helper()
	for part := range strings.SplitSeq(value, "+") {
		text, times, _ := strings.Cut(part, "*")
		text, err := strconv.Unquote(text)
		if err != nil {
			t.Fatalf("%s: %v", part, err)
		}
		n := 1
		if times != "" {
			if n, err = strconv.Atoi(times); err != nil {
				t.Fatalf("%s: %v", part, err)
			}
		}
		out += strings.Repeat(text, n)
	}
	return out
}

func (s *scenario) line(t *testing.T, fields []string) string {
	t.Helper()
	if fields[0] == "bytes" {
		return describe(s.apply(t, []byte(s.unquote(t, fields[1]))))
	}
	return describe(s.apply(t, s.entry(t, fields)))
}

func describe(r op.Result) string {
	out := r.Errno.Error()
	if r.Object != 0 {
		out += fmt.Sprintf(", object %d", r.Object)
	}
	if r.Token != 0 {
		out += fmt.Sprintf(", token %d", r.Token)
	}
	if r.Value != 0 {
		out += fmt.Sprintf(", value %d", r.Value)
	}
	return out
}

func (s *scenario) query(t *testing.T, fields []string) string {
	t.Helper()
	q := op.Query{Code: map[string]op.QueryCode{"stat": op.Stat, "readdir": op.ReadDir}[fields[0]]}
	if q.Path = fields[1]; strings.HasPrefix(q.Path, `"`) {
		q.Path = s.unquote(t, q.Path)
	}
	if len(fields) > 2 {
		q.Cursor = fields[2]
	}
	a, err := s.a.Query(q)
	if err != nil {
		t.Fatal(err)
	}
	if a.Errno != op.OK {
		return a.Errno.Error()
	}
	if q.Code == op.ReadDir {
		out := fmt.Sprintf("%d entries", len(a.Nodes))
		if a.More {
			out += ", and more"
		}
		for _, n := range a.Nodes {
			out += "\n  " + describeNode(n)
		}
		return out
	}
	return describeNode(a.Nodes[0])
}

func describeNode(n op.Node) string {
	out := n.Name + ", " + []string{"", "folder", "file", "volume"}[n.Kind]
	if n.Object != 0 {
		out += fmt.Sprintf(", object %d, %d bytes", n.Object, n.Bytes)
	}
	return out + fmt.Sprintf(", modified %d", n.Modified)
}

func numbers(t *testing.T, fields []string) (n []uint64) {
	t.Helper()
	for _, f := range fields {
		v, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		n = append(n, v)
	}
	return n
}

func (s *scenario) read(t *testing.T, fields []string) string {
	t.Helper()
	n := numbers(t, fields)
	p := make([]byte, n[2])
	if err := s.sa.ReadAt(n[0], int64(n[1]), p); err != nil {
		return err.Error()
	}
	return strconv.Quote(string(p))
}

func (s *scenario) object(t *testing.T, fields []string) string {
	t.Helper()
	size, kind, ok := s.a.Object(numbers(t, fields)[0])
	if !ok {
		return "none"
	}
	return fmt.Sprintf("%s, %d bytes", []string{"", "folder", "file", "volume"}[kind], size)
}

func (s *scenario) volume(t *testing.T, fields []string) string {
	t.Helper()
	q := op.Query{Code: op.TokenGet, Object: numbers(t, fields[:1])[0]}
	if len(fields) > 1 {
		q.Code, q.Path = op.AttrGet, fields[1]
	}
	a, err := s.a.Query(q)
	if err != nil {
		t.Fatal(err)
	}
	if a.Errno != op.OK {
		return a.Errno.Error()
	}
	if q.Code == op.TokenGet {
		return fmt.Sprintf("token %d", a.Version)
	}
	return fmt.Sprintf("version %d, %q", a.Version, a.Value)
}

func (s *scenario) sessions() string {
	var out strings.Builder
	for id := range uint64(10) {
		x := s.a.sessions.byID[id]
		if x == nil {
			continue
		}
		fmt.Fprintf(&out, "session %d: epoch %d, acked %d, executed", id, x.epoch, x.acked)
		for i := range uint64(op.Window) {
			if x.executed(x.acked + i) {
				fmt.Fprintf(&out, " %d", x.acked+i)
			}
		}
		for _, k := range x.kept {
			fmt.Fprintf(&out, "; %d: %s", k.seq, describe(k.result))
		}
		fmt.Fprintln(&out)
	}
	fmt.Fprintf(&out, "closed: %v\n", s.a.sessions.closed)
	return out.String()
}
