package target

import (
	"slices"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt/detail"
)

// maxUpdates bounds the updates of a unit that are kept for its record; beyond it the record says that
// it is not whole.
const maxUpdates = 1024

// unitRecord is what a unit was told. It is guarded by Model.mu.
type unitRecord struct {
	spec    UnitSpec
	updates []string
	unsure  bool
}

// recordUnit notes what a new unit was made with.
func (m *Model) recordUnit(t *target, lun uint64, spec UnitSpec) *unitRecord {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.records == nil {
		t.records = make(map[uint64]*unitRecord)
	}
	r := &unitRecord{spec: spec}
	t.records[lun] = r
	return r
}

// unitRecord returns the record of a unit, nil where there is none.
func (m *Model) unitRecord(tid int, lun uint64) *unitRecord {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if t := m.targets[tid]; t != nil {
		return t.records[lun]
	}
	return nil
}

// eraseUnit forgets a unit that was deleted, but not another one that got its number meanwhile.
func (m *Model) eraseUnit(tid int, lun uint64, r *unitRecord) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.targets[tid]; t != nil && t.records[lun] == r {
		delete(t.records, lun)
	}
}

// recordUpdate notes parameters that a unit was given, or that they failed: how many of them count is
// not known then.
func (m *Model) recordUpdate(tid int, lun uint64, params string, failed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.targets[tid]
	if t == nil {
		return
	}
	if lun == 0 && t.records[0] == nil { // the controller: nobody made it, but it can be updated
		if t.records == nil {
			t.records = make(map[uint64]*unitRecord)
		}
		t.records[0] = &unitRecord{}
	}
	if r := t.records[lun]; r != nil {
		r.note(params, failed)
	}
}

// note adds an update. Those that it repeats or overrides as a whole go, so that the record of a unit
// that is updated all day stays short.
func (r *unitRecord) note(params string, failed bool) {
	if failed {
		r.unsure = true
		return
	}
	params = strings.Trim(params, ",")
	if params == "" || params == "dump=1" {
		return
	}
	r.updates = slices.DeleteFunc(r.updates, func(old string) bool { return overrides(params, old) })
	if len(r.updates) == maxUpdates {
		r.updates, r.unsure = r.updates[1:], true
	}
	r.updates = append(r.updates, params)
}

// overrides says that nothing of the old update is left once the new one is done: it is the same, or
// both set one and the same value.
func overrides(params, old string) bool {
	if params == old {
		return true
	}
	name, value, _ := strings.Cut(params, "=")
	oldName, oldValue, _ := strings.Cut(old, "=")
	if name != oldName || strings.Contains(value, ",") || strings.Contains(oldValue, ",") {
		return false
	}
	switch name {
	case "mode_page": // its number and that of its subpage
		return page(value) == page(oldValue)
	case "element_type", "address", "start_address", "barcode":
		return false // of a changer: each adds something
	}
	return true
}

func page(value string) string {
	parts := strings.SplitN(value, ":", 3)
	return strings.Join(parts[:min(len(parts), 2)], ":")
}

// Configuration is what the model was told, secrets included.
func (m *Model) Configuration() detail.Configuration {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := detail.Configuration{Discovery: m.guard.detail()}
	for _, user := range m.users {
		c.Accounts = append(c.Accounts, detail.Account{User: user, Secret: m.secrets[user]})
	}
	created := slices.Clone(m.created)
	slices.SortFunc(created, func(a, b *target) int { return a.tid - b.tid })
	for _, t := range created {
		d := detail.Target{
			TID: t.tid, Name: t.name, Accounts: t.accounts.detail(),
			ByName: slices.Clone(t.byName),
			Params: append(lines(t.params.Show()), t.redirect.settings()...),
		}
		for _, r := range t.byAddr {
			d.ByAddress = append(d.ByAddress, r.text)
		}
		for lun, r := range t.records {
			d.Units = append(d.Units, r.detail(lun))
		}
		slices.SortFunc(d.Units, func(a, b detail.Unit) int {
			if a.LUN < b.LUN {
				return -1
			}
			return 1
		})
		c.Targets = append(c.Targets, d)
	}
	return c
}

func (b *binding) detail() detail.Binding {
	return detail.Binding{Incoming: slices.Clone(b.incoming), Outgoing: b.outgoing, HasOutgoing: b.hasOut}
}

func (r *unitRecord) detail(lun uint64) detail.Unit {
	s := r.spec
	return detail.Unit{LUN: lun, Device: uint32(s.Device), Path: s.Path, Store: s.Store, Options: s.Options,
		Flags: s.Flags, BlockSize: s.BlockSize, Params: slices.Clone(r.updates), Unsure: r.unsure}
}

// settings are the settings of a redirection as NAME=VALUE, those that are set.
func (r *redirect) settings() []string {
	var list []string
	for _, f := range redirectFields {
		if v := *f.field(r); v != "" {
			list = append(list, f.name+"="+v)
		}
	}
	return list
}

// lines splits a text at its line ends.
func lines(text string) []string {
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}
