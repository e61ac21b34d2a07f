// Package lio reads saveconfig.json, in which targetcli keeps the configuration of LIO, the target in the
// Linux kernel, and says what the same is for tgtd. What has no equivalent becomes a remark with its
// reason.
//
// One rule stands above being alike: nobody gets more than LIO gave him. LIO shows each initiator units
// of its own choice and has an account for each; a tgt target shows all its units to all who get in, and
// takes any of its accounts from any of its initiators. So initiators that saw the same units come
// together into one target, each by its name and with its account; one that saw other units, or whose
// account cannot be written, is left out, and a target that would come to be open is left offline.
package lio

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/running"
)

// maxBytes bounds a file.
const maxBytes = 64 << 20

// Remark is something worth knowing about the conversion.
type Remark struct {
	Target string // the target it is about; empty: the configuration as a whole
	Lost   bool   // LIO's setting has no effect any more; else it is kept in another way
	Text   string
}

// Result is what a saveconfig.json amounts to.
type Result struct {
	Config  *running.Config
	Remarks []Remark
}

// Convert reads a saveconfig.json. Errors name what is wrong with the file.
func Convert(r io.Reader) (*Result, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading LIO's configuration: %w", err)
	}
	if len(b) > maxBytes {
		return nil, fmt.Errorf("LIO's configuration is larger than %d bytes", maxBytes)
	}
	var top object
	if err := json.Unmarshal(b, &top); err != nil {
		return nil, fmt.Errorf("reading LIO's configuration: %w", err)
	}
	c := &converter{result: Result{Config: &running.Config{Whole: true}}, stores: map[string]*store{}}
	if err := c.top(top); err != nil {
		return nil, fmt.Errorf("reading LIO's configuration: %w", err)
	}
	return &c.result, nil
}

// object is a JSON object of which keys are taken one by one, so that what is left can be named.
type object map[string]json.RawMessage

// take decodes the value of a key, which then is gone; a key that is not there leaves to as it is.
func (o object) take(key string, to any) error {
	raw, ok := o[key]
	if !ok {
		return nil
	}
	delete(o, key)
	if err := json.Unmarshal(raw, to); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// all takes several keys.
func (o object) all(to map[string]any) error {
	keys := make([]string, 0, len(to))
	for key := range to {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		if err := o.take(key, to[key]); err != nil {
			return err
		}
	}
	return nil
}

// text is a value as it is compared: 1 and "1" are one, and so are true and 1.
func text(raw json.RawMessage) string {
	s := strings.Trim(string(raw), `"`)
	switch s {
	case "true":
		return "1"
	case "false":
		return "0"
	}
	return s
}

// converter is one conversion.
type converter struct {
	result Result
	stores map[string]*store // by the path that LUNs name them by
	target string            // the one at hand, for remarks
}

func (c *converter) lost(format string, values ...any) {
	c.result.Remarks = append(c.result.Remarks, Remark{c.target, true, fmt.Sprintf(format, values...)})
}

func (c *converter) note(format string, values ...any) {
	c.result.Remarks = append(c.result.Remarks, Remark{c.target, false, fmt.Sprintf(format, values...)})
}

// leftovers remarks on the keys of an object that nothing has taken and that are not empty.
func (c *converter) leftovers(what string, o object) {
	for _, key := range sortedKeys(o) {
		switch value := string(o[key]); value {
		case "null", `""`, "[]", "{}":
		default:
			c.lost("%s: %s %s is not known here", what, key, text(o[key]))
		}
	}
}

func sortedKeys(o object) []string {
	keys := make([]string, 0, len(o))
	for key := range o {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// attributes compares attributes with LIO's defaults and calls use for those that mean something here;
// use says whether it knew the name. The rest is remarked on where it is not the default.
func (c *converter) attributes(what string, attrs object, defaults map[string]string, use func(name, value string) bool) {
	for _, name := range sortedKeys(attrs) {
		value := text(attrs[name])
		standard, known := defaults[name]
		switch {
		case use(name, value):
		case known && (standard == whatever || standard == value):
		case known:
			c.lost("%s: attribute %s=%s has no equivalent (LIO's default is %s)", what, name, value, standard)
		default:
			c.lost("%s: attribute %s=%s is not known here", what, name, value)
		}
	}
}

// whatever in place of a default: the value makes no difference here, such as a limit of the hardware.
const whatever = "any"

func (c *converter) top(top object) error {
	var modules, stores, targets []object
	for key, to := range map[string]*[]object{"fabric_modules": &modules, "storage_objects": &stores, "targets": &targets} {
		if err := top.take(key, to); err != nil {
			return err
		}
	}
	for i, o := range stores {
		if err := c.store(o); err != nil {
			return fmt.Errorf("storage_objects[%d]: %w", i, err)
		}
	}
	for i, o := range modules {
		if err := c.module(o); err != nil {
			return fmt.Errorf("fabric_modules[%d]: %w", i, err)
		}
	}
	for i, o := range targets {
		if err := c.fabricTarget(o); err != nil {
			return fmt.Errorf("targets[%d]: %w", i, err)
		}
	}
	// The order in which tgt-admin makes them gives them their numbers.
	list := c.result.Config.Targets
	slices.SortFunc(list, func(a, b *running.Target) int { return strings.Compare(a.Name, b.Name) })
	for i, t := range list {
		t.TID = i + 1
	}
	c.target = ""
	for _, path := range sortedStores(c.stores) {
		if s := c.stores[path]; !s.used && s.refused == "" {
			c.lost("backstore %s (%s) is a LUN of no target", path, s.dev)
		}
	}
	c.leftovers("the file", top)
	return nil
}

func sortedStores(stores map[string]*store) []string {
	var paths []string
	for p := range stores {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

// module takes the authentication of discovery.
func (c *converter) module(o object) error {
	var name string
	var enabled bool
	var in, out credentials
	if err := o.all(map[string]any{
		"name": &name, "discovery_enable_auth": &enabled, "discovery_userid": &in.user, "discovery_password": &in.secret,
		"discovery_mutual_userid": &out.user, "discovery_mutual_password": &out.secret,
	}); err != nil {
		return err
	}
	if name == "iscsi" && enabled {
		d := &c.result.Config.Discovery
		if c.account("discovery", in) {
			d.Incoming = append(d.Incoming, in.user)
		} else {
			c.lost("discovery: it was protected, and here it is not: set incomingdiscoveryuser")
		}
		if out.user != "" && c.account("discovery", out) {
			d.Outgoing, d.HasOutgoing = out.user, true
		}
	}
	c.leftovers("fabric "+name, o)
	return nil
}

// credentials are a CHAP account as LIO has it.
type credentials struct{ user, secret string }

// account makes an account, or says that there is one already; false: it cannot be, and the reason is
// remarked.
func (c *converter) account(what string, k credentials) bool {
	switch {
	case k.user == "" || k.secret == "":
		c.lost("%s: no user and secret", what)
		return false
	case strings.ContainsAny(k.user, " ,\t\r\n") || strings.ContainsAny(k.secret, " \t\r\n"):
		c.lost("%s: user %q or its secret holds a blank, a comma or a line end, which targets.conf can't hold", what, k.user)
		return false
	}
	if old := c.result.Config.Account(k.user); old != nil {
		if old.Secret != k.secret {
			c.lost("%s: user %s has another secret elsewhere, and here a user has one", what, k.user)
			return false
		}
		return true
	}
	c.result.Config.Accounts = append(c.result.Config.Accounts, running.Account{User: k.user, Secret: k.secret})
	return true
}
