package manuals

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// programs are the programs with their packages and their pages.
var programs = map[string]struct{ pkg, page string }{
	"PFSserver":      {"./pss/server", "PFSserver.8"},
	"pssctl":         {"./pssctl", "pssctl.1"},
	"PFSClient":      {"./pssctl/PFSClient", "PFSClient.1"},
	"PFSProbe":       {"./pssctl/PFSProbe", "PFSProbe.1"},
	"PSSAdmin":       {"./pssctl/PSSAdmin", "PSSAdmin.1"},
	"PSSShutdown":    {"./pssctl/PSSShutdown", "PSSShutdown.1"},
	"createISCSIVol": {"./pssctl/createISCSIVol", "createISCSIVol.8"},
	"extendISCSIVol": {"./pssctl/extendISCSIVol", "extendISCSIVol.8"},
	"deleteISCSIVol": {"./pssctl/deleteISCSIVol", "deleteISCSIVol.8"},
	"tgtd":           {"./tgtd", "tgtd.8"},
	"tgtadm":         {"./tgtadm", "tgtadm.8"},
	"tgtimg":         {"./tgtadm/tgtimg", "tgtimg.8"},
	"tgt-admin":      {"./tgt-admin", "tgt-admin.8"},
	"tgt-setup-lun":  {"./tgt-admin/tgt-setup-lun", "tgt-setup-lun.8"},
}

// pages that belong to no program: formats, scripts and services.
var otherPages = []string{
	"server.conf.5", "cell.key.5", "targets.conf.5", "pssd.8", "pss_delper.sh.8", "pss_lookup-server.sh.1",
	"pss_lookup_port.sh.1", "pss_set_ssh.sh.1",
}

// bin is the folder with all programs: what E2E_BIN says, or they are built once for the package.
var bin string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	flag.Parse()
	if bin = os.Getenv("E2E_BIN"); bin != "" || flag.Lookup("test.fuzz").Value.String() != "" {
		return m.Run() // fuzzing, whose workers come here each, runs no program
	}
	dir, err := os.MkdirTemp("", "manuals")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	args := []string{"build", "-o", dir + "/"}
	for _, p := range programs {
		args = append(args, p.pkg)
	}
	build := exec.Command("go", args...)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the programs: %v\n%s", err, out)
		return 1
	}
	for name, p := range programs {
		if base := filepath.Base(p.pkg); base != name {
			if err := os.Rename(filepath.Join(dir, base), filepath.Join(dir, name)); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
	}
	bin = dir
	return m.Run()
}

// TestEveryProgramHasAPage: the table, the Makefile and the folder of the pages name the same.
func TestEveryProgramHasAPage(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\$\(BIN\)/(\S+):\s+PKG := (\S+)$`).FindAllStringSubmatch(string(makefile), -1) {
		seen[m[1]] = true
		if programs[m[1]].pkg != m[2] {
			t.Errorf("the Makefile makes %s of %s, which the table of the pages has not", m[1], m[2])
		}
	}
	want := slices.Clone(otherPages)
	for name, p := range programs {
		if !seen[name] {
			t.Errorf("the Makefile does not make %s", name)
		}
		want = append(want, p.page)
	}
	scripts, err := filepath.Glob(filepath.Join(root, "pssctl", "*.sh"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scripts {
		if !slices.ContainsFunc(otherPages, func(p string) bool { return strings.HasPrefix(p, filepath.Base(s)+".") }) {
			t.Errorf("%s has no page", filepath.Base(s))
		}
	}
	entries, err := os.ReadDir(filepath.Join(root, "docs", "man"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("pages: %v, want %v", got, want)
	}
}

// TestOptions compares the options and commands of each page with those of --help, both ways.
func TestOptions(t *testing.T) {
	for name, p := range programs {
		t.Run(name, func(t *testing.T) {
			text := readPage(t, p.page)
			help := helpOf(t, name)
			same(t, "option", optionsOfPage(text), optionsOfHelp(help))
			for _, c := range commandsOfHelp(help) {
				if !regexp.MustCompile(`(?m)(^|[ ,|])` + regexp.QuoteMeta(c) + `\b`).MatchString(text) {
					t.Errorf("the page does not have the command %s", c)
				}
			}
		})
	}
}

// TestScriptOptions does the same for the scripts.
func TestScriptOptions(t *testing.T) {
	scripts, err := filepath.Glob(filepath.Join(root, "pssctl", "*.sh"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scripts {
		t.Run(filepath.Base(s), func(t *testing.T) {
			i := slices.IndexFunc(otherPages, func(p string) bool { return strings.HasPrefix(p, filepath.Base(s)+".") })
			if i < 0 {
				t.Fatal("it has no page")
			}
			abs, err := filepath.Abs(s)
			if err != nil {
				t.Fatal(err)
			}
			same(t, "option", optionsOfPage(readPage(t, otherPages[i])), optionsOfHelp(run(t, "sh", abs, "--help")))
		})
	}
}

// TestPagesLint has mandoc look for mistakes, where it is installed.
func TestPagesLint(t *testing.T) {
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		t.Skip("LEFT OUT: mandoc is not installed (package mandoc)")
	}
	pages, err := filepath.Glob(filepath.Join(root, "docs", "man", "*"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	if out, err := exec.Command(mandoc, append([]string{"-Tlint", "-W", "warning"}, pages...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestPageSections: each page has what readers look for, and refers to pages that exist.
func TestPageSections(t *testing.T) {
	foreign := []string{"ps.1", "netstat.8", "ssh-copy-id.1", "ssh-keygen.1"}
	pages := slices.Clone(otherPages)
	for _, p := range programs {
		pages = append(pages, p.page)
	}
	for _, page := range pages {
		text := readPage(t, page)
		want := []string{"NAME", "DESCRIPTION", "EXAMPLES", "SEE ALSO"}
		if !strings.HasSuffix(page, ".5") {
			want = append(want, "SYNOPSIS", "EXIT STATUS")
		}
		for _, s := range want {
			if !strings.Contains(text, "\n.Sh "+s+"\n") {
				t.Errorf("%s has no %s", page, s)
			}
		}
		for _, m := range regexp.MustCompile(`(?m)^\.Xr (\S+) (\d)`).FindAllStringSubmatch(text, -1) {
			if to := m[1] + "." + m[2]; !slices.Contains(pages, to) && !slices.Contains(foreign, to) {
				t.Errorf("%s refers to %s, which is not there", page, to)
			}
		}
	}
}

func readPage(t *testing.T, page string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "docs", "man", page))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// run is what a command prints; a status other than 0 is the caller's to judge by the text.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out)
}

// helpOf is all that a program tells of itself, that of its commands included.
func helpOf(t *testing.T, name string, commands ...string) string {
	t.Helper()
	program := filepath.Join(bin, name)
	if name == "tgt-setup-lun" {
		return run(t, program) // as the one of tgt, it has no --help
	}
	help := run(t, program, append(slices.Clone(commands), "--help")...)
	if name == "pssctl" && !slices.Contains(commands, "shell") { // the shell's options are those of tgt-admin
		for _, c := range commandsOfHelp(help) {
			help += helpOf(t, name, append(slices.Clone(commands), c)...)
		}
	}
	return help
}

var helpOption = regexp.MustCompile(`(?:^|[\s,|\[("])(--?[A-Za-z][\w-]*)`)

func optionsOfHelp(help string) map[string]bool {
	found := map[string]bool{}
	for _, m := range helpOption.FindAllStringSubmatch(help, -1) {
		found[m[1]] = true
	}
	return found
}

// commandsOfHelp are the words that begin the lines of the section COMMANDS.
func commandsOfHelp(help string) []string {
	var all []string
	in := false
	for line := range strings.Lines(help) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "COMMANDS:":
			in = true
		case line != "" && !strings.HasPrefix(line, " "):
			in = false
		case in && strings.HasPrefix(line, "   ") && !strings.HasPrefix(line, "    "):
			word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			all = append(all, strings.TrimSuffix(word, ","))
		}
	}
	return all
}

// optionsOfPage are the arguments of the macro Fl in an mdoc page.
func optionsOfPage(text string) map[string]bool {
	found := map[string]bool{}
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, ".") {
			continue
		}
		words := strings.Fields(strings.TrimPrefix(line, "."))
		for i := 0; i < len(words); i++ {
			if words[i] != "Fl" {
				continue
			}
			for i+1 < len(words) && !isMacro(words[i+1]) && regexp.MustCompile(`^[-A-Za-z]`).MatchString(words[i+1]) {
				i++
				found["-"+words[i]] = true
			}
		}
	}
	return found
}

// isMacro says whether a word on a line of mdoc is one of its macros: an upper and a lower letter that is none of our
// options.
func isMacro(w string) bool {
	return len(w) == 2 && w[0] >= 'A' && w[0] <= 'Z' && w[1] >= 'a' && w[1] <= 'z'
}

func same(t *testing.T, what string, page, help map[string]bool) {
	t.Helper()
	for o := range help {
		if !page[o] {
			t.Errorf("the page lacks the %s %s", what, o)
		}
	}
	for o := range page {
		if !help[o] {
			t.Errorf("--help lacks the %s %s of the page", what, o)
		}
	}
}
