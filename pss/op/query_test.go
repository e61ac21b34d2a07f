package op

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func drawName(max int) *rapid.Generator[string] {
	return rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, max), func(b []byte) string { return string(b) })
}

func TestQueryRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := Query{Code: QueryCode(rapid.IntRange(1, int(queries)-1).Draw(t, "code")), Path: drawName(300).Draw(t, "path"),
			Cursor: drawName(300).Draw(t, "cursor")}
		if q.Code.about() {
			q.Object = rapid.Uint64().Draw(t, "object")
		}
		if got, err := ParseQuery(AppendQuery(nil, q)); err != nil || got != q {
			t.Fatalf("%+v became %+v, %v", q, got, err)
		}
	})
}

func TestAnswerRoundTrip(t *testing.T) {
	node := rapid.Custom(func(t *rapid.T) Node {
		return Node{drawName(30).Draw(t, "name"), NodeKind(rapid.IntRange(1, int(kinds)-1).Draw(t, "kind")),
			rapid.Uint64().Draw(t, "object"), rapid.Uint64().Draw(t, "bytes"), rapid.Uint64().Draw(t, "modified")}
	})
	rapid.Check(t, func(t *rapid.T) {
		a := Answer{Errno: Errno(rapid.Uint16().Draw(t, "errno")), More: rapid.Bool().Draw(t, "more")}
		if n := rapid.SliceOfN(node, 0, 20).Draw(t, "nodes"); len(n) > 0 {
			a.Nodes = n
		}
		if a.Version = rapid.Uint64Range(0, 3).Draw(t, "version"); a.Version != 0 {
			if v := rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "value"); len(v) > 0 {
				a.Value = v
			}
		}
		if got, err := ParseAnswer(AppendAnswer(nil, a)); err != nil || !reflect.DeepEqual(got, a) {
			t.Fatalf("%+v became %+v, %v", a, got, err)
		}
	})
}

func TestResultRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Result{Errno(rapid.Uint16().Draw(t, "errno")), rapid.Uint64().Draw(t, "object"),
			rapid.Uint64().Draw(t, "token"), rapid.Uint64().Draw(t, "value")}
		if got, err := ParseResult(AppendResult(nil, r)); err != nil || got != r {
			t.Fatalf("%+v became %+v, %v", r, got, err)
		}
	})
}

func TestLargestAnswer(t *testing.T) {
	a := Answer{Nodes: make([]Node, MaxNodes)}
	for i := range a.Nodes {
		a.Nodes[i] = Node{Name: strings.Repeat("n", MaxName), Kind: KindFile}
	}
	if got, err := ParseAnswer(AppendAnswer(nil, a)); err != nil || len(got.Nodes) != MaxNodes {
		t.Errorf("%d nodes, %v", len(got.Nodes), err)
	}
	a.Nodes = append(a.Nodes, a.Nodes[0])
	if _, err := ParseAnswer(AppendAnswer(nil, a)); !errors.Is(err, ErrInvalid) {
		t.Errorf("one node too many: %v", err)
	}
}

func TestDecodersRefuse(t *testing.T) {
	query := AppendQuery(nil, Query{Code: Stat, Path: "/a"})
	about := AppendQuery(nil, Query{Code: AttrGet, Object: 1})
	valued := AppendAnswer(nil, Answer{Version: 1, Value: []byte("value")})
	answer := AppendAnswer(nil, Answer{Nodes: []Node{{Name: "a", Kind: KindDir}}})
	result := AppendResult(nil, Result{})
	patch := func(b []byte, at int, v byte) []byte { b = bytes.Clone(b); b[at] = v; return b }
	parseQuery := func(b []byte) error { _, err := ParseQuery(b); return err }
	parseAnswer := func(b []byte) error { _, err := ParseAnswer(b); return err }
	parseResult := func(b []byte) error { _, err := ParseResult(b); return err }
	for _, c := range []struct {
		name  string
		parse func([]byte) error
		bytes []byte
		want  string
	}{
		{"query: nothing", parseQuery, nil, "no such query"},
		{"query: code 0", parseQuery, patch(query, 0, 0), "no such query"},
		{"query: unknown code", parseQuery, patch(query, 0, byte(queries)), "no such query"},
		{"query: no path", parseQuery, query[:1], "a name is missing"},
		{"query: no cursor", parseQuery, query[:5], "a name is missing"},
		{"query: path cut short", parseQuery, query[:4], "a name of 2 bytes"},
		{"query: rest", parseQuery, append(bytes.Clone(query), 0), "1 bytes after a query"},
		{"query: path too long", parseQuery, AppendQuery(nil, Query{Code: Stat, Path: strings.Repeat("p", MaxPath+1)}), "a name of"},
		{"answer: short", parseAnswer, answer[:4], "an answer of 4 bytes"},
		{"answer: more is neither", parseAnswer, patch(answer, 2, 4), "bits 0x4"},
		{"answer: no value", parseAnswer, patch(answer, 2, 2), "an answer without its value"},
		{"answer: value cut short", parseAnswer, valued[:len(valued)-1], "a value of 5 bytes"},
		{"answer: version 0", parseAnswer, patch(valued, 5, 0), "version 0"},
		{"answer: value too long", parseAnswer, AppendAnswer(nil, Answer{Version: 1, Value: make([]byte, MaxAttr+1)}), "a value of 65537 bytes"},
		{"query: no object", parseQuery, about[:len(about)-1], "a query about no object"},
		{"query: rest after the object", parseQuery, append(bytes.Clone(about), 0), "1 bytes after a query"},
		{"answer: no node", parseAnswer, patch(answer, 3, 2), "a name is missing"},
		{"answer: node cut short", parseAnswer, answer[:len(answer)-1], "an answer cut short"},
		{"answer: kind 0", parseAnswer, patch(answer, 8, 0), "a node of kind 0"},
		{"answer: unknown kind", parseAnswer, patch(answer, 8, byte(kinds)), "a node of kind 4"},
		{"answer: rest", parseAnswer, append(bytes.Clone(answer), 0), "1 bytes after an answer"},
		{"result: short", parseResult, result[:27], "a result of 27 bytes"},
		{"result: long", parseResult, append(bytes.Clone(result), 0), "a result of 29 bytes"},
		{"result: not zero", parseResult, patch(result, 3, 1), "a result with 0x100 where zero belongs"},
	} {
		if err := c.parse(c.bytes); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func FuzzParseQuery(f *testing.F) {
	f.Add(AppendQuery(nil, Query{Code: AttrGet, Path: "name", Object: 1}))
	f.Add(AppendQuery(nil, Query{Code: ReadDir, Path: "/a", Cursor: "b"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := ParseQuery(b)
		if err == nil && !bytes.Equal(AppendQuery(nil, q), b) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatalf("%x: %+v, %v", b, q, err)
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(AppendAnswer(nil, Answer{Version: 7, Value: []byte("value")}))
	f.Add(AppendAnswer(nil, Answer{More: true, Nodes: []Node{{"a", KindDir, 1, 2, 3}, {"b", KindVolume, 4, 5, 6}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAnswer(b)
		if err == nil && !bytes.Equal(AppendAnswer(nil, a), b) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatalf("%x: %+v, %v", b, a, err)
		}
	})
}

func FuzzParseResult(f *testing.F) {
	f.Add(AppendResult(nil, Result{Miscompare, 1, 2, 3}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseResult(b)
		if err == nil && !bytes.Equal(AppendResult(nil, r), b) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatalf("%x: %+v, %v", b, r, err)
		}
	})
}
