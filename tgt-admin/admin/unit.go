package admin

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/conf"
)

// noMedium begins the name of a unit without a backing store, a drive to be loaded later.
const noMedium = "NONE:"

// cacheOff is the caching mode page with the write cache turned off (SBC-3 6.5.5).
const cacheOff = "mode_page=8:0:18:0x10:0:0xff:0xff:0:0:0xff:0xff:0xff:0xff:0x80:0x14:0:0:0:0:0:0"

// settings are the parameters of a unit that have one value, in the order they are set.
func settings() []string {
	return []string{"scsi_id", "sense_format", "removable", "online", "path", "readonly", "vendor_id", "product_id",
		"product_rev", "scsi_sn", "lbppbe", "la_lba", "optimal_xfer_gran", "optimal_xfer_len"}
}

// isNoFile says that stores of this type are not named by a path of this machine.
func isNoFile(bsType string) bool {
	switch bsType {
	case "pss", "rbd", "glfs", "sheepdog":
		return true
	}
	return false
}

// unit is one logical unit to be made.
type unit struct {
	*maker
	word, path string        // backing-store or direct-store, and what it names
	block      *conf.Section // empty for a plain line
	identity   map[string]string
	lun        string // as it is shown: one from the file stays as it was written
}

// units makes the units of one word, in ASCII order of their paths.
func (m *maker) units(word string) error {
	lines, blocks := m.section.Values[word], m.section.Blocks[word]
	stores := maps.Clone(blocks)
	if stores == nil {
		stores = map[string]*conf.Section{}
	}
	for _, v := range lines {
		stores[v.Text] = &conf.Section{Pos: v.Pos}
	}
	for _, path := range slices.Sorted(maps.Keys(stores)) {
		if path == "" {
			return m.missing(word)
		}
		u := &unit{maker: m, word: word, path: path, block: stores[path]}
		if err := u.make(); err != nil {
			return err
		}
	}
	return nil
}

// namedLUNs returns the unit numbers that blocks of the target ask for.
func (m *maker) namedLUNs() map[uint64]bool {
	named := map[uint64]bool{}
	for _, word := range []string{"backing-store", "direct-store"} {
		for _, block := range m.section.Blocks[word] {
			for _, v := range block.Values["lun"] {
				if n, err := strconv.ParseUint(v.Text, 0, 64); err == nil {
					named[n] = true
				}
			}
		}
	}
	return named
}

// freeLUN takes the smallest number from 1 that is free.
func (m *maker) freeLUN() string {
	n := uint64(1)
	for m.luns[n] {
		n++
	}
	m.luns[n] = true
	return strconv.FormatUint(n, 10)
}

// value returns what the unit's block says of a key, else what the target says, else nothing.
func (u *unit) value(key string) string {
	if values := u.block.Values[key]; len(values) > 0 {
		return values[0].Text
	}
	if values := u.section.Values[key]; len(values) > 0 {
		return values[0].Text
	}
	return ""
}

// make makes the unit and sets its parameters. One whose device is in use or missing is left out.
func (u *unit) make() error {
	if !u.imagined && !isNoFile(u.value("bs-type")) && !strings.HasPrefix(u.path, noMedium) {
		if !u.mayUse() || !u.exists() {
			return nil
		}
	}
	if err := u.check(); err != nil {
		return err
	}
	if u.word == "direct-store" {
		identity, err := u.identify()
		if err != nil {
			return err
		}
		u.identity = identity
	}
	u.lun = u.value("lun")
	if values := u.section.Values["lun"]; len(values) > 0 {
		u.lun = values[0].Text
	}
	if u.lun == "" {
		u.lun = u.freeLUN()
	}
	if err := u.do(u.newLine()); err != nil {
		return err
	}
	for _, step := range []func() error{u.modePages, u.settings, u.writeCache, u.params} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// check refuses options without a value, and such as are given twice and cannot be.
func (u *unit) check() error {
	for _, values := range u.block.Values {
		if slices.ContainsFunc(values, func(v conf.Value) bool { return v.Text == "" }) {
			return u.missing(u.word)
		}
	}
	for _, key := range u.block.Keys() {
		if len(u.block.Values[key]) > 1 && u.single(key) {
			return u.failTwice(key)
		}
	}
	for _, key := range u.section.Keys() {
		if len(u.section.Values[key]) > 1 && u.single(key) && key != "allow-in-use" {
			return u.failTwice(key)
		}
	}
	return nil
}

// single says that a key of a unit can have one value only.
func (u *unit) single(key string) bool {
	switch key {
	case "lun", "device-type", "bs-type", "bsopts", "bsoflags", "block-size", "write-cache", "allow-in-use":
		return true
	}
	return slices.Contains(settings(), key)
}

func (u *unit) failTwice(key string) error {
	return u.fail("Multiple '%s' definitions in '%s' not allowed!\n"+
		"Check your config file for errors (target: %s).",
		key, u.word, u.name)
}

// newLine is the command that makes the unit. Options that are not given leave their place.
func (u *unit) newLine() *line {
	l := u.lineFor(u.driver).
		add("--op", "new", "--mode", "logicalunit", "--tid", u.tid, "--lun", u.lun)
	if strings.HasPrefix(u.path, noMedium) {
		l.blank()
	} else {
		l.add("-b").quotedWord(u.path)
	}
	blockSize := u.identity["block-size"]
	if values := u.block.Values["block-size"]; len(values) > 0 {
		blockSize = values[0].Text
	}
	return l.option("--device-type", u.value("device-type")).
		option("--bstype", u.value("bs-type")).
		option("--bsopts", u.value("bsopts")).
		option("--bsoflags", u.value("bsoflags")).
		option("--blocksize", blockSize)
}

func (u *unit) updateLine() *line {
	return u.lineFor(u.driver).
		add("--op", "update", "--mode", "logicalunit", "--tid", u.tid, "--lun="+u.lun, "--params")
}

// both returns all values of a key that can have many: the block's, then the target's.
func (u *unit) both(key string) []conf.Value {
	all := slices.Concat(u.block.Values[key], u.section.Values[key])
	return slices.DeleteFunc(all, func(v conf.Value) bool { return v.Text == "" })
}

// modePages sets the mode pages; they come before anything that builds on them.
func (u *unit) modePages() error {
	if u.value("write-cache") == "off" {
		if err := u.do(u.updateLine().add(cacheOff)); err != nil {
			return err
		}
	}
	for _, v := range u.both("mode_page") {
		if err := u.do(u.updateLine().quoted("mode_page=", v.Text)); err != nil {
			return err
		}
	}
	return nil
}

// settings sets the parameters with one value: those of the block, then those that the target gives to
// all its units, then what the device says of itself.
func (u *unit) settings() error {
	done := map[string]bool{}
	for _, from := range []func(string) string{
		func(key string) string { return firstText(u.block.Values[key]) },
		func(key string) string { return firstText(u.section.Values[key]) },
		func(key string) string { return u.identity[key] },
	} {
		for _, key := range settings() {
			text := from(key)
			if text == "" || done[key] {
				continue
			}
			done[key] = true
			if err := u.do(u.updateLine().quoted(key+"=", text)); err != nil {
				return err
			}
		}
	}
	return nil
}

func firstText(values []conf.Value) string {
	if len(values) == 0 {
		return ""
	}
	return values[0].Text
}

// writeCache says what becomes of the write cache; modePages has turned it off where that is asked.
func (u *unit) writeCache() error {
	switch text := u.value("write-cache"); text {
	case "off":
	case "", "on":
		u.remark("# Write cache is enabled (default) for lun %s.", u.lun)
	default:
		u.remark("# WARNING! Unknown value (%s) to write-cache! Accepted values are \"on\" and \"off\".", text)
	}
	return nil
}

// params sets free parameters, in which ${tid} and ${lun} stand for the unit's own numbers.
func (u *unit) params() error {
	own := strings.NewReplacer("${tid}", u.tid, "${lun}", u.lun)
	for _, v := range u.both("params") {
		if err := u.do(u.updateLine().quotedWord(own.Replace(v.Text))); err != nil {
			return err
		}
	}
	return nil
}
