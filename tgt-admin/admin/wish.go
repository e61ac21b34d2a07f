package admin

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/command"
	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/running"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// call asks the daemon itself, for what no tgtadm command line says.
func (a *admin) call(ctx context.Context, r mgmt.Request) (mgmt.Response, error) {
	port, err := controlPort(a.port)
	if err != nil {
		return mgmt.Response{}, err
	}
	path, err := mgmt.SocketPath(a.env.LookupEnv, port)
	if err != nil {
		return mgmt.Response{}, fmt.Errorf("management path too long: %s", path)
	}
	call := a.env.Call
	if call == nil {
		call = mgmt.Call
	}
	return call(ctx, path, r)
}

// wish is what the file asks for: the requests of an --update ALL, noted instead of sent. now is what
// the daemon has: its targets keep their numbers. notes are the remarks on what is left out.
func (a *admin) wish(now *running.Config) (want *running.Config, notes []string, err error) {
	recorder := running.NewRecorder()
	var said bytes.Buffer
	b := *a
	b.env.Stdout, b.env.Stderr = &said, &said
	b.env.Tgtadm = command.Run
	b.env.Call = func(ctx context.Context, _ string, r mgmt.Request) (mgmt.Response, error) {
		return recorder.Call(ctx, r)
	}
	b.force, b.verbose, b.pretend, b.ignoreErrors = true, true, false, false
	b.state, b.globalsDone = newState(), false
	for _, t := range now.Targets {
		b.state.targets = append(b.state.targets, &target{tid: t.TID, name: t.Name})
	}
	b.tid = b.state.largestTID()
	err = b.imagine(now)
	for line := range strings.Lines(said.String()) {
		line = strings.TrimSuffix(line, "\n")
		if note, ok := strings.CutPrefix(line, "# "); ok && worthNoting(note) {
			notes = append(notes, note)
		}
	}
	if err != nil {
		// the last lines say which request failed, or what is wrong with the file
		for line := range strings.Lines(said.String()) {
			if !strings.HasPrefix(line, "# ") && !strings.HasPrefix(line, command.Name) {
				fmt.Fprint(a.env.Stdout, line)
			}
		}
		return nil, nil, err
	}
	return &recorder.Config, notes, nil
}

// imagine does what --update ALL does to the targets of the file.
func (a *admin) imagine(now *running.Config) error {
	if err := a.globals(); err != nil {
		return err
	}
	for _, name := range a.targetNames() {
		kept := 0
		if t := now.Target(name); t != nil {
			kept = t.TID
			a.state.forget(a.state.target(name))
		}
		if err := a.addTarget(name, kept); err != nil {
			return err
		}
	}
	return nil
}

// worthNoting leaves out the remarks that accompany every run.
func worthNoting(note string) bool {
	for _, usual := range []string{"Adding target:", "Write cache is enabled", "default-driver not defined"} {
		if strings.HasPrefix(note, usual) {
			return false
		}
	}
	return true
}
