package manuals

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// The machines of a manual, as run= and on= name them. Server followed by a digit is one server of the cell.
const (
	Server  = "server"
	Control = "control"
	Target  = "target"
	Client  = "client"
	All     = "all" // only for files
	Nobody  = "no"  // only for commands
)

// ErrMarking is a mistake in the marking of a manual; the error names file and line.
var ErrMarking = errors.New("marking of the manual")

// Block is a fenced block that holds commands, or a file.
type Block struct {
	Name     string // of the document, as Read was told
	Line     int    // of the fence
	Machine  string // where the commands run, or whose file it is
	Local    bool   // the commands work on one machine, too
	Reason   string // why Nobody runs them
	Status   int    // the exit status of each command
	Commands []Command
	Path     string // of the file; empty for commands
	Text     string // of the file
}

// Command is one command, and what it prints.
type Command struct {
	Line int
	Text string   // for sh
	Want []string // lines with "…" for what varies; none: anything
}

// Where is file and line of the block, for messages.
func (b Block) Where() string { return fmt.Sprintf("%s:%d", b.Name, b.Line) }

// Load reads the blocks of a document.
func Load(path string) ([]Block, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read a manual: %w", err)
	}
	defer f.Close()
	return Read(f, path)
}

// Read reads the blocks of a document in their order: all that hold commands or a file. Mistakes are ErrMarking.
func Read(r io.Reader, name string) ([]Block, error) {
	var blocks []Block
	var body []string
	var fence string
	begin, line, indent := 0, 0, 0 // of the fence
	in := bufio.NewScanner(r)
	for in.Scan() {
		line++
		text := in.Text()
		switch mark := strings.TrimLeft(text, " "); {
		case begin == 0 && strings.HasPrefix(mark, "```"):
			begin, fence, body, indent = line, strings.TrimPrefix(mark, "```"), nil, len(text)-len(mark)
		case begin != 0 && strings.TrimSpace(mark) == "```":
			b, ok, err := block(name, begin, fence, body)
			if err != nil {
				return nil, err
			}
			if ok {
				blocks = append(blocks, b)
			}
			begin = 0
		case begin != 0:
			blanks := len(text) - len(strings.TrimLeft(text, " "))
			body = append(body, text[min(indent, blanks):])
		}
	}
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if begin != 0 {
		return nil, fmt.Errorf("%w: %s:%d: the block has no end", ErrMarking, name, begin)
	}
	return blocks, nil
}

// attribute is a word of a fence; its value may be quoted.
var attribute = regexp.MustCompile(`([a-z]+)(?:=("[^"]*"|\S+))?`)

// machine is what run= and on= may say, apart from Nobody and All.
var machine = regexp.MustCompile(`^(server[0-7]?|control|target|client)$`)

// block makes a Block of a fence and what is within. ok is false for an illustration.
func block(name string, line int, fence string, body []string) (b Block, ok bool, err error) {
	b = Block{Name: name, Line: line}
	fail := func(format string, args ...any) (Block, bool, error) {
		return Block{}, false, fmt.Errorf("%w: %s:%d: %s", ErrMarking, name, line, fmt.Sprintf(format, args...))
	}
	language, words, _ := strings.Cut(strings.TrimSpace(fence), " ")
	on := All
	for _, m := range attribute.FindAllStringSubmatch(words, -1) {
		value := strings.Trim(m[2], `"`)
		switch m[1] {
		case "run":
			b.Machine = value
		case "local":
			b.Local = true
		case "reason":
			b.Reason = value
		case "status":
			if b.Status, err = strconv.Atoi(value); err != nil {
				return fail("status=%s is no number", value)
			}
		case "file":
			b.Path = value
		case "on":
			on = value
		default:
			return fail("%q means nothing on a fence", m[0])
		}
	}
	switch {
	case b.Path != "":
		if on != All && !machine.MatchString(on) {
			return fail("on=%s is no machine", on)
		}
		b.Machine, b.Text = on, strings.Join(body, "\n")+"\n"
		return b, true, nil
	case language != "console":
		return Block{}, false, nil
	case b.Machine == "":
		return fail("run= is missing")
	case b.Machine == Nobody && (b.Reason == "" || b.Local):
		return fail("run=no needs a reason, and is not local")
	case b.Machine != Nobody && !machine.MatchString(b.Machine):
		return fail("run=%s is no machine", b.Machine)
	}
	if b.Commands, err = commands(line, body); err != nil {
		return fail("%v", err)
	}
	return b, true, nil
}

var errNoCommand = errors.New(`a console block begins with "$ " and a command`)

// commands are those of the lines of a block; line is that of the fence.
func commands(line int, body []string) ([]Command, error) {
	var all []Command
	goesOn := false
	for i, text := range body {
		command, isCommand := strings.CutPrefix(text, "$ ")
		switch {
		case goesOn:
			last := &all[len(all)-1]
			last.Text = strings.TrimSuffix(last.Text, `\`) + strings.TrimLeft(text, " ")
			goesOn = strings.HasSuffix(text, `\`)
		case isCommand:
			all = append(all, Command{Line: line + 1 + i, Text: command})
			goesOn = strings.HasSuffix(command, `\`)
		case len(all) == 0:
			return nil, errNoCommand
		default:
			last := &all[len(all)-1]
			last.Want = append(last.Want, text)
		}
	}
	if len(all) == 0 || goesOn {
		return nil, errNoCommand
	}
	return all, nil
}
