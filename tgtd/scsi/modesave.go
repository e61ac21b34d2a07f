package scsi

import (
	"bytes"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// Saved mode pages (SPC-4 5.11): where the store keeps everything of a unit (backstore.KeepsAll), MODE SELECT with SP
// saves the pages that can be changed, and they have these values again when the unit is started anew. A medium that
// several targets serve is one unit, and so has one set of current values: there every change is saved as such, too.

// savesModes says whether the unit saves mode pages.
func (t *task) savesModes() bool {
	return t.unit.kind == Disk && t.medium != nil && t.medium.info.Keeps == backstore.KeepsAll
}

// savedValues are what MODE SENSE reports as the saved values of a page.
func (p *modePage) savedValues() []byte {
	switch {
	case !p.saveable():
		return make([]byte, len(p.current))
	case p.saved == nil:
		return p.defaults
	}
	return p.saved
}

// merge gives a page's values with the changeable bits of others. Values of another length are of a page that
// the administrator has replaced since: they count for nothing.
func (p *modePage) merge(others []byte) []byte {
	if len(others) != len(p.defaults) {
		return p.defaults
	}
	merged := bytes.Clone(p.defaults)
	for i, mask := range p.changeable {
		merged[i] = merged[i]&^mask | others[i]&mask
	}
	return merged
}

// modeChange is what a MODE SELECT makes of the mode pages.
type modeChange struct {
	by         *itl
	pages      []modePage
	fixedBlock uint32
	changed    bool // the current values
}

// commitModes makes a change come into force. mu is held.
func (u *Unit) commitModes(c modeChange) {
	u.changeLocked(func(a *attributes) { a.pages, a.fixedBlock = c.pages, c.fixedBlock })
	if c.changed {
		u.attendOthers(c.by, modeParametersChanged)
	}
}

// saveModes parks the command, saves the pages, their current values as the saved ones if save is set, and makes the
// change come into force. mu is held.
func (u *Unit) saveModes(t *task, c modeChange, save bool) outcome {
	c.pages = slices.Clone(c.pages)
	modes := slices.Clone(u.modes)
	for i := range c.pages {
		p := &c.pages[i]
		if !p.saveable() {
			continue
		}
		if save {
			p.saved = p.current
		}
		kept := keptMode{p.code, p.subpage, p.current, p.savedValues()}
		if j := findMode(modes, p); j >= 0 {
			modes[j] = kept
		} else {
			modes = append(modes, kept)
		}
	}
	state := keptState{reservations: u.persistent, modes: modes}
	value := state.append(nil)
	if len(modes) > MaxModePages || len(value) > backstore.MaxStateBytes {
		return t.check(insufficientResources)
	}
	return u.saveState(t, value, stateSaving{
		commit: func() {
			u.modes = modes
			c.pages = u.stillThere(c.pages)
			u.commitModes(c)
		},
		done:  (*task).good,
		retry: dispatch,
	})
}

// stillThere gives the unit's pages with the values of changed ones, but for those that the administrator has
// replaced while these were being saved. mu is held.
func (u *Unit) stillThere(changed []modePage) []modePage {
	pages := slices.Clone(u.attrs.Load().pages)
	for i := range pages {
		p := &pages[i]
		j := slices.IndexFunc(changed, func(c modePage) bool { return c.is(p.code, p.subpage) })
		if j >= 0 && bytes.Equal(changed[j].defaults, p.defaults) && bytes.Equal(changed[j].changeable, p.changeable) {
			*p = changed[j]
		}
	}
	return pages
}

// findMode is the place of a page among kept ones, or -1.
func findMode(modes []keptMode, p *modePage) int {
	return slices.IndexFunc(modes, func(m keptMode) bool { return p.is(m.code, m.subpage) })
}

// replaceModes takes over what the store keeps of the mode pages. The first time the unit starts, with the saved
// values unless other targets serve it already; later it only learns what another target has made of the pages, and
// tells its sessions. mu is held.
func (u *Unit) replaceModes(m *medium, modes []keptMode) {
	u.modes = modes
	started := m.awake
	m.awake = true
	pages := slices.Clone(u.attrs.Load().pages)
	changed := false
	for i := range pages {
		p := &pages[i]
		j := findMode(modes, p)
		if j < 0 || !p.saveable() {
			continue
		}
		p.saved = p.merge(modes[j].saved)
		current := p.current
		switch {
		case m.info.Shared:
			current = p.merge(modes[j].current)
		case !started:
			current = p.saved
		}
		changed = changed || !bytes.Equal(current, p.current)
		p.current = current
	}
	u.changeLocked(func(a *attributes) { a.pages = pages })
	if changed && started {
		u.attendOthers(nil, modeParametersChanged)
	}
}
