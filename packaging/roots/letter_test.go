package roots

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/manuals"
)

// letter is the manual's site, where what it says is done to the letter.
type letter struct {
	t                       *testing.T
	servers                 []*machine
	control, target, client *machine
}

// TestManualToTheLetter runs every command block of the manual on the machine that it is for, in the manual's order,
// and compares what is printed with what the manual shows. (The Japanese manual has the same blocks: TestTranslation.)
// What a block says that no test can do, it says why.
func TestManualToTheLetter(t *testing.T) {
	blocks, err := manuals.Load(filepath.Join(tree, "docs/manual.md"))
	if err != nil {
		t.Fatal(err)
	}
	l := newLetter(t)
	ran := 0
	for _, b := range blocks {
		t.Logf("== %s", b.Where())
		switch {
		case b.Path != "":
			for _, m := range l.machines(b.Machine) {
				m.put(b.Path, b.Text)
			}
		case b.Machine != manuals.Nobody:
			l.ready(b)
			all(l.machines(b.Machine), func(m *machine) {
				for _, c := range b.Commands {
					follow(m, b, c)
				}
			})
			l.after(b)
			ran += len(b.Commands)
		}
	}
	if ran < 40 {
		t.Errorf("the manual has %d commands only", ran)
	}
}

func newLetter(t *testing.T) *letter {
	l := &letter{t: t}
	for id := range servers {
		l.servers = append(l.servers, boot(t, fmt.Sprintf("paxos%02d", id), made.base))
	}
	l.control, l.target, l.client = boot(t, "pssdc", made.base), boot(t, "tgtd-pss", made.base), boot(t, "client", made.base)
	everybody := l.machines(manuals.All)
	network(t, made.base, everybody...)
	prepare(t, everybody, l.servers)
	for _, m := range everybody {
		m.put("/usr/bin/sudo", "#!/bin/sh\nexec \"$@\"\n") // who enters a machine is root
		m.do("chmod +x /usr/bin/sudo && rm -f /etc/pss/server.conf")
	}
	for file, machines := range map[string][]*machine{"pssd.deb": l.servers, "pssdc.deb": {l.control}, "tgtd.pss.deb": {l.target}} {
		for _, m := range machines {
			m.copyFile("/"+file, filepath.Join(made.packages, file))
		}
	}
	return l
}

// machines are those that a block is for.
func (l *letter) machines(who string) []*machine {
	switch who {
	case manuals.Server:
		return l.servers
	case manuals.Control:
		return []*machine{l.control}
	case manuals.Target:
		return []*machine{l.target}
	case manuals.Client:
		return []*machine{l.client}
	case manuals.All:
		return append(append([]*machine{}, l.servers...), l.control, l.target, l.client)
	}
	id, err := strconv.Atoi(strings.TrimPrefix(who, manuals.Server))
	if err != nil {
		l.t.Fatalf("no machine is %s", who)
	}
	return l.servers[id : id+1]
}

// follow does what one command of the manual says.
func follow(m *machine, b manuals.Block, c manuals.Command) {
	m.t.Helper()
	r := m.run(c.Text)
	m.t.Logf("%s# %s\n%s", m.name, c.Text, r.output)
	if r.status != b.Status {
		m.t.Errorf("%s: %s# `%s` ends with status %d, not %d", b.Where(), m.name, c.Text, r.status, b.Status)
	}
	if err := c.Match(r.output); err != nil {
		m.t.Errorf("%s: %s: %v", b.Where(), m.name, err)
	}
}

// ready waits until the machines are where the manual's reader finds them by the time that he has typed the command.
func (l *letter) ready(b manuals.Block) {
	l.t.Helper()
	first := b.Commands[0].Text
	switch {
	case strings.HasPrefix(first, "sudo dpkg "), strings.HasPrefix(first, "sudo pssctl keygen "), strings.HasPrefix(first, "sudo pss_delper.sh"),
		b.Machine == manuals.Server:
		return // there is no cell yet
	case first == "sudo /etc/init.d/pssd start":
		l.machines(b.Machine)[0].eventually("! /etc/init.d/pssd status", nil) // PSSShutdown does not wait for the end
	default:
		l.control.eventually("pssctl explain", func(out string) bool { return strings.HasPrefix(out, "All is well") })
	}
}

// after does what the manual leaves to each site: the key is brought to all machines.
func (l *letter) after(b manuals.Block) {
	l.t.Helper()
	if !strings.HasPrefix(b.Commands[0].Text, "sudo pssctl keygen ") {
		return
	}
	key := l.control.do("cat /etc/pss/cell.key")
	for _, m := range append([]*machine{l.target}, l.servers...) {
		m.put("/etc/pss/cell.key", key)
	}
	all(l.servers, func(m *machine) { m.do("chgrp pss /etc/pss/cell.key && chmod 0640 /etc/pss/cell.key") })
	l.target.do("chmod 0600 /etc/pss/cell.key")
}
