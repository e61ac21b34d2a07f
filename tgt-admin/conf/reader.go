package conf

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// chunk is a line as the parser sees it: comments gone, continued lines joined, includes in place. A
// here document is one chunk, its text under the key that it was opened for.
type chunk struct {
	key  string // of a here document
	text string
	pos  Pos
}

// reader turns files into chunks.
type reader struct {
	files  Files
	warn   func(string)
	loaded map[string]bool // by absolute path
	bytes  int
	chunks []chunk
}

// The patterns of lines that are more than an entry.
var (
	heredocLine = regexp.MustCompile(`^\s*([^\s=]+)(?:\s*=\s*|\s+)<<\s*(\S.*?)\s*$`)
	includeLine = regexp.MustCompile(`^\s*(?i:include(optional)?)\s+(.+?)\s*$`)
	emptyBlock  = regexp.MustCompile(`^\s*<([^/].*)/>\s*$`)
)

// start reads the file that was asked for, or all files of the directory.
func (r *reader) start(path string) error {
	kind, err := r.files.Kind(path)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	if kind == Directory {
		return r.directory(path, Pos{})
	}
	return r.file(path, Pos{})
}

// file reads one file, which was included at from. A file is read once.
func (r *reader) file(path string, from Pos) error {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	if r.loaded[absolute] {
		r.warn(fmt.Sprintf("File %s already loaded.  Use -IncludeAgain to load it again.", path))
		return nil
	}
	if len(r.loaded) == maxFiles {
		return syntax(from, "More than %d files are included!", maxFiles)
	}
	r.loaded[absolute] = true
	text, err := r.files.Read(path, maxBytes-r.bytes)
	if err != nil {
		return syntax(from, "The file \"%s\" cannot be read: %v!", path, err)
	}
	r.bytes += len(text)
	f := &file{reader: r, pos: Pos{File: absolute}}
	for line := range strings.SplitSeq(strings.TrimPrefix(text, "\ufeff"), "\n") {
		f.pos.Line++
		if err := f.line(line); err != nil {
			return err
		}
	}
	return f.end()
}

// file is where reading one file has come to.
type file struct {
	*reader
	pos     Pos
	comment bool // within a C comment of several lines
	begun   Pos  // where that began

	heredoc      bool
	key, endWord string
	opened       Pos
	lines        []string

	joined   string // what lines ending with a backslash have gathered
	joinedAt Pos
}

// line takes the next line of the file, in the order of steps that Config::General has.
func (f *file) line(text string) error {
	if f.heredoc {
		f.heredocLine(text)
		return nil
	}
	text, ok := f.cutComments(text)
	if !ok {
		return nil
	}
	continued := strings.HasSuffix(text, `\`) && !strings.HasSuffix(text, `\\`)
	switch {
	case continued:
		if f.joined == "" {
			f.joinedAt = f.pos
		}
		f.joined += strings.TrimLeft(strings.TrimSuffix(text, `\`), blanks)
	case f.joined != "":
		// A joined line is an entry or a block, never an include or a here document.
		f.push(f.joined+strings.TrimLeft(text, blanks), f.joinedAt)
		f.joined = ""
	case strings.TrimSpace(text) == "":
	default:
		return f.whole(text)
	}
	return nil
}

// whole takes a line that is not continued.
func (f *file) whole(text string) error {
	if m := emptyBlock.FindStringSubmatch(text); m != nil {
		f.push("<"+m[1]+">", f.pos)
		f.push("</"+m[1]+">", f.pos)
		return nil
	}
	if m := heredocLine.FindStringSubmatch(text); m != nil {
		f.heredoc, f.key, f.endWord, f.opened, f.lines = true, m[1], m[2], f.pos, nil
		return nil
	}
	if m := includeLine.FindStringSubmatch(text); m != nil {
		return f.include(unquoteEnds(m[2]), m[1] != "", f.pos)
	}
	f.push(text, f.pos)
	return nil
}

func (f *file) push(text string, pos Pos) { f.chunks = append(f.chunks, chunk{text: text, pos: pos}) }

// heredocLine takes a line within a here document. Where the line that ends it is indented, so much
// indent goes from the lines before.
func (f *file) heredocLine(text string) {
	if strings.TrimSpace(text) != f.endWord {
		f.lines = append(f.lines, text)
		return
	}
	indent := text[:len(text)-len(strings.TrimLeft(text, blanks))]
	for i, l := range f.lines {
		f.lines[i] = strings.TrimPrefix(l, indent)
	}
	f.chunks = append(f.chunks, chunk{key: f.key, text: strings.Join(f.lines, "\n"), pos: f.opened})
	f.heredoc, f.lines = false, nil
}

// cutComments takes the comments of both kinds out of a line; it is false if nothing of the line is
// left to look at.
func (f *file) cutComments(text string) (string, bool) {
	first, last := strings.Index(text, "/*"), strings.LastIndex(text, "*/")
	switch {
	case f.comment && last < 0:
		return "", false
	case f.comment:
		f.comment, text = false, text[last+2:]
	case first >= 0 && last >= first+2:
		text = strings.TrimRight(text[:first], blanks) + strings.TrimLeft(text[last+2:], blanks)
	case first >= 0 && last < 0 && strings.TrimLeft(text[:first], blanks) == "":
		f.comment, f.begun = true, f.pos
		return "", false
	case last >= 0:
		f.warn("invalid syntax: found end of C-comment without previous start!")
		text = text[last+2:]
	}
	for i := 0; i < len(text); i++ {
		if text[i] == '#' && (i == 0 || text[i-1] != '\\') {
			return text[:i], true
		}
	}
	return text, true
}

// end finishes the file.
func (f *file) end() error {
	if f.heredoc {
		return syntax(f.opened, "The here document of '%s' has no end: there is no line '%s'!", f.key, f.endWord)
	}
	if f.joined != "" {
		f.push(f.joined, f.joinedAt)
	}
	if f.comment {
		f.warn("a C-comment has no end and hides the rest of the file " + f.begun.String())
	}
	return nil
}

// include reads what an include line at from names: a file, the files of a directory, or all that
// match a pattern, of which there may be none.
func (r *reader) include(path string, optional bool, from Pos) error {
	if len(path) > maxPath {
		return syntax(from, "The path \"%.40s…\" is too long!", path)
	}
	if strings.ContainsAny(path, `*?[{\`) {
		matches, err := glob(r.files, path)
		if err != nil {
			return syntax(from, "The pattern \"%s\" cannot be used: %v!", path, err)
		}
		for _, m := range matches {
			if err := r.file(m, from); err != nil {
				return err
			}
		}
		return nil
	}
	switch kind, err := r.files.Kind(path); {
	case err == nil && kind == Directory:
		return r.directory(path, from)
	case err == nil:
		return r.file(path, from)
	case optional:
		return nil
	}
	return &Error{Text: fmt.Sprintf("Config::General The file \"%s\" does not exist!", path),
		Pos: from, Status: StatusMissing, Inline: true}
}

// directory reads every plain file of a directory, in ASCII order and no deeper.
func (r *reader) directory(path string, from Pos) error {
	names, err := r.files.List(path)
	if err != nil {
		return syntax(from, "The directory \"%s\" cannot be read: %v!", path, err)
	}
	for _, name := range names {
		name = filepath.Join(path, name)
		if kind, err := r.files.Kind(name); err != nil || kind != Plain {
			continue
		}
		if err := r.file(name, from); err != nil {
			return err
		}
	}
	return nil
}
