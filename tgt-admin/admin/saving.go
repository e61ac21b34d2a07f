package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/conf"
	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/keep"
	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/running"
)

// DefaultFile is what is read and saved where nothing else is named.
const DefaultFile = defaultConf

// SaveOptions say how a configuration is saved.
type SaveOptions struct {
	File    string // where to
	Force   bool   // save what can be, and an empty daemon
	Pretend bool   // return the text and write nothing
	Now     func() time.Time
	Files   conf.Files // where the old configuration is read from
}

// Save writes what the daemon has as targets.conf and returns what there is to say about it, or with
// Pretend the text. A daemon without targets, and one with something that targets.conf cannot hold, are
// errors without Force. The file that was there becomes a dated backup (package keep).
func Save(ctx context.Context, call running.Call, o SaveOptions) (string, error) {
	c, err := running.Read(ctx, call)
	if err != nil {
		return "", fmt.Errorf("saving the configuration: %w", err)
	}
	if len(c.Targets) == 0 && !o.Force {
		return "", fmt.Errorf("saving the configuration: %w", errEmpty)
	}
	if !c.Whole {
		old, err := conf.Parse(o.File, o.Files, func(string) {})
		var missing *conf.Error
		switch {
		case err == nil:
			lendSecrets(c, old)
		case errors.As(err, &missing), !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("looking for secrets in the old configuration: %w", err)
		}
	}
	lost := oddities(c)
	text := textOf(c, stampOf(o.Now()), lost)
	env := Env{Files: o.Files}
	env.Stdout, env.Stderr = io.Discard, io.Discard
	env.LookupEnv = func(string) (string, bool) { return "", false }
	differs, err := verify(ctx, env, text, c)
	if err != nil {
		return "", err
	}
	if len(lost) == 0 { // else it is said better already
		for _, d := range differs {
			lost = append(lost, d+": targets.conf can't hold it")
		}
	}
	if len(lost) > 0 && !o.Force {
		return "", fmt.Errorf("saving the configuration; --force leaves out:\n  %s", strings.Join(lost, "\n  "))
	}
	if o.Pretend {
		return text, nil
	}
	backup, err := keep.Write(o.File, text, o.Now())
	if err != nil {
		return "", fmt.Errorf("saving to %s: %w", o.File, err)
	}
	return backupNote(o.File, backup), nil
}

// textOf writes a configuration without what cannot be written.
func textOf(c *running.Config, stamp string, lost []string) string {
	writable := *c
	writable.Targets = nil
	for _, t := range c.Targets {
		one := *t
		paths := map[string]bool{}
		one.Units = slices.DeleteFunc(slices.Clone(t.Units), func(u *running.Unit) bool {
			bad := u.Path != "" && (paths[u.Path] || !conf.IsName(u.Path))
			paths[u.Path] = true
			return bad
		})
		writable.Targets = append(writable.Targets, &one)
	}
	d := &document{config: &writable, keepTIDs: true, remarks: map[string][]string{"": nil}}
	d.head = "The configuration of tgtd as it ran at " + stamp + ", saved by tgt-admin.\n" +
		"Files that were included before are included no more: all of it is here.\n" +
		"portal, account and target-parameter are additions of this tgt-admin; others pass over them."
	for _, l := range lost {
		d.remarks[""] = append(d.remarks[""], "NOT SAVED: "+l)
	}
	return d.text()
}
