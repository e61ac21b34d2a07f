package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/conf"
	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/keep"
	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/running"
)

// doSave writes what the daemon has to the file, as one whole configuration: what the file included
// before it includes no more. A daemon that keeps secrets to itself, as tgt's does, lends its accounts
// those of the old file. What cannot be written, or would come out as something else, ends the run
// before anything is touched; --force writes what can be.
func (a *admin) doSave() error {
	if a.saveFile != "" {
		a.file = a.saveFile
	}
	message, err := Save(a.ctx, a.call, SaveOptions{File: a.file, Force: a.force, Now: a.env.Now, Files: a.env.Files,
		Pretend: a.pretend})
	if err != nil {
		return err
	}
	a.print("%s", strings.TrimSuffix(message, "\n"))
	return nil
}

// errEmpty: an empty daemon is more likely one that was just started than a configuration to keep.
var errEmpty = errors.New("the daemon has no target; --force saves that")

// lendSecrets gives accounts without a secret those that the old file has for them.
func lendSecrets(c *running.Config, old *conf.Section) {
	known := map[string]string{}
	note := func(s *conf.Section, keys ...string) {
		for _, key := range keys {
			for _, v := range s.Values[key] {
				if user, secret, ok := userSecret(v.Text); ok && known[user] == "" {
					known[user] = secret
				}
			}
		}
	}
	note(old, "account", "incomingdiscoveryuser", "outgoingdiscoveryuser")
	for _, name := range old.Names("target") {
		note(old.Blocks["target"][name], "incominguser", "outgoinguser")
	}
	for i := range c.Accounts {
		c.Accounts[i].Secret = known[c.Accounts[i].User]
	}
}

// oddities are the reasons why a configuration can't be saved as it is.
func oddities(c *running.Config) []string {
	var list []string
	for _, acc := range c.Accounts {
		if acc.Secret == "" && !c.Whole {
			list = append(list, fmt.Sprintf("account %s: the daemon does not tell its secret, and the old file has none",
				acc.User))
		}
	}
	for _, t := range c.Targets {
		paths := map[string]uint64{}
		for _, u := range t.Units {
			switch {
			case u.LUN == 0:
				if u.Made != nil && len(u.Made.Updates) > 0 {
					list = append(list, fmt.Sprintf("target %s: parameters of the controller, LUN 0", t.Name))
				}
			case u.Path != "" && paths[u.Path] != 0:
				list = append(list, fmt.Sprintf("target %s: LUN %d and LUN %d have one path, %s", t.Name,
					paths[u.Path], u.LUN, u.Path))
			case u.Path != "" && !conf.IsName(u.Path):
				list = append(list, fmt.Sprintf("target %s: LUN %d: the path %q", t.Name, u.LUN, u.Path))
			case u.Made != nil && u.Made.Unsure:
				list = append(list, fmt.Sprintf("target %s: LUN %d: an update failed half way; "+
					"what it set is not known", t.Name, u.LUN))
			}
			paths[u.Path] = u.LUN
		}
	}
	return list
}

// verify reads a text as tgt-admin would and says what would come out differently.
func verify(ctx context.Context, env Env, text string, c *running.Config) ([]string, error) {
	a := &admin{ctx: ctx, env: env, options: options{file: "saved", port: "0"}, port: "0", imagined: true}
	root, err := conf.Parse("saved", memory(text), func(string) {})
	if err != nil {
		return nil, fmt.Errorf("reading what would be saved: %w", err)
	}
	a.conf = root
	a.reserveTIDs()
	want, _, err := a.wish(&running.Config{})
	if err != nil {
		return nil, fmt.Errorf("reading what would be saved: %w", err)
	}
	var list []string
	var flatten func(prefix string, changes []running.Change)
	flatten = func(prefix string, changes []running.Change) {
		for _, ch := range changes {
			switch {
			case len(ch.Below) > 0:
				flatten(prefix+ch.Text+": ", ch.Below)
			case ch.Mark != running.Noted:
				list = append(list, prefix+ch.Text)
			}
		}
	}
	flatten("", running.Diff(c, want))
	for _, acc := range c.Accounts {
		if saved := want.Account(acc.User); saved == nil || c.Whole && saved.Secret != acc.Secret {
			list = append(list, "account "+acc.User)
		}
	}
	return list, nil
}

// memory is a file system of one text.
type memory string

func (m memory) Kind(string) (conf.Kind, error)        { return conf.Plain, nil }
func (m memory) Read(string, int) (string, error)      { return string(m), nil }
func (m memory) List(string) (names []string, _ error) { return nil, nil }

// stampOf is a time as the head of a saved file has it.
func stampOf(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func backupNote(path, backup string) string {
	if backup == "" {
		return "Configuration saved to " + path + ".\n"
	}
	return fmt.Sprintf("Configuration saved to %s.\nThe file before it is %s; the last %d are kept.\n",
		path, backup, keep.Backups)
}
