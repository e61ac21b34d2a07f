package manuals

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// TestTranslation: the Japanese manual has the same blocks in the same order.
func TestTranslation(t *testing.T) {
	english, err := Load(filepath.Join(root, "docs", "manual.md"))
	if err != nil {
		t.Fatal(err)
	}
	japanese, err := Load(filepath.Join(root, "docs", "manual.ja.md"))
	if err != nil {
		t.Fatal(err)
	}
	if len(japanese) != len(english) {
		t.Errorf("%d blocks, and %d in English", len(japanese), len(english))
	}
	for i := range min(len(japanese), len(english)) {
		if e, j := bare(english[i]), bare(japanese[i]); !reflect.DeepEqual(e, j) {
			t.Errorf("%s is\n%+v\nand %s is\n%+v", japanese[i].Where(), j, english[i].Where(), e)
		}
	}
}

// bare is a block without what a translation may have otherwise.
func bare(b Block) Block {
	b.Name, b.Line, b.Reason = "", 0, ""
	for i := range b.Commands {
		b.Commands[i].Line = 0
	}
	return b
}

// machineLimit is how long the whole manual may take on one machine.
const machineLimit = 4 * time.Minute

// stand is one machine that stands for all those of the manual.
type stand struct {
	dir    string
	cell   *rig.Cell
	target *rig.Target
}

// services are the commands of packages that are not installed here: the rig does the same.
var services = map[string]func(context.Context, *stand, Block) error{
	"sudo /etc/init.d/pssd start": func(ctx context.Context, s *stand, b Block) error {
		if b.Machine == Server {
			// The manual has made a key meanwhile.
			conf, err := cell.Load(s.cell.Conf)
			if err != nil {
				return err
			}
			s.cell.Config = conf
			if err := s.cell.StartAll(ctx); err != nil {
				return err
			}
			return s.settled(ctx)
		}
		for _, id := range s.cell.IDs() {
			if b.Machine != Server+strconv.Itoa(int(id)) {
				continue
			}
			select { // the manual has just had it stopped
			case <-s.cell.Server(id).Exited():
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := s.cell.Start(ctx, id); err != nil {
				return err
			}
			return s.cell.Level(ctx)
		}
		return nil
	},
	"sudo /etc/init.d/tgtd.pss start": func(ctx context.Context, s *stand, _ Block) error {
		if err := s.target.Start(ctx); err != nil {
			return err
		}
		return s.target.Load(ctx, filepath.Join(s.dir, "targets.conf"))
	},
}

// TestManualOnOneMachine runs the blocks of the manual that are marked local, in order, in a cell of eight
// servers on loopback, and compares what they print.
func TestManualOnOneMachine(t *testing.T) {
	if testing.Short() {
		t.Skip("LEFT OUT: it starts a cell, and -short is given")
	}
	ctx, cancel := context.WithTimeout(t.Context(), machineLimit)
	defer cancel()
	blocks, err := Load(filepath.Join(root, "docs", "manual.md"))
	if err != nil {
		t.Fatal(err)
	}
	s := newStand(t)
	ran := 0
	for _, b := range blocks {
		switch {
		case b.Path == "/etc/tgt/targets.conf":
			if err := os.WriteFile(filepath.Join(s.dir, "targets.conf"), []byte(b.Text), 0o600); err != nil {
				t.Fatal(err)
			}
		case b.Local:
			for _, c := range b.Commands {
				s.run(ctx, t, b, c)
				ran++
			}
		}
	}
	t.Logf("%d commands", ran)
	if ran == 0 {
		t.Error("the manual has no commands that run here")
	}
}

func newStand(t *testing.T) *stand {
	t.Helper()
	p, err := rig.Find(bin)
	if err != nil {
		t.Fatal(err)
	}
	s := &stand{dir: t.TempDir()}
	if s.cell, err = rig.NewOpenCell(s.dir, p, rig.AllServers()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.cell.Close)
	if s.target, err = rig.NewTarget(rig.TargetOptions{Dir: s.dir, Programs: p, Conf: s.cell.Conf, Port: 3260}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.target.Close)
	return s
}

// settled waits until all servers of a new cell have been taken in, which they are one after the other.
func (s *stand) settled(ctx context.Context) error {
	for {
		out, err := rig.Run(ctx, []string{cell.EnvFile + "=" + s.cell.Conf}, filepath.Join(bin, "pssctl"), "explain")
		if strings.HasPrefix(out, "All is well") {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting until the cell is well: %w: %w\n%s", ctx.Err(), err, out)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// here makes of a command of the manual what does the same on this machine.
func (s *stand) here(command string) string {
	return strings.NewReplacer("/etc/pss/", s.dir+"/", "/etc/tgt/", s.dir+"/", "tgtd-pss:3260", s.target.Portal).Replace(command)
}

// run runs one command and compares status and output.
func (s *stand) run(ctx context.Context, t *testing.T, b Block, c Command) {
	t.Helper()
	if service := services[c.Text]; service != nil {
		if err := service(ctx, s, b); err != nil {
			t.Fatalf("%s: `%s`: %v", b.Where(), c.Text, err)
		}
		return
	}
	if b.Machine == Client {
		name, _, _ := strings.Cut(c.Text, " ")
		if _, err := exec.LookPath(name); err != nil {
			t.Logf("LEFT OUT: `%s`: %s is not installed", c.Text, name)
			return
		}
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", "sudo() { \"$@\"; }\n"+s.here(c.Text))
	cmd.Dir = s.dir
	cmd.Env = append(append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH")), s.target.Env()...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != b.Status {
		t.Fatalf("%s:%d: `%s`: %v\n%s", b.Name, c.Line, c.Text, err, out)
	}
	want := c
	want.Want = nil
	for _, line := range c.Want {
		want.Want = append(want.Want, strings.NewReplacer("/etc/pss/", s.dir+"/", "/etc/tgt/", s.dir+"/").Replace(line))
	}
	if err := want.Match(string(out)); err != nil {
		t.Errorf("%s:%d: %v", b.Name, c.Line, err)
	}
}
