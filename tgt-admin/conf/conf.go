// Package conf reads targets.conf. The language is that of Perl's Config::General as tgt-admin uses
// it: lines of key and value, named blocks that nest and merge, comments of two kinds, here documents,
// continued lines and includes. The package knows the grammar and no directive; whoever reads the tree
// decides which keys mean something. Nothing in a file is ever run or expanded.
package conf

import (
	"fmt"
	"slices"
	"strings"
)

// The limits of what is read; beyond them a file is refused.
const (
	maxBytes = 64 << 20 // of all files together
	maxFiles = 10000
	maxDepth = 64   // blocks within blocks
	maxPath  = 4096 // bytes of an included path or pattern
)

// The exit statuses tgt-admin gives to files it cannot use.
const (
	StatusMissing = 2   // an included file is not there
	StatusSyntax  = 255 // the text does not parse
)

// Pos is a place in a file.
type Pos struct {
	File string // as an absolute path
	Line int    // from 1
}

// String is the place as error messages end with it.
func (p Pos) String() string { return fmt.Sprintf("at %s line %d.", p.File, p.Line) }

// Value is one value of a key.
type Value struct {
	Text string
	Pos  Pos
}

// Section is what stands in a block, or in all files outside of any.
type Section struct {
	Pos Pos
	// Values are the values of each key in the order they were read.
	Values map[string][]Value
	// Blocks are the blocks by their word and their name. Blocks of one word and name, wherever they
	// stand, are one section. A block without a name has the empty one.
	Blocks map[string]map[string]*Section
}

func newSection(pos Pos) *Section {
	return &Section{Pos: pos, Values: map[string][]Value{}, Blocks: map[string]map[string]*Section{}}
}

// Keys returns the keys and the words of the blocks, each once, in ASCII order.
func (s *Section) Keys() []string {
	var keys []string
	for k := range s.Values {
		keys = append(keys, k)
	}
	for k := range s.Blocks {
		if _, both := s.Values[k]; !both {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// Names returns the names of the blocks of that word, in ASCII order.
func (s *Section) Names(word string) []string {
	var names []string
	for n := range s.Blocks[word] {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Error is a file that cannot be used.
type Error struct {
	Text   string
	Pos    Pos
	Status int  // the exit status it leads to
	Inline bool // the place stands on the line of the text, not on one of its own
}

// Error is the text and the place.
func (e *Error) Error() string {
	if e.Inline {
		return e.Text + " " + e.Pos.String()
	}
	return e.Text + "\n " + e.Pos.String()
}

// Parse reads the file at path and all it includes from files. What is odd but no error goes to warn,
// a line at a time. The error is an *Error, or says why path could not be read.
func Parse(path string, files Files, warn func(string)) (*Section, error) {
	r := &reader{files: files, warn: warn, loaded: map[string]bool{}}
	if err := r.start(path); err != nil {
		return nil, err
	}
	return build(r.chunks)
}

// build makes the tree of the chunks of text.
func build(chunks []chunk) (*Section, error) {
	root := newSection(Pos{})
	type level struct {
		section *Section
		word    string
		pos     Pos
	}
	stack := []level{{section: root}}
	for i, c := range chunks {
		top := stack[len(stack)-1].section
		text := strings.TrimSpace(c.text)
		switch {
		case c.key != "":
			top.add(c.key, c.text, c.pos)
		case strings.HasPrefix(text, "</") && strings.HasSuffix(text, ">"):
			if len(stack) == 1 {
				return nil, syntax(c.pos, "Config::General: EndBlock \"%s\" has no StartBlock statement (level: 1, chunk %d)!",
					text, i+1)
			}
			stack = stack[:len(stack)-1]
		case len(text) > 2 && text[0] == '<' && text[len(text)-1] == '>':
			word, name := blockName(text[1 : len(text)-1])
			s, err := top.open(word, name, c.pos)
			if err != nil {
				return nil, err
			}
			if len(stack) == maxDepth {
				return nil, syntax(c.pos, "More than %d blocks stand within each other!", maxDepth)
			}
			stack = append(stack, level{s, word, c.pos})
		default:
			key, value := split(text)
			top.add(key, value, c.pos)
		}
	}
	if len(stack) > 1 {
		open := stack[1] // the outermost of those that are open, in the words known for it
		return nil, syntax(open.pos, "Config::General: Block \"<%s>\" has no EndBlock statement (level: 2, chunk %d)!",
			open.word, len(chunks))
	}
	return root, nil
}

func syntax(pos Pos, format string, values ...any) error {
	return &Error{Text: fmt.Sprintf(format, values...), Pos: pos, Status: StatusSyntax}
}

func (s *Section) add(key, text string, pos Pos) {
	s.Values[key] = append(s.Values[key], Value{unquote(strings.TrimSpace(text)), pos})
}

// open returns the section of a block of that word and name, a new one unless there was one.
func (s *Section) open(word, name string, pos Pos) (*Section, error) {
	if len(s.Values[word]) > 0 {
		return nil, syntax(pos, "Config::General: Block <%s> already exists as scalar entry!", word)
	}
	if s.Blocks[word] == nil {
		s.Blocks[word] = map[string]*Section{}
	}
	if s.Blocks[word][name] == nil {
		s.Blocks[word][name] = newSection(pos)
	}
	return s.Blocks[word][name], nil
}

// blockName splits what stands between the angle brackets of a block. Either part may be quoted.
func blockName(text string) (word, name string) {
	if rest, ok := strings.CutPrefix(text, `"`); ok {
		if quoted, after, ok := strings.Cut(rest, `"`); ok {
			return quoted, unquoteEnds(strings.TrimSpace(after))
		}
	}
	i := strings.IndexAny(text, blanks)
	if i < 0 {
		return text, ""
	}
	return text[:i], unquoteEnds(strings.TrimSpace(text[i:]))
}

// split divides an entry at its first equals sign or run of blanks, whichever comes first.
func split(text string) (key, value string) {
	i := strings.IndexAny(text, "="+blanks)
	if i < 0 {
		return text, ""
	}
	key, value = text[:i], strings.TrimLeft(text[i:], blanks)
	return key, strings.TrimPrefix(value, "=")
}

const blanks = " \t\r\n\v\f"

// unquote takes the quotes off a value that begins and ends with one, and then the backslash off
// each escaped character.
func unquote(text string) string {
	text = unquoteEnds(text)
	if !strings.Contains(text, `\`) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) && strings.IndexByte(`$\"#`, text[i+1]) >= 0 {
			i++
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

func unquoteEnds(text string) string {
	if strings.HasPrefix(text, `"`) && strings.HasSuffix(text, `"`) {
		return strings.TrimSuffix(text[1:], `"`)
	}
	return text
}
