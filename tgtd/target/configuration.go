package target

import (
	"cmp"
	"slices"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt/detail"
)

// unitRecord is what a unit was made with and told since. It is guarded by Model.mu.
type unitRecord struct{ detail.Unit }

// recordUnit notes what a new unit was made with.
func (m *Model) recordUnit(t *target, lun uint64, spec UnitSpec) *unitRecord {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.records == nil {
		t.records = make(map[uint64]*unitRecord)
	}
	r := &unitRecord{detail.Unit{LUN: lun, Device: uint32(spec.Device), Path: spec.Path, Store: spec.Store,
		Options: spec.Options, Flags: spec.Flags, BlockSize: spec.BlockSize}}
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
		t.records[0] = &unitRecord{detail.Unit{Device: uint32(mgmt.Controller)}}
	}
	r := t.records[lun]
	switch {
	case r == nil:
	case failed:
		// One parameter that fails has changed nothing, but for a medium that is gone then.
		list := strings.Trim(params, ",")
		r.Unsure = r.Unsure || strings.Contains(list, ",") || strings.HasPrefix(list, "path=")
	default:
		r.Update(params)
	}
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
		for _, r := range t.records {
			u := r.Unit
			u.Params = slices.Clone(u.Params)
			d.Units = append(d.Units, u)
		}
		slices.SortFunc(d.Units, func(a, b detail.Unit) int { return cmp.Compare(a.LUN, b.LUN) })
		c.Targets = append(c.Targets, d)
	}
	return c
}

func (b *binding) detail() detail.Binding {
	return detail.Binding{Incoming: slices.Clone(b.incoming), Outgoing: b.outgoing, HasOutgoing: b.hasOut}
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
