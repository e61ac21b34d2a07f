package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/peterh/liner"
	"golang.org/x/sys/unix"
)

// Exit statuses.
const (
	statusFailed = 1
	statusUsage  = 2
)

// usage is what a command line that is none gets to see.
const usage = "usage: shell [-c COMMANDS]   commands parted by semicolons or line ends; without -c they are read\n" +
	"       from standard input, with completion where that is a terminal\n"

// Main runs a shell with the arguments behind its name, on standard input where they hold no commands,
// and returns the exit status: 0, 1 after a command that failed, 2 for bad arguments. A script ends at
// the first command that fails, a terminal goes on.
func Main(ctx context.Context, args []string, stdin *os.File, o Options) int {
	s := New(o)
	var err error
	switch {
	case len(args) == 2 && args[0] == "-c":
		err = s.Script(ctx, "-c", strings.NewReader(Statements(args[1])))
	case len(args) > 0:
		fmt.Fprint(o.Err, usage)
		return statusUsage
	case isTerminal(stdin):
		err = s.interact(ctx)
	default:
		err = s.Script(ctx, "standard input", stdin)
	}
	if err != nil {
		fmt.Fprintf(o.Err, "%v\n", err)
		return statusFailed
	}
	return 0
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil && liner.TerminalSupported()
}

// interact reads lines from the terminal until its end or exit. ^C drops the line.
func (s *Shell) interact(ctx context.Context) error {
	terminal := liner.NewLiner()
	defer terminal.Close()
	terminal.SetCtrlCAborts(true)
	terminal.SetTabCompletionStyle(liner.TabPrints)
	terminal.SetWordCompleter(func(line string, pos int) (string, []string, string) {
		// liner counts runes
		before := string([]rune(line)[:pos])
		return s.Complete(ctx, line, len(before))
	})
	for {
		line, err := terminal.Prompt(join(s.at) + "> ")
		switch {
		case errors.Is(err, liner.ErrPromptAborted):
			continue
		case errors.Is(err, io.EOF):
			fmt.Fprintln(s.Out)
			return nil
		case err != nil:
			return fmt.Errorf("reading the terminal: %w", err)
		}
		if strings.TrimSpace(line) != "" && !strings.Contains(line, "create ") {
			terminal.AppendHistory(line) // secrets come with create alone
		}
		err = s.Do(ctx, line)
		if errors.Is(err, ErrExit) {
			return nil
		}
		if err != nil {
			fmt.Fprintf(s.Err, "%v\n", err)
		}
	}
}
