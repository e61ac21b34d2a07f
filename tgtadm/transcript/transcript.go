// Package transcript replays recorded sessions with the tgt tools against the programs of this project,
// for their tests. A transcript is plain text, a record a line: `$` a shell command, `+` a further line
// of it, `>` and `!` its outputs, `=` its exit status, `&` a command in the background, `@` a file and
// its lines, `~` something else that was done. @DIR@ stands for the scratch directory.
package transcript

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest/port"
)

// recordedPortal is where the daemons of the recordings listened; a replay has a port of its own.
const recordedPortal = "127.0.0.1:3270"

// recordedHost is the name of the host of the recordings.
const recordedHost = "goldhost"

// commandLimit ends a command that hangs.
const commandLimit = time.Minute

// daemonLimit ends the wait for a daemon's management socket.
const daemonLimit = 20 * time.Second

// record is one thing done in a session.
type record struct {
	kind     byte // '$' a command, '&' one in the background, '@' a file, '~' another deed
	line     int
	text     string // the command, the deed, or the name of the file
	out, err string // of a command; out is the content of a file
	status   int
}

// Scenario is one recorded session.
type Scenario struct {
	Name    string
	records []record
}

// Load reads a transcript.
func Load(path string) (*Scenario, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a transcript: %w", err)
	}
	s := &Scenario{Name: strings.TrimSuffix(filepath.Base(path), ".txt")}
	head := true
	for i, l := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		if head {
			head = l != ""
			continue
		}
		if err := s.add(i+1, l); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
	}
	return s, nil
}

func (s *Scenario) add(number int, l string) error {
	if l == "" {
		return errors.New("an empty line")
	}
	rest := strings.TrimPrefix(l[1:], " ")
	var last *record
	if len(s.records) > 0 {
		last = &s.records[len(s.records)-1]
	}
	stream := func(to *string) {
		if l[1:] == `\` {
			*to = strings.TrimSuffix(*to, "\n")
			return
		}
		*to += rest + "\n"
	}
	switch {
	case strings.HasPrefix(l, "@|") && last != nil && last.kind == '@':
		last.out += strings.TrimPrefix(l[2:], " ") + "\n"
	case l[0] == '$' || l[0] == '&' || l[0] == '@' || l[0] == '~':
		s.records = append(s.records, record{kind: l[0], line: number, text: rest})
	case last == nil && l[0] != '#':
		return fmt.Errorf("%q without a command", l)
	case l[0] == '+':
		last.text += "\n" + rest
	case l[0] == '>':
		stream(&last.out)
	case l[0] == '!':
		stream(&last.err)
	case l[0] == '=':
		status, err := strconv.Atoi(rest)
		if err != nil {
			return fmt.Errorf("a status that is no number: %w", err)
		}
		last.status = status
	case l[0] != '#' && l[0] != '|':
		return fmt.Errorf("%q is not understood", l)
	}
	return nil
}

// NeedsDaemon says that the session had a daemon.
func (s *Scenario) NeedsDaemon() bool {
	return slices.ContainsFunc(s.records, func(r record) bool { return r.kind == '&' })
}

// NeedsProbe says that the session had an initiator beside it.
func (s *Scenario) NeedsProbe() bool {
	return slices.ContainsFunc(s.records, func(r record) bool {
		return r.kind == '&' && strings.HasPrefix(r.text, probe+" ")
	})
}

// Count is what came of replays, in commands.
type Count struct {
	Equal, Different int
	Deliberate       int // different, as they should be
	Foreign          int // of programs that are not tested
}

// Add adds another count.
func (c *Count) Add(other Count) {
	c.Equal += other.Equal
	c.Different += other.Different
	c.Deliberate += other.Deliberate
	c.Foreign += other.Foreign
}

// String is the count in words.
func (c Count) String() string {
	return fmt.Sprintf("%d of %d commands equal, %d of the others deliberately not; "+
		"%d more are of programs not tested here",
		c.Equal, c.Equal+c.Different+c.Deliberate, c.Deliberate, c.Foreign)
}

// Until begins the reason of a difference that is there until something comes to be. Once it has, the
// command is equal and the reason can go.
const Until = "until "

// Player replays scenarios.
type Player struct {
	Bin    string   // the directory of the programs that are tested
	Tested []string // their names; commands that start with another tgt program are left out
	Daemon string   // the path of tgtd
	// OwnDaemon says that it is this project's: the types of stores and devices, which differ from build
	// to build of tgt's too, are left out of what show system says. Package tgtd compares them.
	OwnDaemon bool
	// Deliberate are the commands, by NAME:LINE, that must differ from what was recorded, and why.
	Deliberate map[string]string
}

// stage is one scenario being replayed.
type stage struct {
	*Player
	t      *testing.T
	dir    string // scratch directory
	socket string // base of the management sockets
	portal string // in place of the recorded one

	daemons map[string]func() // what ends those that run, by control port
}

// Play replays a scenario and reports each command that differs as an error of t.
func (p *Player) Play(t *testing.T, s *Scenario) Count {
	t.Helper()
	home, err := os.MkdirTemp("", "replay") // short: the path of a socket goes below
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	st := &stage{Player: p, t: t, dir: home + "/run", socket: home + "/socket", portal: freePortal(t),
		daemons: map[string]func(){}}
	for _, dir := range []string{home, st.dir} {
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	var count Count
	for _, r := range s.records {
		switch {
		case r.kind == '@':
			if err := os.WriteFile(filepath.Join(st.dir, r.text), []byte(st.real(r.out)), 0o644); err != nil {
				t.Fatal(err)
			}
		case r.kind == '&':
			st.spawn(r)
		case r.kind == '~':
			st.deed(r)
		case !st.isTested(r.text):
			count.Foreign++
		default:
			st.judge(s.Name, r, &count)
		}
	}
	return count
}

// judge runs one command and counts it.
func (st *stage) judge(name string, r record, count *Count) {
	st.t.Helper()
	diff := st.command(r)
	key := fmt.Sprintf("%s:%d", name, r.line)
	why, deliberate := st.Deliberate[key]
	switch {
	case diff == "" && deliberate && !strings.HasPrefix(why, Until):
		st.t.Errorf("%s %s: as it was recorded, but should be different: %s", key, r.text, why)
		count.Different++
	case diff == "":
		count.Equal++
	case deliberate:
		st.t.Logf("%s %s: differs: %s", key, r.text, why)
		count.Deliberate++
	default:
		st.t.Errorf("%s %s\n%s", key, r.text, diff)
		count.Different++
	}
}

// freePortal is an address of this machine at which nothing listens.
func freePortal(t *testing.T) string {
	ports, err := port.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort(port.Host, strconv.Itoa(ports[0]))
}

// real puts the places of this replay into a recorded text, recorded takes them out again.
func (st *stage) real(text string) string {
	return strings.NewReplacer("@DIR@", st.dir, recordedPortal, st.portal).Replace(text)
}

func (st *stage) recorded(text string) string {
	pairs := []string{st.dir, "@DIR@", st.portal, recordedPortal, st.Bin + "/", "/usr/sbin/"}
	if host, err := os.Hostname(); err == nil {
		pairs = append(pairs, "iqn.2001-04.com."+host+"-", "iqn.2001-04.com."+recordedHost+"-")
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

var programWord = regexp.MustCompile(`(?:^|[;|&] *|[A-Z]\S*=\S+ +|clear-groups +)(tgt[\w.-]+|isc|iscsi-\S+|qemu-io)\b`)

// isTested says that a command runs no foreign program of the iSCSI world.
func (st *stage) isTested(text string) bool {
	for _, m := range programWord.FindAllStringSubmatch(text, -1) {
		if !slices.Contains(st.Tested, m[1]) {
			return false
		}
	}
	return true
}

func (st *stage) environment() []string {
	return []string{"PATH=" + st.Bin + ":/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "TZ=UTC",
		"HOME=/root", "TGT_IPC_SOCKET=" + st.socket}
}

// command runs one command; what it returns is empty if all went as it was recorded.
func (st *stage) command(r record) (diff string) {
	st.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", st.real(r.text))
	cmd.Dir, cmd.Env = st.dir, st.environment()
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	var ended *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &ended) {
		st.t.Fatalf("line %d: running %q: %v", r.line, r.text, err)
	}
	shown := func(out, err string, status int) string {
		if st.OwnDaemon && strings.Contains(r.text, "--mode sys") {
			out = inventory.ReplaceAllString(out, "")
		}
		return fmt.Sprintf("%s\n%s\nstatus %d", settle(out), settle(err), status)
	}
	want := shown(r.out, r.err, r.status)
	got := shown(st.recorded(out.String()), st.recorded(stderr.String()), cmd.ProcessState.ExitCode())
	if want == got {
		return ""
	}
	return fmt.Sprintf("--- recorded\n%s\n--- now\n%s", want, got)
}

var zeroBytes = regexp.MustCompile(`^file (.*): (\d+) zero bytes$`)

// deed does what a '~' line says.
func (st *stage) deed(r record) {
	m := zeroBytes.FindStringSubmatch(r.text)
	if m == nil {
		st.t.Fatalf("line %d: cannot do %q", r.line, r.text)
	}
	size, _ := strconv.Atoi(m[2]) // digits only
	if err := os.WriteFile(filepath.Join(st.dir, m[1]), make([]byte, size), 0o644); err != nil {
		st.t.Fatal(err)
	}
}

// spawn starts a daemon, waits until it listens, and ends it with the test.
func (st *stage) spawn(r record) {
	words := strings.Fields(st.real(r.text))
	if words[0] == probe {
		st.hold(r)
		return
	}
	if words[0] != "tgtd" {
		st.t.Fatalf("line %d: cannot keep %q in the background", r.line, r.text)
	}
	port := "0"
	if i := slices.Index(words, "-C"); i >= 0 {
		port = words[i+1]
	}
	// In the recording the daemon before it has died; the one here may not have.
	if end := st.daemons[port]; end != nil {
		end()
	}
	cmd := exec.Command(st.Daemon, words[1:]...)
	cmd.Dir, cmd.Env = st.dir, st.environment()
	if err := cmd.Start(); err != nil {
		st.t.Fatalf("line %d: starting the daemon: %v", r.line, err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait() // a daemon that is killed ends with an error
		close(ended)
	}()
	end := func() {
		cmd.Process.Kill()
		<-ended
	}
	st.daemons[port] = end
	st.t.Cleanup(end)
	limit := time.After(daemonLimit)
	for {
		if c, err := net.Dial("unix", st.socket+"."+port); err == nil {
			c.Close()
			return
		}
		select {
		case <-ended:
			st.t.Fatalf("line %d: the daemon ended at once: %v", r.line, cmd.ProcessState)
		case <-limit:
			st.t.Fatalf("line %d: the daemon does not listen", r.line)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// probe is the iSCSI client of the recordings. Sessions that it holds open in the background are part of
// a replay; what it says in the foreground is not compared here.
const probe = "isc"

// hold starts a session that is held open, waits until it is there, and ends it with the test.
func (st *stage) hold(r record) {
	cmd := exec.Command("/bin/sh", "-c", "exec "+st.real(r.text))
	cmd.Dir, cmd.Env = st.dir, st.environment()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		st.t.Fatalf("line %d: starting a client: %v", r.line, err)
	}
	st.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait() // it was killed
	})
	limit := time.AfterFunc(daemonLimit, func() { cmd.Process.Kill() })
	defer limit.Stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "logged in" {
			return
		}
	}
	st.t.Fatalf("line %d: %s did not log in", r.line, r.text)
}

// What recordings do not fix, and what they have in a random order.
var (
	place         = regexp.MustCompile(` at \S+ line (\d+|<n>)`)
	unitParameter = regexp.MustCompile(`^tgtadm .*--op update --mode logicalunit .*--params `)
	serial        = regexp.MustCompile(`(?m)^(Media serial number : \S+_)(?:\d+|<epoch>), created .*$`)
	perlValue     = regexp.MustCompile(`(Can't use string \()".*"(?:\.\.\.)?(\) as )`) // cut after 32 bytes
	cacheRemark   = regexp.MustCompile(`^# (Write cache is enabled|WARNING! Unknown value)`)
)

// inventory is the lines of show system that list types of backing stores and of devices.
var inventory = regexp.MustCompile(`(?m)^(Backing stores:|Device types:|` +
	`    (sheepdog|bsg|sg|null|ssc|smc|mmc|rdwr|aio|pss|disk|cd/dvd|osd|controller|changer|tape|passthrough)` +
	`( \(bsoflags [a-z:]+\))?)\n`)

// settle replaces what is not fixed and sorts what the original puts out in random order: the
// parameters of a unit, targets that are removed, targets of a dump.
func settle(text string) string {
	text = place.ReplaceAllString(text, " at PLACE")
	text = perlValue.ReplaceAllString(text, "${1}VALUE$2") // a path in it is as long as the scratch directory's name
	text = serial.ReplaceAllString(text, "${1}SECONDS, created DATE")
	lines := strings.Split(text, "\n")
	sortRuns(lines, func(l string) string {
		switch {
		case unitParameter.MatchString(l) && strings.Contains(l, "mode_page="):
			return "page"
		case unitParameter.MatchString(l), cacheRemark.MatchString(l):
			return "parameter"
		}
		return ""
	})
	blocks := [][]string{}
	for i := 0; i < len(lines); i++ {
		start := i
		if strings.HasPrefix(lines[i], "<target ") {
			for i+1 < len(lines) && lines[i] != "" {
				i++
			}
		}
		blocks = append(blocks, lines[start:i+1])
	}
	joined := make([]string, len(blocks))
	for i, b := range blocks {
		joined[i] = strings.Join(b, "\n")
	}
	sortRuns(joined, func(b string) string {
		if strings.HasPrefix(b, "<target ") {
			return "dump"
		}
		return ""
	})
	return strings.Join(joined, "\n")
}

// sortRuns sorts each run of neighbours that are of the same group, which is not the empty one.
func sortRuns(items []string, group func(string) string) {
	for i := 0; i < len(items); {
		g, end := group(items[i]), i+1
		for g != "" && end < len(items) && group(items[end]) == g {
			end++
		}
		slices.Sort(items[i:end])
		i = end
	}
}
