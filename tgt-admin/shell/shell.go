// Package shell is a shell in the manner of targetcli over a running tgtd: its configuration is a tree
// of folders, and cd, ls, create, delete, set and a few more work on it at once. Every change is a
// tgtadm command line, so that the shell can do and refuses what tgtadm can and refuses; volumes of PSS
// come in through an interface. It runs interactively with completion (terminal.go), or takes commands
// from a text and ends with a status.
//
//	/                     the daemon
//	/backstores           what units stand on, to look at
//	/targets/NAME         a target, and below it luns/N acls/RULE accounts/USER sessions/N
//	/accounts/USER        CHAP accounts
//	/discovery/USER       the accounts that discovery asks for
//	/portals/ADDRESS:PORT
//	/volumes/NAME         volumes of PSS
//
// Whoever comes from targetcli may write /iscsi for /targets and put tpg1 below a target.
package shell

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/command"
	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/running"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// Volume is a volume of PSS.
type Volume struct {
	Name  string
	Bytes uint64
}

// Volumes is what the shell does with PSS.
type Volumes interface {
	List(context.Context) ([]Volume, error)
	Create(ctx context.Context, name, size string) error // size as createISCSIVol takes it: 10G
	Delete(ctx context.Context, name string) error
}

// Options are what a shell works on.
type Options struct {
	Out, Err io.Writer
	// Call exchanges a request with the daemon.
	Call running.Call
	// Volumes may be nil: there are none then.
	Volumes Volumes
	// Save saves the configuration to a file, the default one if that is empty, and returns what to say.
	Save func(ctx context.Context, file string, force bool) (string, error)
}

// Shell is one shell. It belongs to one goroutine.
type Shell struct {
	Options
	at []string // where it is: the elements of the path
}

// New makes a shell that stands at the root.
func New(o Options) *Shell { return &Shell{Options: o} }

// ErrExit is returned by Do for exit.
var ErrExit = errors.New("exit")

// Do carries out one line. Errors say what is wrong without naming the line.
func (s *Shell) Do(ctx context.Context, line string) error {
	words, err := split(line)
	if err != nil || len(words) == 0 {
		return err
	}
	at := s.at
	if isPath(words[0]) {
		// PATH COMMAND ... works there; PATH alone goes there
		if at, err = s.resolve(words[0]); err != nil {
			return err
		}
		if words = words[1:]; len(words) == 0 {
			words = []string{"cd", "."}
		}
	}
	verb, ok := find(words[0])
	if !ok {
		return fmt.Errorf("unknown command %q; help lists them", words[0])
	}
	job := &job{Shell: s, at: at, args: words[1:]}
	return verb.do(job, ctx)
}

// isPath says that the first word of a line is a place and no command.
func isPath(word string) bool {
	return strings.HasPrefix(word, "/") || word == ".." || strings.HasPrefix(word, "../") || strings.HasPrefix(word, "./")
}

// job is one command at one place.
type job struct {
	*Shell
	at   []string
	args []string
}

func (j *job) printf(format string, values ...any) { fmt.Fprintf(j.Out, format, values...) }

// tgtadm runs a tgtadm command line. Its message becomes the error.
func (s *Shell) tgtadm(ctx context.Context, words ...string) error {
	var out, said strings.Builder
	env := command.Env{Stdout: &out, Stderr: &said,
		LookupEnv: func(string) (string, bool) { return "", false },
		Call: func(ctx context.Context, _ string, r mgmt.Request) (mgmt.Response, error) {
			return s.Call(ctx, r)
		},
	}
	if status := command.Run(ctx, append([]string{command.Name}, words...), env); status != 0 {
		return errors.New(strings.TrimPrefix(strings.TrimSuffix(said.String(), "\n"), command.Name+": "))
	}
	return nil
}

// config asks the daemon for all it has.
func (s *Shell) config(ctx context.Context) (*running.Config, error) {
	return running.Read(ctx, s.Call)
}

// maxLine bounds a line of a script, in bytes.
const maxLine = 1 << 20

// Script carries out the lines of a text up to the first that fails; the error names it. Lines may be
// parted by semicolons within commands of -c, empty ones and those with # in front are passed over.
func (s *Shell) Script(ctx context.Context, name string, r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if strings.HasPrefix(line, "#") {
			continue
		}
		err := s.Do(ctx, line)
		if errors.Is(err, ErrExit) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s line %d: %w", name, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}

// split divides a line at blanks. '...' and "..." hold blanks, a backslash takes the meaning from the
// next character.
func split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord, quote := false, byte(0)
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\\' && quote != '\'':
			if i++; i == len(line) {
				return nil, errors.New("a backslash at the end of the line")
			}
			word.WriteByte(line[i])
			inWord = true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteByte(c)
		case c == '"' || c == '\'':
			quote, inWord = c, true
		case c == ' ' || c == '\t':
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a %c without its partner", quote)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// Statements divides the text of -c at semicolons and line ends outside of quotes.
func Statements(text string) string {
	var b strings.Builder
	quote := byte(0)
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\\' && i+1 < len(text) && quote != '\'':
			b.WriteByte(c)
			i++
			c = text[i]
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote == 0 && c == ';':
			c = '\n'
		}
		b.WriteByte(c)
	}
	return b.String()
}
