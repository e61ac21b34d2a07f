package disk

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The folders below pss that may talk to the operating system: this package; the settings, key and
// local addresses of a cell; writing to sockets without waiting; what the kernel tells of the machine; the mains, and how they go to the
// background.
var systemFolders = []string{"disk", "auth", "cell", "wire/socket", "server", "daemon", "machine"}

// What of package os the others may use, because it opens no file.
var harmlessOS = []string{
	"Args", "ErrClosed", "ErrDeadlineExceeded", "ErrExist", "ErrNotExist", "ErrPermission", "Exit", "Getenv", "Getpid",
	"Hostname", "Interrupt", "Signal", "Stderr", "Stdin", "Stdout",
}

var systemImports = []string{"io/ioutil", "syscall", "golang.org/x/sys/unix"}

// TestOnlyDiskOpensFiles keeps the storage service testable: whoever opened a file past this
// package would escape the simulator's crashes and faults.
func TestOnlyDiskOpensFiles(t *testing.T) {
	checked := 0
	err := filepath.WalkDir("..", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(filepath.ToSlash(name), "../")
		if d.IsDir() {
			if slices.Contains(systemFolders, rel) || d.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		checked++
		source, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for _, complaint := range systemUses(t, name, source) {
			t.Error(complaint)
		}
		return nil
	})
	ok(t, err)
	if checked == 0 {
		t.Error("no source was found")
	}
}

func TestSystemUsesAreFound(t *testing.T) {
	source := `package p
import ("os"; sys "golang.org/x/sys/unix"; "io")
var a, b, c = os.Args, io.EOF, sys.O_DIRECT
func f() { os.Remove("x"); os.Exit(1) }`
	got := systemUses(t, "p.go", []byte(source))
	want := []string{"p.go:2:15: imports golang.org/x/sys/unix", "p.go:4:12: uses os.Remove"}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
	if got := systemUses(t, "p.go", []byte("package p\nimport (\"os\"; \"testing\")\nvar f, _ = os.Open(\"x\")")); len(got) != 0 {
		t.Errorf("found %q in test code", got)
	}
	renamed := "package p\nimport file \"os\"\nvar f, _ = file.Open(\"x\")"
	if got := systemUses(t, "p.go", []byte(renamed)); len(got) != 1 {
		t.Errorf("found %q in a source that renames os", got)
	}
}

// systemUses lists where a source reaches past package disk. What imports testing is test code.
func systemUses(t *testing.T, name string, source []byte) (found []string) {
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, name, source, parser.SkipObjectResolution)
	ok(t, err)
	osName := ""
	for _, imp := range parsed.Imports {
		pkg := must(strconv.Unquote(imp.Path.Value))(t)
		if pkg == "testing" {
			return nil
		}
		if slices.Contains(systemImports, pkg) {
			found = append(found, fmt.Sprintf("%s: imports %s", files.Position(imp.Pos()), pkg))
		}
		if pkg == "os" {
			if osName = "os"; imp.Name != nil {
				osName = imp.Name.Name
			}
		}
	}
	ast.Inspect(parsed, func(n ast.Node) bool {
		sel, isSel := n.(*ast.SelectorExpr)
		if !isSel || osName == "" {
			return true
		}
		if x, isName := sel.X.(*ast.Ident); isName && x.Name == osName && !slices.Contains(harmlessOS, sel.Sel.Name) {
			found = append(found, fmt.Sprintf("%s: uses os.%s", files.Position(sel.Pos()), sel.Sel.Name))
		}
		return true
	})
	return found
}
