package lio

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/running"
)

// fabricTarget takes one target.
func (c *converter) fabricTarget(o object) error {
	var fabric, wwn string
	var groups []object
	var parameters object
	if err := o.all(map[string]any{"fabric": &fabric, "wwn": &wwn, "tpgs": &groups, "parameters": &parameters}); err != nil {
		return err
	}
	c.target = ""
	if fabric != "iscsi" {
		c.lost("target %s of fabric %s: only iSCSI is served here", wwn, fabric)
		return nil
	}
	if c.result.Config.Target(wwn) != nil {
		return fmt.Errorf("target %s is there twice", wwn)
	}
	if strings.Trim(wwn, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:.-") != "" || wwn == "" {
		c.lost("target %q: names have letters, digits, colon, dot and hyphen only", wwn)
		return nil
	}
	c.target = wwn
	c.leftovers("target", o)
	if len(groups) == 0 {
		c.lost("the target has no portal group")
		return nil
	}
	for i, g := range groups {
		if i > 0 {
			c.lost("portal group %s: a target has one here, the first; make a target of its own of it", text(g["tag"]))
			continue
		}
		if err := c.group(wwn, g); err != nil {
			return fmt.Errorf("target %s: %w", wwn, err)
		}
	}
	return nil
}

// group is a target portal group, which is what a target is here.
type group struct {
	*converter
	t                        *running.Target
	auth, demo, demoReadOnly bool
	own                      credentials // of the group, for initiators without an entry of their own
	mutual                   credentials
	luns                     map[int]*store
	nodes                    []*node
	nopInterval, nopAnswer   int // seconds
}

// node is an initiator that LIO knows.
type node struct {
	name       string
	in, mutual credentials
	auth       string // "1", "0", or "-1": as the group has it
	mapped     []mapping
}

// mapping is a unit that an initiator sees.
type mapping struct {
	Index   int  `json:"index"`   // its number for the initiator
	LUN     int  `json:"tpg_lun"` // its number in the group
	Protect bool `json:"write_protect"`
}

// groupDefaults are the attributes of a portal group and what LIO sets them to.
func groupDefaults() map[string]string {
	return map[string]string{
		"cache_dynamic_acls": whatever, "default_erl": "0", "demo_mode_discovery": "1", "fabric_prot_type": "0",
		"login_keys_workaround": whatever, "login_timeout": whatever, "netif_timeout": whatever,
		"prod_mode_write_protect": "0", "t10_pi": "0", "tpg_enabled_sendtargets": "1",
	}
}

func (c *converter) group(name string, o object) error {
	g := &group{converter: c, t: &running.Target{Name: name},
		luns: map[int]*store{}, nopInterval: 15, nopAnswer: 30}
	enabled := true
	tag := 0
	var attrs, parameters object
	var luns, acls, portals []object
	if err := o.all(map[string]any{
		"tag": &tag, "enable": &enabled, "attributes": &attrs, "parameters": &parameters, "luns": &luns,
		"node_acls": &acls, "portals": &portals, "chap_userid": &g.own.user, "chap_password": &g.own.secret,
		"chap_mutual_userid": &g.mutual.user, "chap_mutual_password": &g.mutual.secret,
	}); err != nil {
		return err
	}
	g.t.Offline = !enabled
	g.demoReadOnly = true // LIO's default
	g.attributes("portal group", attrs, groupDefaults(), func(attr, value string) bool {
		switch attr {
		case "authentication":
			g.auth = value == "1"
		case "generate_node_acls":
			g.demo = value == "1"
		case "demo_mode_write_protect":
			g.demoReadOnly = value == "1"
		case "default_cmdsn_depth":
			if value != "64" {
				g.param("MaxQueueCmd", value)
			}
		default:
			return false
		}
		return true
	})
	for _, l := range luns {
		if err := g.lun(l); err != nil {
			return fmt.Errorf("luns: %w", err)
		}
	}
	for _, a := range acls {
		if err := g.acl(a); err != nil {
			return fmt.Errorf("node_acls: %w", err)
		}
	}
	if err := g.portals(portals); err != nil {
		return fmt.Errorf("portals: %w", err)
	}
	g.parameters(parameters)
	g.access()
	g.leftovers("portal group", o)
	c.result.Config.Targets = append(c.result.Config.Targets, g.t)
	return nil
}

func (g *group) param(name, value string) {
	g.t.Params = append(g.t.Params, running.Param{Name: name, Value: value})
}

// lun takes one unit of the group.
func (g *group) lun(o object) error {
	var index int
	var path, alias, alua string
	err := o.all(map[string]any{"index": &index, "storage_object": &path, "alias": &alias, "alua_tg_pt_gp_name": &alua})
	if err != nil {
		return err
	}
	s := g.stores[path]
	switch {
	case s == nil:
		g.lost("LUN %d: the file has no backstore %s", index, path)
	case s.refused != "":
		g.lost("LUN %d, backstore %s: %s", index, path, s.refused)
	default:
		g.luns[index] = s
	}
	if alua != "" && alua != "default_tg_pt_gp" {
		g.lost("LUN %d: ALUA group %s has no equivalent", index, alua)
	}
	g.leftovers(fmt.Sprintf("LUN %d", index), o)
	return nil
}

// nodeDefaults are the attributes of an initiator's entry and what LIO sets them to.
func nodeDefaults() map[string]string {
	return map[string]string{
		"dataout_timeout": "3", "dataout_timeout_retries": "5", "default_erl": "0", "random_datain_pdu_offsets": "0",
		"random_datain_seq_offsets": "0", "random_r2t_offsets": "0",
	}
}

// acl takes the entry of one initiator.
func (g *group) acl(o object) error {
	n := &node{auth: "-1"}
	var attrs object
	var tag string
	var depth int
	if err := o.all(map[string]any{
		"node_wwn": &n.name, "attributes": &attrs, "mapped_luns": &n.mapped, "tag": &tag, "tcq_depth": &depth,
		"chap_userid": &n.in.user, "chap_password": &n.in.secret,
		"chap_mutual_userid": &n.mutual.user, "chap_mutual_password": &n.mutual.secret,
	}); err != nil {
		return err
	}
	what := "initiator " + n.name
	g.attributes(what, attrs, nodeDefaults(), func(attr, value string) bool {
		switch attr {
		case "authentication":
			n.auth = value
		case "nopin_timeout":
			g.nopInterval, _ = strconv.Atoi(value)
		case "nopin_response_timeout":
			g.nopAnswer, _ = strconv.Atoi(value)
		default:
			return false
		}
		return true
	})
	if depth != 0 && depth != 64 {
		g.lost("%s: tcq_depth=%d: the depth is the target's (MaxQueueCmd)", what, depth)
	}
	slices.SortFunc(n.mapped, func(a, b mapping) int { return cmp.Compare(a.Index, b.Index) })
	g.nodes = append(g.nodes, n)
	g.leftovers(what, o)
	return nil
}

// portals takes the addresses. Here they are the daemon's and not a target's.
func (g *group) portals(list []object) error {
	var own []string
	for _, o := range list {
		var address string
		var port int
		var rdma, offload bool
		if err := o.all(map[string]any{"ip_address": &address, "port": &port, "iser": &rdma, "offload": &offload}); err != nil {
			return err
		}
		address = strings.Trim(address, "[]")
		if ip := net.ParseIP(address); ip != nil {
			address = ip.String()
		}
		if rdma || offload {
			g.lost("portal %s: no iSER and no offload", address)
			continue
		}
		own = append(own, net.JoinHostPort(address, strconv.Itoa(port)))
		g.leftovers("portal "+address, o)
	}
	all := &g.result.Config.Portals
	for _, p := range own {
		if !slices.Contains(*all, p) {
			if len(g.result.Config.Targets) > 0 {
				g.lost("portal %s: other targets do not have it, but here portals are of all targets", p)
			}
			*all = append(*all, p)
		}
	}
	for _, p := range *all {
		if !slices.Contains(own, p) {
			g.lost("portal %s is of another target, but here portals are of all targets", p)
		}
	}
	return nil
}

// parameters takes the iSCSI keys that are not tgt's default.
func (g *group) parameters(o object) {
	for _, name := range sortedKeys(o) {
		value := text(o[name])
		standard, known := running.DefaultParam(name)
		switch {
		case name == "AuthMethod":
			// follows from there being accounts
		case name == "TargetAlias":
			if value != "LIO Target" {
				g.lost("TargetAlias %s: there is none here", value)
			}
		case strings.HasPrefix(name, "IFMark"), strings.HasPrefix(name, "OFMark"):
			// RFC 7143 13.24: markers are gone
		case !known:
			g.lost("parameter %s=%s is not known here", name, value)
		case strings.HasSuffix(name, "Digest") && strings.Contains(value, "CRC32C"):
			g.param(name, "CRC32C") // None stays possible with it
		case value != standard:
			g.param(name, value)
		}
	}
}
