package conf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Kind is what a path leads to.
type Kind int

// The kinds that includes tell apart.
const (
	Plain     Kind = iota + 1 // a regular file
	Directory                 // a directory
	Special                   // a device, a pipe: read if it is named, not if a pattern finds it
)

// Files is where configurations come from.
type Files interface {
	// Kind says what is at path, links followed.
	Kind(path string) (Kind, error)
	// Read returns the text of a file of at most limit bytes.
	Read(path string, limit int) (string, error)
	// List returns the names in a directory in ASCII order.
	List(path string) ([]string, error)
}

// System is the file system of this process. Relative paths start from its working directory.
type System struct{}

// Kind implements Files.
func (System) Kind(path string) (Kind, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return 0, fmt.Errorf("looking for a configuration file: %w", err)
	case info.IsDir():
		return Directory, nil
	case info.Mode().IsRegular():
		return Plain, nil
	}
	return Special, nil
}

// Read implements Files.
func (System) Read(path string, limit int) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("opening: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return "", fmt.Errorf("reading: %w", err)
	}
	if len(text) > limit {
		return "", fmt.Errorf("the configuration is larger than %d bytes", maxBytes)
	}
	return string(text), nil
}

// List implements Files.
func (System) List(path string) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("listing: %w", err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	slices.Sort(names)
	return names, nil
}

// maxAlternatives bounds what the braces of one pattern expand to.
const maxAlternatives = 1000

// glob returns the plain files that a shell pattern with *, ?, [] and {} matches, in ASCII order. As in
// a shell a dot at the start of a name is only matched by a dot.
func glob(files Files, pattern string) ([]string, error) {
	alternatives, err := braces(pattern)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, p := range alternatives {
		rest := strings.TrimLeft(p, "/")
		root := p[:len(p)-len(rest)]
		if root != "" {
			root = "/"
		}
		matches, err := expand(files, root, strings.Split(rest, "/"))
		if err != nil {
			return nil, err
		}
		found = append(found, matches...)
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// expand returns the plain files that the parts of a pattern match below dir.
func expand(files Files, dir string, parts []string) ([]string, error) {
	part := strings.ReplaceAll(parts[0], "[!", "[^")
	names := []string{part}
	if strings.ContainsAny(part, `*?[\`) {
		where := dir
		if where == "" {
			where = "."
		}
		listed, err := files.List(where)
		if err != nil {
			return nil, nil // nothing there, nothing found
		}
		names = names[:0]
		for _, n := range listed {
			ok, err := filepath.Match(part, n)
			if err != nil {
				return nil, fmt.Errorf("matching %q: %w", part, err)
			}
			if ok && (n[0] != '.' || part[0] == '.') {
				names = append(names, n)
			}
		}
	}
	var found []string
	for _, n := range names {
		path := dir + n
		kind, err := files.Kind(path)
		switch {
		case err != nil:
		case len(parts) > 1 && kind == Directory:
			below, err := expand(files, path+"/", parts[1:])
			if err != nil {
				return nil, err
			}
			found = append(found, below...)
		case len(parts) == 1 && kind == Plain:
			found = append(found, path)
		}
	}
	return found, nil
}

// braces expands {a,b} as a shell does, from the left.
func braces(pattern string) ([]string, error) {
	done, todo := []string{}, []string{pattern}
	for len(todo) > 0 {
		p := todo[0]
		todo = todo[1:]
		before, choices, after, ok := brace(p)
		if !ok {
			done = append(done, p)
		}
		for _, c := range choices {
			todo = append(todo, before+c+after)
		}
		if len(done)+len(todo) > maxAlternatives {
			return nil, errors.New("its braces have too many alternatives")
		}
	}
	return done, nil
}

// brace splits a pattern at its first pair of braces and the choices at the commas between them.
func brace(pattern string) (before string, choices []string, after string, ok bool) {
	open := strings.IndexByte(pattern, '{')
	if open < 0 {
		return "", nil, "", false
	}
	depth, start := 0, open+1
	for i := open; i < len(pattern); i++ {
		switch pattern[i] {
		case '{':
			depth++
		case ',':
			if depth == 1 {
				choices = append(choices, pattern[start:i])
				start = i + 1
			}
		case '}':
			if depth--; depth == 0 {
				return pattern[:open], append(choices, pattern[start:i]), pattern[i+1:], true
			}
		}
	}
	return "", nil, "", false
}
