package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
)

var rewriteConformance = flag.Bool("rewrite-conformance", false, "write docs/conformance.md from what TestConformance finds")

const (
	expectationsFile = "testdata/conformance"
	conformanceDoc   = "../../docs/conformance.md"
	// testTimeout bounds one test of the suite; none takes more than a few seconds.
	testTimeout = 30 * time.Second
	unitBytes   = 64 << 20
)

// conformanceUnits are the units that libiscsi's suite runs against, each with a target of its own.
var conformanceUnits = []struct{ name, kind, params string }{
	{"rdwr", "rdwr", ""},
	{"thin", "rdwr", "thin_provisioning=1"},
	{"pss", "pss", ""},
	{"removable", "rdwr", "removable=1,thin_provisioning=1"},
	{"readonly", "rdwr", "readonly=1"},
}

// The verdicts on a test of the suite.
const (
	verdictPass      = "PASS"
	verdictFail      = "FAIL"
	verdictSkip      = "SKIP"      // the test says that it does not apply
	verdictTimeout   = "TIMEOUT"   // never expected
	verdictProtected = "PROTECTED" // it wants to write, and is told WRITE PROTECTED: right on a read-only unit
	verdictNotRun    = "NOT-RUN"   // left out by us
)

// expectation says what a test does on a unit; what is not named passes.
type expectation struct {
	units         []string
	test, verdict string
	reason        string
}

// readExpectations reads testdata/conformance: lines of units (a comma list, or *), test (a pattern of
// filepath.Match), verdict, and the reason.
func readExpectations(t *testing.T) []expectation {
	t.Helper()
	text, err := os.ReadFile(expectationsFile)
	must(t, err)
	var all []expectation
	for n, line := range strings.Split(string(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.SplitN(strings.Join(strings.Fields(line), " "), " ", 4)
		if len(f) != 4 || !slices.Contains([]string{verdictFail, verdictSkip, verdictProtected, verdictNotRun}, f[2]) {
			t.Fatalf("%s:%d: not units, test, verdict and reason", expectationsFile, n+1)
		}
		all = append(all, expectation{strings.Split(f[0], ","), f[1], f[2], f[3]})
	}
	return all
}

// expected is the verdict that a test has to have on a unit, and the reason if that is not PASS.
func expected(all []expectation, unit, test string) (verdict, reason string) {
	for _, e := range all {
		if !slices.Contains(e.units, unit) && e.units[0] != "*" {
			continue
		}
		if ok, err := filepath.Match(e.test, test); err == nil && ok {
			return e.verdict, e.reason
		}
	}
	return verdictPass, ""
}

// outcome is what a test of the suite did.
type outcome struct{ verdict, why string }

var (
	assertsLine  = regexp.MustCompile(`(?m)^\s*asserts\s+(\d+)\s+\d+\s+\d+\s+(\d+)`)
	ranLine      = regexp.MustCompile(`(?m)^\s*tests\s+1\s+1\s`)
	skippedLine  = regexp.MustCompile(`\[SKIPPED\]\s*(.+)`)
	partSkipped  = regexp.MustCompile(`\[SKIPPED\] No \w+ restrictions on this LUN`) // and no assertion about it
	failedLine   = regexp.MustCompile(`(?m)^.*\[FAILED\].*$`)
	notHeldLine  = regexp.MustCompile(`(?m)^\s+\d+\. \S+:\d+\s+- .*$`)
	protectedASC = "0x2700" // WRITE PROTECTED, as the tool prints it
)

// judge reads what iscsi-test-cu printed. A test that skips and asserts nothing else is a skip; one that asserts only
// what is wrong passes without an assertion.
func judge(text string, failed bool) outcome {
	m := assertsLine.FindStringSubmatch(text)
	if m == nil || !ranLine.MatchString(text) {
		return outcome{verdictFail, "did not run: " + lastLine(text)}
	}
	ran, _ := strconv.Atoi(m[1])
	bad, _ := strconv.Atoi(m[2])
	if bad > 0 || failed && failedLine.MatchString(text) {
		why := strings.Join(append(failedLine.FindAllString(text, 1), notHeldLine.FindAllString(text, 1)...), "; ")
		if strings.Contains(text, protectedASC) {
			return outcome{verdictProtected, strings.TrimSpace(why)}
		}
		return outcome{verdictFail, strings.TrimSpace(why)}
	}
	text = partSkipped.ReplaceAllString(text, "")
	if skips := skippedLine.FindAllStringSubmatch(text, -1); len(skips) > 0 && ran <= len(skips) {
		return outcome{verdictSkip, strings.TrimSpace(skips[0][1])}
	}
	return outcome{verdict: verdictPass}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// simpleBlocks is a test that asks for the status of another block than the one it then expects, unless physical and
// logical blocks are the same. It runs last, on a unit where they are.
const simpleBlocks = "ALL.GetLBAStatus.UnmapSingle"

// suiteTests lists the tests of the suite. Those of several paths come first: one of them compares a block with zeros
// that it never wrote.
func suiteTests(t *testing.T, tool string) []string {
	t.Helper()
	out, err := rig.Run(limit(t), nil, tool, "--list")
	must(t, err)
	var first, rest []string
	for _, word := range strings.Fields(out) {
		switch {
		case !strings.HasPrefix(word, "ALL.") || strings.Count(word, ".") != 2:
		case word == simpleBlocks:
		case strings.HasPrefix(word, "ALL.MultipathIO."):
			first = append(first, word)
		default:
			rest = append(rest, word)
		}
	}
	return append(append(first, rest...), simpleBlocks)
}

// runSuiteTest runs one test in a process of its own.
func runSuiteTest(t *testing.T, tool, test, url string) outcome {
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	args := []string{"-V", "-f", "--dataloss", "--allow-sanitize", "-t", test, url}
	if strings.HasPrefix(test, "ALL.MultipathIO.") {
		args = append(args, url)
	}
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return outcome{verdictTimeout, lastLine(string(out))}
	}
	return judge(string(out), err != nil)
}

// TestConformance runs the whole suite of libiscsi against five units. testdata/conformance says which tests do
// otherwise than pass, and why; docs/conformance.md has the table.
func TestConformance(t *testing.T) {
	tool := tool(t, "iscsi-test-cu", "libiscsi-bin")
	all := readExpectations(t)
	tests := suiteTests(t, tool)
	s := newSystem(t, rig.Servers(3, 0))
	ctx := limit(t)
	urls := map[string]string{}
	for i, u := range conformanceUnits {
		store := "conformance"
		if u.kind == "rdwr" {
			store = filepath.Join(s.dir, u.name)
			must(t, os.WriteFile(store, nil, 0o600))
			must(t, os.Truncate(store, unitBytes))
		} else {
			must(t, s.cell.CreateVolume(ctx, store, "64M"))
		}
		name := "iqn.2001-03.jp.tritech:conformance-" + u.name
		must(t, s.target.AddUnit(ctx, 10+i, name, 1, u.kind, store, u.params))
		urls[u.name] = "iscsi://" + s.target.Portal + "/" + name + "/1"
	}
	var mu sync.Mutex
	found := map[string]map[string]outcome{}
	t.Run("units", func(t *testing.T) {
		for i, u := range conformanceUnits {
			t.Run(u.name, func(t *testing.T) {
				t.Parallel()
				got := map[string]outcome{}
				for _, test := range tests {
					want, reason := expected(all, u.name, test)
					if want == verdictNotRun {
						got[test] = outcome{want, reason}
						continue
					}
					if test == simpleBlocks {
						_, err := s.target.Admin(limit(t), "--op", "update", "--mode", "logicalunit", "--tid", strconv.Itoa(10+i),
							"--lun", "1", "--params", "lbppbe=0")
						must(t, err)
					}
					o := runSuiteTest(t, tool, test, urls[u.name])
					if o.verdict != want {
						t.Errorf("%s: %s (%s), expected %s %s", test, o.verdict, o.why, want, reason)
					}
					got[test] = o
				}
				mu.Lock()
				defer mu.Unlock()
				found[u.name] = got
			})
		}
	})
	slices.Sort(tests)
	report := conformanceReport(all, tests, found)
	t.Logf("libiscsi's suite\n%s", report)
	text, err := os.ReadFile(conformanceDoc)
	must(t, err)
	head, _, ok := strings.Cut(string(text), conformanceMark)
	if !ok {
		t.Fatalf("%s has no line %q", conformanceDoc, conformanceMark)
	}
	want := head + conformanceMark + report
	switch {
	case *rewriteConformance:
		must(t, os.WriteFile(conformanceDoc, []byte(want), 0o644))
	case want != string(text) && strings.Contains(string(text), fmt.Sprintf(" %d tests", len(tests))):
		t.Errorf("%s shows something else; -rewrite-conformance writes it", conformanceDoc)
	}
}

// conformanceMark begins the part of the document that is made by the test.
const conformanceMark = "<!-- made by TestConformance -->\n"

// conformanceReport is the table for people.
func conformanceReport(all []expectation, tests []string, found map[string]map[string]outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nThe suite has %d tests here.\n\n```\n", len(tests))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	verdicts := []string{verdictPass, verdictFail, verdictTimeout, verdictSkip, verdictProtected, verdictNotRun}
	fmt.Fprintf(w, "unit\t%s\n", strings.ToLower(strings.Join(verdicts, "\t")))
	for _, u := range conformanceUnits {
		count := map[string]int{}
		for _, o := range found[u.name] {
			count[o.verdict]++
		}
		fmt.Fprint(w, u.name)
		for _, v := range verdicts {
			fmt.Fprintf(w, "\t%d", count[v])
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	b.WriteString("```\n\nWhat does not pass:\n\n```\n")
	w = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, test := range tests {
		type line struct{ verdict, reason string }
		var order []line
		units := map[line][]string{}
		for _, u := range conformanceUnits {
			o := found[u.name][test]
			if o.verdict == verdictPass || o.verdict == "" {
				continue
			}
			_, reason := expected(all, u.name, test)
			l := line{o.verdict, reason}
			if units[l] == nil {
				order = append(order, l)
			}
			units[l] = append(units[l], u.name)
		}
		for _, l := range order {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", strings.TrimPrefix(test, "ALL."), strings.ToLower(l.verdict),
				strings.Join(units[l], ","), l.reason)
		}
	}
	w.Flush()
	b.WriteString("```\n")
	return b.String()
}
