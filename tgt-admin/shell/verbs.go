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

// verb is a command of the shell.
type verb struct {
	name, args, help string
	do               func(*job, context.Context) error
}

// verbs are all commands, as help lists them.
func verbs() []verb {
	return []verb{
		{"cd", "[PATH]", "go to a place; without a path to the root", (*job).cd},
		{"create", "...", "make something in this folder: see help create", (*job).create},
		{"delete", "[NAME] [force]", "delete what has that name in this folder, or this place itself", (*job).delete},
		{"disable", "", "take this target, LUN or daemon offline", (*job).disable},
		{"enable", "", "make this target, LUN or daemon ready", (*job).enable},
		{"exit", "", "leave the shell (so does the end of the input)", func(*job, context.Context) error { return ErrExit }},
		{"get", "[NAME...]", "show the parameters of this target, LUN or daemon", (*job).get},
		{"help", "[create]", "this text", (*job).help},
		{"info", "", "all about this place", (*job).info},
		{"ls", "[PATH]", "draw the tree from here down", (*job).ls},
		{"pwd", "", "say where this is", (*job).pwd},
		{"quit", "", "leave the shell", func(*job, context.Context) error { return ErrExit }},
		{"saveconfig", "[FILE] [force]", "save the configuration; the file before it is kept with its date", (*job).save},
		{"sessions", "", "list the sessions of this target, or of all", (*job).sessions},
		{"set", "NAME=VALUE...", "set parameters of this target, LUN or daemon", (*job).set},
	}
}

func find(name string) (verb, bool) {
	all := verbs()
	i := slices.IndexFunc(all, func(v verb) bool { return v.name == name })
	if i < 0 {
		return verb{}, false
	}
	return all[i], true
}

const helpCreate = `create in:
  /targets                NAME [tid=N]
  /targets/NAME/luns      PATH [lun=N] [type=disk|cd|tape|changer|pt] [bstype=TYPE] [bsopts=..] [bsoflags=..] [blocksize=N]
                          PATH none: a drive without a medium
  /targets/NAME/acls      an address, a net, ALL, or the name of an initiator
  /targets/NAME/accounts  USER [SECRET] [outgoing]: bind an account, made with the secret if one is given
  /accounts               USER SECRET
  /discovery              USER [SECRET] [outgoing]
  /portals                ADDRESS[:PORT]
  /volumes                NAME SIZE, as in: vol001 10G
`

func (j *job) help(context.Context) error {
	if len(j.args) > 0 && j.args[0] == "create" {
		j.printf("%s", helpCreate)
		return nil
	}
	j.printf("[PATH] COMMAND [ARGUMENTS]: a path in front does the command there; a path alone goes there.\n")
	for _, v := range verbs() {
		j.printf("  %-28s %s\n", strings.TrimSpace(v.name+" "+v.args), v.help)
	}
	return nil
}

func (j *job) pwd(context.Context) error {
	j.printf("%s\n", join(j.at))
	return nil
}

// path is the place that the first argument names, else where the command works.
func (j *job) path() ([]string, error) {
	if len(j.args) > 1 {
		return nil, errors.New("one path at most")
	}
	if len(j.args) == 0 {
		return j.at, nil
	}
	inner := &Shell{Options: j.Options, at: j.at}
	return inner.resolve(j.args[0])
}

func (j *job) cd(ctx context.Context) error {
	path, err := j.path()
	if err != nil {
		return err
	}
	if len(j.args) == 0 {
		path = nil
	}
	if err := j.exists(ctx, path); err != nil {
		return err
	}
	j.Shell.at = path
	return nil
}

func (j *job) ls(ctx context.Context) error {
	path, err := j.path()
	if err != nil {
		return err
	}
	if err := j.exists(ctx, path); err != nil {
		return err
	}
	c, err := j.config(ctx)
	if err != nil {
		return err
	}
	node := c.Tree()
	if j.Volumes != nil {
		list, err := j.volumes(ctx)
		if err != nil {
			return err
		}
		v := &running.Node{Name: "volumes", Note: fmt.Sprintf("volumes: %d", len(list))}
		for _, one := range list {
			v.Below = append(v.Below, &running.Node{Name: one.Name, Note: fmt.Sprintf("%d bytes", one.Bytes)})
		}
		node.Below = append(node.Below, v)
	}
	for _, element := range path {
		i := slices.IndexFunc(node.Below, func(n *running.Node) bool { return n.Name == element })
		if i < 0 {
			j.printf("o- %s\n", path[len(path)-1])
			return nil
		}
		node = node.Below[i]
	}
	return node.Print(j.Out)
}

// target finds the target that a path is in.
func (j *job) target(ctx context.Context) (*running.Target, error) {
	if len(j.at) < 2 || j.at[0] != "targets" {
		return nil, fmt.Errorf("%s is no target and not below one", join(j.at))
	}
	c, err := j.config(ctx)
	if err != nil {
		return nil, err
	}
	t := c.Target(j.at[1])
	if t == nil {
		return nil, fmt.Errorf("no target %s", j.at[1])
	}
	return t, nil
}

func (j *job) info(ctx context.Context) error {
	if err := j.exists(ctx, j.at); err != nil {
		return err
	}
	switch kindOf(j.at) {
	case target, lun:
		if err := j.get(ctx); err != nil {
			return err
		}
	}
	return (&job{Shell: j.Shell, at: j.at}).ls(ctx)
}

func (j *job) sessions(ctx context.Context) error {
	c, err := j.config(ctx)
	if err != nil {
		return err
	}
	n := 0
	for _, t := range c.Targets {
		if len(j.at) > 1 && j.at[0] == "targets" && j.at[1] != t.Name {
			continue
		}
		for _, s := range t.Sessions {
			j.printf("%s session %s: %s from %s\n", t.Name, s.SID, s.Initiator, s.Address)
			n++
		}
	}
	if n == 0 {
		j.printf("(no sessions)\n")
	}
	return nil
}

func (j *job) save(ctx context.Context) error {
	file, force := "", false
	for _, a := range j.args {
		switch {
		case a == "force":
			force = true
		case file != "":
			return errors.New("one file at most")
		default:
			file = a
		}
	}
	text, err := j.Save(ctx, file, force)
	if err != nil {
		return err
	}
	j.printf("%s", text)
	return nil
}

func (j *job) get(ctx context.Context) error {
	c, err := j.config(ctx)
	if err != nil {
		return err
	}
	var list []running.Param
	switch kindOf(j.at) {
	case root:
		list = []running.Param{{Name: "State", Value: readiness(c.Offline)}, {Name: "iSNS", Value: c.ISNS.On},
			{Name: "iSNSServerIP", Value: c.ISNS.Server}, {Name: "iSNSServerPort", Value: c.ISNS.Port},
			{Name: "iSNSAccessControl", Value: c.ISNS.AccessControl}}
	case target, lun:
		t, err := j.target(ctx)
		if err != nil {
			return err
		}
		list = t.Params
		if kindOf(j.at) == lun {
			if list, err = unitParams(t, j.at[3]); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("%s has no parameters", join(j.at))
	}
	for _, name := range j.args {
		if !slices.ContainsFunc(list, func(p running.Param) bool { return p.Name == name }) {
			return fmt.Errorf("no parameter %s here", name)
		}
	}
	for _, p := range list {
		if len(j.args) == 0 || slices.Contains(j.args, p.Name) {
			j.printf("%s=%s\n", p.Name, p.Value)
		}
	}
	return nil
}

func readiness(offline bool) string {
	if offline {
		return "offline"
	}
	return "ready"
}

func yesNo(v bool) string {
	if v {
		return "1"
	}
	return "0"
}

// unitParams is what is known of a unit.
func unitParams(t *running.Target, number string) ([]running.Param, error) {
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || t.Unit(n) == nil {
		return nil, fmt.Errorf("target %s has no LUN %s", t.Name, number)
	}
	u := t.Unit(n)
	list := []running.Param{{Name: "type", Value: u.Type}, {Name: "scsi_id", Value: u.ID}, {Name: "scsi_sn", Value: u.SN},
		{Name: "size", Value: u.Size}, {Name: "blocksize", Value: u.Block}, {Name: "online", Value: yesNo(u.Online)},
		{Name: "removable", Value: yesNo(u.Removable)}, {Name: "readonly", Value: yesNo(u.ReadOnly)},
		{Name: "thin_provisioning", Value: yesNo(u.Thin)}, {Name: "bstype", Value: u.Store}, {Name: "path", Value: u.Path},
		{Name: "bsoflags", Value: u.Flags}}
	if u.Made == nil {
		return list, nil
	}
	for _, p := range u.Made.Updates {
		name, value, _ := strings.Cut(p, "=")
		if !slices.ContainsFunc(list, func(old running.Param) bool { return old.Name == name }) {
			list = append(list, running.Param{Name: name, Value: value})
		}
	}
	return list, nil
}
