package target

import (
	"fmt"
	"slices"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/scsi"
)

// validName says whether a target name has only the characters that tgt takes: those of RFC 7143
// 4.2.7.1 without the international ones.
func validName(name string) bool {
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == ':' || c == '.' || c == '-':
		default:
			return false
		}
	}
	return true
}

// NewTarget makes a target with the controller as its only unit, no rules and no accounts. It
// returns mgmt.ErrTargetExists for a number or a name in use, and mgmt.ErrInvalid for a number below
// 1 or a name with other characters than letters, digits, colon, dot and hyphen.
func (m *Model) NewTarget(tid int, name string) error {
	if tid < 1 {
		return fmt.Errorf("target number %d: %w", tid, mgmt.ErrInvalid)
	}
	if !validName(name) {
		return Worded(fmt.Errorf("target name %.223q has invalid characters: %w", name, mgmt.ErrInvalid),
			"tgt_target_create", fmt.Sprintf("Target name %.223s has invalid characters", name))
	}
	t := &target{tid: tid, name: name, device: scsi.NewTarget(tid), params: iscsi.DefaultParams(),
		opening: make(map[uint64]struct{})}
	t.params.NopInterval, t.params.NopCount = m.o.NopInterval, m.o.NopCount
	return m.update(func() error {
		switch {
		case m.targets[tid] != nil:
			return Worded(fmt.Errorf("target id %d: %w", tid, mgmt.ErrTargetExists),
				"tgt_target_create", fmt.Sprintf("Target id %d already exists", tid))
		case m.names[name] != nil:
			return Worded(fmt.Errorf("target name %.223q: %w", name, mgmt.ErrTargetExists),
				"tgt_target_create", fmt.Sprintf("Target name %s already exists", name))
		case m.stopping:
			return fmt.Errorf("the daemon is stopping: %w", mgmt.ErrInvalid)
		case len(m.targets) >= MaxTargets:
			return fmt.Errorf("there are %d targets: %w", MaxTargets, mgmt.ErrNoMemory)
		}
		m.targets[tid], m.names[name] = t, t
		m.created = append(m.created, t)
		return nil
	})
}

// DeleteTarget deletes a target with its units, rules and account bindings; accounts stay. With
// sessions it returns mgmt.ErrTargetActive, unless force, which closes them first.
func (m *Model) DeleteTarget(tid int, force bool) error {
	// Look first: a target that stays must not refuse logins in between.
	if _, err := m.device(tid); err != nil {
		return err
	}
	if err := m.inactive(tid); err != nil && !force {
		return err
	}
	var t *target
	err := m.onTarget(tid, func(found *target) error {
		if found.deleting {
			return fmt.Errorf("another request is deleting it: %w", mgmt.ErrTargetActive)
		}
		t, found.deleting = found, true
		return nil
	})
	if err != nil {
		return err
	}
	if force {
		m.transport.CloseTarget(tid)
	}
	if err := m.inactive(tid); err != nil {
		m.mu.Lock()
		t.deleting = false
		m.mu.Unlock()
		return err
	}
	m.update(func() error {
		m.forget(t)
		return nil
	})
	// A login that was let in just before the target refused them is swept out here. The unit of a
	// request that was adding one is closed by whoever sees it first.
	m.transport.CloseTarget(tid)
	if err := closeUnits(t.device); err != nil {
		m.log.Error("closing the logical units of a deleted target failed", "tid", tid, "err", err)
	}
	return nil
}

// inactive returns mgmt.ErrTargetActive when a target has sessions.
func (m *Model) inactive(tid int) error {
	if n := len(m.transport.Sessions(tid)); n > 0 {
		return fmt.Errorf("target %d has %d sessions: %w", tid, n, mgmt.ErrTargetActive)
	}
	return nil
}

// forget takes a target out of the model. mu is held.
func (m *Model) forget(t *target) {
	t.deleted = true
	delete(m.targets, t.tid)
	delete(m.names, t.name)
	m.created = slices.DeleteFunc(m.created, func(other *target) bool { return other == t })
	for host, bound := range m.hosts {
		if bound == t.tid {
			delete(m.hosts, host)
		}
	}
}

// SetTargetParam changes one setting of a target: its state, its redirection, or an iSCSI
// parameter that holds for later logins. Initiators of a target that goes offline are asked to log out, where the
// operator wants that. It returns mgmt.ErrInvalid for names and values that are
// none.
func (m *Model) SetTargetParam(tid int, name, value string) error {
	err := m.onTarget(tid, func(t *target) error {
		if name == "state" {
			switch value {
			case "ready":
				t.offline = false
			case "offline":
				t.offline = true
			default:
				return fmt.Errorf("state %.80q: %w", value, mgmt.ErrInvalid)
			}
			return nil
		}
		if strings.HasPrefix(name, "Redirect") {
			return t.redirect.set(name, value)
		}
		if err := t.params.Set(name, value); err != nil {
			return mgmt.ErrInvalid.With(err)
		}
		return nil
	})
	if err == nil && name == "state" && value == "offline" {
		m.transport.RequestLogout(tid)
	}
	return err
}

// BindHost binds a host number to a target, for drivers that have such numbers; iSCSI has not, and
// pays no attention. It returns mgmt.ErrBindingExists when the number is bound to any target.
func (m *Model) BindHost(tid int, host uint32) error {
	return m.onTarget(tid, func(*target) error {
		if bound, ok := m.hosts[host]; ok {
			return fmt.Errorf("host number %d is bound to target %d: %w", host, bound, mgmt.ErrBindingExists)
		}
		if len(m.hosts) >= MaxHosts {
			return fmt.Errorf("there are %d host bindings: %w", MaxHosts, mgmt.ErrNoMemory)
		}
		m.hosts[host] = tid
		return nil
	})
}

// UnbindHost ends the binding of a host number. It returns mgmt.ErrNoBinding when there is none to
// this target.
func (m *Model) UnbindHost(tid int, host uint32) error {
	return m.onTarget(tid, func(*target) error {
		if bound, ok := m.hosts[host]; !ok || bound != tid {
			return fmt.Errorf("host number %d: %w", host, mgmt.ErrNoBinding)
		}
		delete(m.hosts, host)
		return nil
	})
}
