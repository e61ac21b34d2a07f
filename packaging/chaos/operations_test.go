package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// shown is one test that a row of the table names.
type shown struct{ folder, test string }

// shownBy reads the last cell of a row: `FOLDER` NAME, NAME; `FOLDER` NAME.
func shownBy(cell string) (all []shown, err error) {
	form := regexp.MustCompile("^`([^`]+)` ([A-Za-z][A-Za-z-]*(?:, [A-Za-z][A-Za-z-]*)*)$")
	for _, part := range strings.Split(strings.TrimSpace(cell), "; ") {
		m := form.FindStringSubmatch(part)
		if m == nil {
			return nil, fmt.Errorf("%q is not of the form `FOLDER` NAME, NAME", part)
		}
		for _, name := range strings.Split(m[2], ", ") {
			all = append(all, shown{m[1], name})
		}
	}
	return all, nil
}

// testsIn are the names of a folder's tests; of this one the classes of faults, too.
func testsIn(root, folder string) (names []string, err error) {
	if folder == "packaging/chaos" {
		names = namesOf(faults())
	}
	files, err := filepath.Glob(filepath.Join(root, folder, "*_test.go"))
	if err != nil {
		return nil, err
	}
	declared := regexp.MustCompile(`(?m)^func (Test[A-Z]\w*)\(`)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		for _, m := range declared.FindAllStringSubmatch(string(b), -1) {
			names = append(names, m[1])
		}
	}
	return names, nil
}

// TestFaultTable: every row of the table of faults in docs/operations.md has its five cells and names tests that there
// are, and every class of faults is in a row.
func TestFaultTable(t *testing.T) {
	const root = "../.."
	b, err := os.ReadFile(filepath.Join(root, "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(b), "\n## When something fails\n")
	if !ok {
		t.Fatal("docs/operations.md has no section 'When something fails'")
	}
	section, _, _ = strings.Cut(section, "\n### ")
	rows, named := 0, make(map[string]bool)
	for _, line := range strings.Split(section, "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| event |") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if len(cells) != 5 || slices.Contains(cells, "") {
			t.Errorf("not five cells: %s", line)
			continue
		}
		all, err := shownBy(cells[4])
		if err != nil {
			t.Errorf("%s: %v", cells[0], err)
		}
		for _, s := range all {
			there, err := testsIn(root, s.folder)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(there, s.test) {
				t.Errorf("%s: %s has no %s", cells[0], s.folder, s.test)
			}
			named[s.test] = true
		}
	}
	const least = 30
	if rows < least {
		t.Errorf("the table has %d rows, fewer than %d", rows, least)
	}
	for _, f := range faults() {
		if !named[f.name] {
			t.Errorf("the class %s is in no row", f.name)
		}
	}
}

func TestShownBy(t *testing.T) {
	all, err := shownBy("`pss/sim` TestSeeds, TestFlawsAreFound; `packaging/chaos` kill-master")
	if err != nil || !slices.Equal(all, []shown{{"pss/sim", "TestSeeds"}, {"pss/sim", "TestFlawsAreFound"}, {"packaging/chaos", "kill-master"}}) {
		t.Errorf("%v, %v", all, err)
	}
	for _, bad := range []string{"", "`pss/sim`", "TestSeeds", "`pss/replica` TestScrub…", "`pss/sim`, `pss/replica`"} {
		if all, err := shownBy(bad); err == nil {
			t.Errorf("%q was read as %v", bad, all)
		}
	}
}
