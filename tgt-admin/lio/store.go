package lio

import (
	"regexp"

	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/running"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// store is a storage object as a unit can stand on it.
type store struct {
	path, dev string
	made      running.Made // without what each LUN adds
	refused   string       // why it cannot be one
	used      bool
}

// storeDefaults are the attributes of storage objects and what LIO sets them to.
func storeDefaults() map[string]string {
	return map[string]string{
		"emulate_3pc": "1", "emulate_caw": "1", "emulate_dpo": "1", "emulate_fua_read": "1", "emulate_fua_write": "1",
		"emulate_pr": "1", "emulate_rest_reord": "0", "emulate_rsoc": "1", "emulate_tas": "1",
		"emulate_ua_intlck_ctrl": "0", "enforce_pr_isids": "1", "force_pr_aptpl": "0", "pi_prot_format": "0",
		"pi_prot_type": "0", "pi_prot_verify": "0",
		// reported as the device and this target have it
		"emulate_write_cache": whatever, "fabric_max_sectors": whatever, "hw_block_size": whatever,
		"hw_max_sectors": whatever, "hw_pi_prot_type": whatever, "hw_queue_depth": whatever, "max_sectors": whatever,
		"max_unmap_block_desc_count": whatever, "max_unmap_lba_count": whatever, "max_write_same_len": whatever,
		"optimal_sectors": whatever, "queue_depth": whatever, "unmap_granularity": whatever,
		"unmap_granularity_alignment": whatever, "unmap_zeroes_data": whatever, "alua_support": whatever,
		"pgr_support": whatever, "submit_type": whatever, "complete_type": whatever,
	}
}

// passthroughDevice is what an sg store opens.
var passthroughDevice = regexp.MustCompile(`^/dev/(sg\d+|bsg/.+)$`)

// store takes one storage object.
func (c *converter) store(o object) error {
	var plugin, name, wwn string
	var attrs object
	var writeBack, readOnly, async bool
	var size int64
	var groups []object
	s := &store{}
	err := o.all(map[string]any{
		"plugin": &plugin, "name": &name, "dev": &s.dev, "wwn": &wwn, "attributes": &attrs, "write_back": &writeBack,
		"readonly": &readOnly, "aio": &async, "size": &size, "alua_tpgs": &groups,
	})
	if err != nil {
		return err
	}
	s.path = "/backstores/" + plugin + "/" + name
	c.stores[s.path] = s
	what := "backstore " + plugin + "/" + name
	switch plugin {
	case "fileio", "block":
		s.made.Path = s.dev
		if plugin == "fileio" && !writeBack {
			s.made.Flags = "sync" // each write is on the disk when it is answered
		}
	case "pscsi":
		if !passthroughDevice.MatchString(s.dev) {
			s.refused = "a device that is passed through is named /dev/sgN here, not " + s.dev +
				"; a backing-store of the block device may do as well"
			return nil
		}
		s.made.Path, s.made.Device, s.made.Store = s.dev, mgmt.Passthrough, "sg"
		return nil // the device speaks for itself
	case "ramdisk":
		s.refused = "a ramdisk holds nothing over a restart, and there is no such store here"
		return nil
	default:
		s.refused = "backstores of type " + plugin + " do not exist here"
		return nil
	}
	if s.dev == "" {
		s.refused = "it names no file and no device"
		return nil
	}
	s.set("vendor_id", "LIO-ORG")
	s.set("product_rev", "4.0")
	if wwn != "" {
		s.set("scsi_sn", wwn)
	}
	if readOnly {
		s.set("readonly", "1")
	}
	thin, model := false, true
	c.attributes(what, attrs, storeDefaults(), func(attr, value string) bool {
		switch attr {
		case "block_size":
			if value != "512" {
				s.made.BlockSize = value
			}
		case "emulate_tpu", "emulate_tpws":
			thin = thin || value == "1"
		case "is_nonrot":
			if value == "1" {
				s.set("rotation_rate", "1") // SBC-3 6.6.2: not a rotating medium
			}
		case "emulate_model_alias":
			model = value == "1"
		default:
			return false
		}
		return true
	})
	if thin {
		s.set("thin_provisioning", "1")
	}
	if model {
		s.set("product_id", name)
	} else {
		s.set("product_id", map[string]string{"fileio": "FILEIO", "block": "IBLOCK"}[plugin])
	}
	c.alua(what, groups)
	c.leftovers(what, o)
	return nil
}

// set adds a parameter of the unit. A comma would end its value.
func (s *store) set(name, value string) {
	for i := range len(value) {
		if value[i] == ',' {
			value = value[:i]
			break
		}
	}
	if value != "" {
		s.made.Updates = append(s.made.Updates, name+"="+value)
	}
}

// alua remarks on target port groups other than the one that everything is in.
func (c *converter) alua(what string, groups []object) {
	for _, g := range groups {
		name := text(g["name"])
		if state := text(g["alua_access_state"]); name != "default_tg_pt_gp" || state != "" && state != "0" {
			c.lost("%s: ALUA group %s in state %s has no equivalent", what, name, state)
		}
	}
}
