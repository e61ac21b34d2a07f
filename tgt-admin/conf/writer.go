package conf

import "strings"

// Writer writes a configuration that Parse reads.
type Writer struct {
	b      strings.Builder
	indent string
}

// String is what was written so far.
func (w *Writer) String() string { return w.b.String() }

// Blank writes an empty line.
func (w *Writer) Blank() { w.b.WriteByte('\n') }

// Comment writes a comment, a line for each of the text's.
func (w *Writer) Comment(text string) {
	for line := range strings.SplitSeq(text, "\n") {
		// of a C comment within, the reader would see the end
		line = strings.NewReplacer("/*", "/ *", "*/", "* /").Replace(line)
		w.b.WriteString(strings.TrimRight(w.indent+"# "+strings.TrimSuffix(line, `\`), blanks) + "\n")
	}
}

// Entry writes a key and its value, quoted where it must be. Some values cannot be written at all, such
// as one that holds a comment of C: who needs to be sure parses the text again.
func (w *Writer) Entry(key, value string) {
	w.b.WriteString(w.indent + key + " " + quote(value) + "\n")
}

// IsName says that a text can be the name of a block: there is no way to escape anything in one.
func IsName(name string) bool {
	return name != "" && strings.Trim(name, blanks) == name && !strings.ContainsAny(name, "#\n\\\"") &&
		!strings.Contains(name, "/*") && !strings.Contains(name, "*/") && !strings.HasSuffix(name, "/")
}

// Open begins a block, whose name must be one (see IsName).
func (w *Writer) Open(word, name string) {
	if strings.ContainsAny(name, blanks) {
		name = `"` + name + `"`
	}
	w.b.WriteString(w.indent + "<" + word + " " + name + ">\n")
	w.indent += "    "
}

// Close ends the innermost block, which is one of that word.
func (w *Writer) Close(word string) {
	w.indent = w.indent[:len(w.indent)-4]
	w.b.WriteString(w.indent + "</" + word + ">\n")
}

// quote writes a value so that unquote gives it back.
func quote(value string) string {
	escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `#`, `\#`, `$`, `\$`).Replace(value)
	if value == "" || strings.Trim(value, blanks) != value || strings.HasPrefix(value, `"`) ||
		strings.HasPrefix(value, "=") || strings.HasPrefix(value, "<<") || strings.HasSuffix(value, `\`) ||
		strings.HasSuffix(value, ">") {
		return `"` + escaped + `"`
	}
	return escaped
}
