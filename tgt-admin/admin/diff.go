package admin

import (
	"fmt"
	"strconv"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/running"
)

// controlPort reads a control port, 0 to 32767.
func controlPort(text string) (int, error) {
	n, err := strconv.ParseUint(text, 0, 15)
	if err != nil {
		return 0, fmt.Errorf("control port %q is no number from 0 to 32767", text)
	}
	return int(n), nil
}

// doDiff shows what --update or -e would change, as +, - and ~. Nothing is changed. It ends with
// statusDiffers where something would be.
func (a *admin) doDiff() error {
	if err := a.load(); err != nil {
		return err
	}
	now, err := running.Read(a.ctx, a.call)
	if err != nil {
		return fmt.Errorf("comparing with the daemon: %w", err)
	}
	want, notes, err := a.wish(now)
	if err != nil {
		return err
	}
	var changes []running.Change
	for _, n := range notes {
		changes = append(changes, running.Change{Mark: running.Noted, Text: n})
	}
	switch {
	case a.execute:
		changes = append(changes, a.executeDiff(now, want)...)
	case *a.update == "ALL":
		changes = append(changes, a.busy(now, running.Diff(now, want))...)
	default:
		one, err := a.oneDiff(now, want)
		if err != nil {
			return err
		}
		changes = append(changes, one...)
	}
	if err := running.Print(a.env.Stdout, changes); err != nil {
		return err
	}
	if !running.Real(changes) {
		a.print("Nothing would change.")
		return nil
	}
	return exit(statusDiffers)
}

// executeDiff is what -e does: targets come and go, those on both sides are left as they are.
func (a *admin) executeDiff(now, want *running.Config) []running.Change {
	all := running.Diff(now, want)
	if len(want.Targets) == 0 {
		// an empty file removes nothing
		kept := *now
		kept.Targets = nil
		all = running.Diff(&kept, want)
	}
	var changes []running.Change
	for _, c := range a.busy(now, all) {
		if t := targetOf(c.Text, now); c.Mark == running.Changed && t != nil && want.Target(t.Name) != nil {
			c.Mark, c.Text = running.Noted, c.Text+" differs; -e leaves it, --update would remake it"
		}
		changes = append(changes, c)
	}
	return changes
}

// busy notes the targets with sessions that a run without --force leaves alone.
func (a *admin) busy(now *running.Config, changes []running.Change) []running.Change {
	for i := range changes {
		c := &changes[i]
		t := targetOf(c.Text, now)
		if c.Mark == running.Noted || t == nil || len(t.Sessions) == 0 {
			continue
		}
		note := fmt.Sprintf("it is in use (sessions: %d): without --force it stays as it is", len(t.Sessions))
		if a.force {
			note = fmt.Sprintf("it is in use (sessions: %d): they will be closed", len(t.Sessions))
		}
		c.Below = append(c.Below, running.Change{Mark: running.Noted, Text: note})
	}
	return changes
}

// targetOf finds the target of the daemon that a line of Diff is about.
func targetOf(text string, now *running.Config) *running.Target {
	for _, t := range now.Targets {
		if text == fmt.Sprintf("target %s (tid %d)", t.Name, t.TID) {
			return t
		}
	}
	return nil
}

// oneDiff is --update with one target.
func (a *admin) oneDiff(now, want *running.Config) ([]running.Change, error) {
	name := *a.update
	if tid, ok := byTID(name); ok {
		name = ""
		for _, t := range now.Targets {
			if strconv.Itoa(t.TID) == tid {
				name = t.Name
			}
		}
		if name == "" {
			return nil, a.fail("There is no target with tid %s, can't continue!", tid)
		}
	}
	if now.Target(name) == nil && want.Target(name) == nil {
		return nil, a.fail("Target %s is currently not configured\n"+
			"and does not exist in the config file - can't continue!", name)
	}
	only := func(c *running.Config) *running.Config {
		one := *c
		one.Targets = nil
		if t := c.Target(name); t != nil {
			one.Targets = []*running.Target{t}
		}
		return &one
	}
	return a.busy(now, running.Diff(only(now), only(want))), nil
}
