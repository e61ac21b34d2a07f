package shell

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/running"
)

// options divides arguments into words and NAME=VALUE with one of the names. A word that only looks
// like one, a path with an equals sign, stays a word.
func options(args []string, names ...string) (words []string, values map[string]string) {
	values = map[string]string{}
	for _, a := range args {
		name, value, ok := strings.Cut(a, "=")
		if ok && slices.Contains(names, name) {
			values[name] = value
			continue
		}
		words = append(words, a)
	}
	return words, values
}

func (j *job) create(ctx context.Context) error {
	switch kindOf(j.at) {
	case targets:
		return j.createTarget(ctx)
	case luns:
		return j.createUnit(ctx)
	case acls:
		return j.createRule(ctx)
	case bound, discovery:
		return j.createBound(ctx)
	case accounts:
		if len(j.args) != 2 {
			return errors.New("create USER SECRET")
		}
		return j.tgtadm(ctx, "--op", "new", "--mode", "account", "--user", j.args[0], "--password", j.args[1])
	case portals:
		if len(j.args) != 1 {
			return errors.New("create ADDRESS[:PORT]")
		}
		return j.tgtadm(ctx, "--op", "new", "--mode", "portal", "--params", "portal="+j.args[0])
	case volumes:
		if len(j.args) != 2 {
			return errors.New("create NAME SIZE")
		}
		if j.Volumes == nil {
			return errors.New("there is no PSS cell here")
		}
		return j.Volumes.Create(ctx, j.args[0], j.args[1])
	}
	return fmt.Errorf("nothing can be made in %s; help create says where", join(j.at))
}

func (j *job) createTarget(ctx context.Context) error {
	words, values := options(j.args, "tid")
	if len(words) != 1 {
		return errors.New("create NAME [tid=N]")
	}
	tid := values["tid"]
	if tid == "" {
		c, err := j.config(ctx)
		if err != nil {
			return err
		}
		largest := 0
		for _, t := range c.Targets {
			largest = max(largest, t.TID)
		}
		tid = strconv.Itoa(largest + 1)
	}
	if err := j.tgtadm(ctx, "--op", "new", "--mode", "target", "--tid", tid, "-T", words[0]); err != nil {
		return err
	}
	j.printf("Target %s: %s. Nobody is let in before there is a rule in its acls.\n", tid, words[0])
	return nil
}

func (j *job) createUnit(ctx context.Context) error {
	words, values := options(j.args, "lun", "type", "bstype", "bsopts", "bsoflags", "blocksize")
	if len(words) != 1 {
		return errors.New("create PATH [lun=N] [type=..] [bstype=..] [bsopts=..] [bsoflags=..] [blocksize=N]")
	}
	t, err := j.target(ctx)
	if err != nil {
		return err
	}
	number := values["lun"]
	if number == "" {
		n := uint64(1)
		for t.Unit(n) != nil {
			n++
		}
		number = strconv.FormatUint(n, 10)
	}
	line := []string{"--op", "new", "--mode", "lu", "--tid", strconv.Itoa(t.TID), "--lun", number}
	if words[0] != "none" {
		line = append(line, "-b", words[0])
	}
	for _, o := range []struct{ name, option string }{
		{"type", "-Y"}, {"bstype", "-E"}, {"bsopts", "-S"}, {"bsoflags", "-f"}, {"blocksize", "-y"},
	} {
		if v := values[o.name]; v != "" {
			line = append(line, o.option, v)
		}
	}
	if err := j.tgtadm(ctx, line...); err != nil {
		return err
	}
	j.printf("LUN %s: %s\n", number, words[0])
	return nil
}

// ruleOption is the option of bind and unbind that a rule goes with.
func ruleOption(rule string) string {
	if isInitiator(rule) {
		return "-Q"
	}
	return "-I"
}

func (j *job) createRule(ctx context.Context) error {
	if len(j.args) != 1 {
		return errors.New("create ADDRESS, NET, ALL or the NAME of an initiator")
	}
	t, err := j.target(ctx)
	if err != nil {
		return err
	}
	return j.tgtadm(ctx, "--op", "bind", "--mode", "target", "--tid", strconv.Itoa(t.TID),
		ruleOption(j.args[0]), j.args[0])
}

// bindingLine is a command line on the accounts of the target, or of discovery, that the place is in.
func (j *job) bindingLine(ctx context.Context, op, user string) ([]string, error) {
	line := []string{"--op", op, "--mode", "account", "--user", user}
	if j.at[0] == "targets" {
		t, err := j.target(ctx)
		if err != nil {
			return nil, err
		}
		line = append(line, "--tid", strconv.Itoa(t.TID))
	}
	return line, nil
}

func (j *job) createBound(ctx context.Context) error {
	words := j.args
	outgoing := len(words) > 1 && words[len(words)-1] == "outgoing"
	if outgoing {
		words = words[:len(words)-1]
	}
	if len(words) != 1 && len(words) != 2 {
		return errors.New("create USER [SECRET] [outgoing]")
	}
	line, err := j.bindingLine(ctx, "bind", words[0])
	if err != nil {
		return err
	}
	if outgoing {
		line = append(line, "--outgoing")
	}
	if len(words) == 2 {
		if err := j.tgtadm(ctx, "--op", "new", "--mode", "account", "--user", words[0], "--password", words[1]); err != nil {
			return err
		}
	}
	err = j.tgtadm(ctx, line...)
	if err != nil && len(words) == 2 {
		// the account was made for this alone
		err = errors.Join(err, j.tgtadm(ctx, "--op", "delete", "--mode", "account", "--user", words[0]))
	}
	return err
}

// delete deletes what its argument names in the folder, or the place itself.
func (j *job) delete(ctx context.Context) error {
	args := j.args
	force := len(args) > 0 && args[len(args)-1] == "force"
	if force {
		args = args[:len(args)-1]
	}
	path := j.at
	switch len(args) {
	case 0:
	case 1:
		inner := &Shell{Options: j.Options, at: j.at}
		var err error
		if path, err = inner.resolve(args[0]); err != nil {
			return err
		}
	default:
		return errors.New("one name at most")
	}
	if err := j.exists(ctx, path); err != nil {
		return err
	}
	at := &job{Shell: j.Shell, at: path}
	if err := at.deleteHere(ctx, force); err != nil {
		return err
	}
	if len(j.Shell.at) >= len(path) && slices.Equal(j.Shell.at[:len(path)], path) {
		j.Shell.at = path[:len(path)-1] // what the shell stood in is gone
	}
	return nil
}

func (j *job) deleteHere(ctx context.Context, force bool) error {
	name := ""
	if len(j.at) > 0 {
		name = j.at[len(j.at)-1]
	}
	switch kindOf(j.at) {
	case target, lun, acl, boundUser, session:
		t, err := j.target(ctx)
		if err != nil {
			return err
		}
		return j.deleteOf(ctx, t, name, force)
	case account:
		return j.tgtadm(ctx, "--op", "delete", "--mode", "account", "--user", name)
	case discoveryUser:
		c, err := j.config(ctx)
		if err != nil {
			return err
		}
		return j.unbind(ctx, c.Discovery, name)
	case portal:
		return j.tgtadm(ctx, "--op", "delete", "--mode", "portal", "--params", "portal="+name)
	case volume:
		return j.Volumes.Delete(ctx, name)
	}
	return fmt.Errorf("%s cannot be deleted", join(j.at))
}

// deleteOf deletes a target or something of it.
func (j *job) deleteOf(ctx context.Context, t *running.Target, name string, force bool) error {
	tid := strconv.Itoa(t.TID)
	switch kindOf(j.at) {
	case lun:
		return j.tgtadm(ctx, "--op", "delete", "--mode", "lu", "--tid", tid, "--lun", name)
	case acl:
		option := "-I"
		if slices.Contains(t.ByName, name) && !slices.Contains(t.ByAddress, name) {
			option = "-Q"
		}
		return j.tgtadm(ctx, "--op", "unbind", "--mode", "target", "--tid", tid, option, name)
	case boundUser:
		return j.unbind(ctx, t.Accounts, name)
	case session:
		for _, s := range t.Sessions {
			if s.SID == name {
				return j.tgtadm(ctx, "--op", "delete", "--mode", "conn", "--tid", tid, "--sid", s.SID, "--cid", s.CID)
			}
		}
		return fmt.Errorf("no session %s", name)
	}
	line := []string{"--op", "delete", "--mode", "target", "--tid", tid}
	if force {
		line = append(line, "--force")
	}
	return j.tgtadm(ctx, line...)
}

// unbind ends the bindings of an account, in each direction it has.
func (j *job) unbind(ctx context.Context, b running.Bound, user string) error {
	line, err := j.bindingLine(ctx, "unbind", user)
	if err != nil {
		return err
	}
	if slices.Contains(b.Incoming, user) {
		if err := j.tgtadm(ctx, line...); err != nil {
			return err
		}
	}
	if b.HasOutgoing && b.Outgoing == user {
		return j.tgtadm(ctx, append(line, "--outgoing")...)
	}
	return nil
}

func (j *job) enable(ctx context.Context) error  { return j.ready(ctx, "ready", "1") }
func (j *job) disable(ctx context.Context) error { return j.ready(ctx, "offline", "0") }

func (j *job) ready(ctx context.Context, state, online string) error {
	switch kindOf(j.at) {
	case root:
		return j.setAll(ctx, "State="+state)
	case target:
		return j.setAll(ctx, "state="+state)
	case lun:
		return j.setAll(ctx, "online="+online)
	}
	return fmt.Errorf("%s has no state", join(j.at))
}

func (j *job) set(ctx context.Context) error {
	if len(j.args) == 0 {
		return errors.New("set what? NAME=VALUE, one or more")
	}
	return j.setAll(ctx, j.args...)
}

// setAll sets parameters one by one, up to the first that fails.
func (j *job) setAll(ctx context.Context, params ...string) error {
	for _, p := range params {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return fmt.Errorf("%q is no NAME=VALUE", p)
		}
		if err := j.setOne(ctx, name, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (j *job) setOne(ctx context.Context, name, value string) error {
	if kindOf(j.at) == root {
		return j.tgtadm(ctx, "--op", "update", "--mode", "sys", "--name", name, "--value="+value)
	}
	k := kindOf(j.at)
	if k != target && k != lun {
		return fmt.Errorf("%s has no parameters", join(j.at))
	}
	t, err := j.target(ctx)
	if err != nil {
		return err
	}
	tid := strconv.Itoa(t.TID)
	if k == lun {
		return j.tgtadm(ctx, "--op", "update", "--mode", "lu", "--tid", tid, "--lun", j.at[3], "--params="+name+"="+value)
	}
	return j.tgtadm(ctx, "--op", "update", "--mode", "target", "--tid", tid, "--name", name, "--value="+value)
}
