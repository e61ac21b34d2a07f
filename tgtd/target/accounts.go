package target

import (
	"fmt"
	"slices"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// Discovery is the number of a target that stands for discovery sessions, in BindAccount and
// UnbindAccount.
const Discovery = -1

// binding holds the accounts bound to a target or to discovery. It is guarded by Model.mu.
type binding struct {
	incoming []string // in order of binding
	outgoing string
	hasOut   bool
	resolved iscsi.Accounts // the same with secrets; replaced as a whole
}

// resolve works out resolved after a change.
func (b *binding) resolve(secrets map[string]string) {
	b.resolved = iscsi.Accounts{}
	for _, user := range b.incoming {
		b.resolved.Incoming = append(b.resolved.Incoming, iscsi.Account{User: user, Secret: secrets[user]})
	}
	if b.hasOut {
		b.resolved.Outgoing = iscsi.Account{User: b.outgoing, Secret: secrets[b.outgoing]}
	}
}

// NewAccount makes an account. It returns mgmt.ErrAccountExists when the user is there already, mgmt.ErrInvalid
// for an empty name, which CHAP could not tell from none, and mgmt.ErrTooManyAccounts.
func (m *Model) NewAccount(user, secret string) error {
	if user == "" {
		return fmt.Errorf("an account without a name: %w", mgmt.ErrInvalid)
	}
	return m.update(func() error {
		if _, ok := m.secrets[user]; ok {
			return fmt.Errorf("account %.80q: %w", user, mgmt.ErrAccountExists)
		}
		if len(m.users) >= MaxAccounts {
			return fmt.Errorf("there are %d accounts: %w", MaxAccounts, mgmt.ErrTooManyAccounts)
		}
		m.secrets[user] = secret
		m.users = append(m.users, user)
		return nil
	})
}

// DeleteAccount deletes an account and all its bindings. It returns mgmt.ErrNoAccount when there is none.
func (m *Model) DeleteAccount(user string) error {
	return m.update(func() error {
		if _, ok := m.secrets[user]; !ok {
			return silent(fmt.Errorf("account %.80q: %w", user, mgmt.ErrNoAccount))
		}
		delete(m.secrets, user)
		m.users = slices.DeleteFunc(m.users, func(other string) bool { return other == user })
		m.guard.remove(user, m.secrets)
		for _, t := range m.created {
			t.accounts.remove(user, m.secrets)
		}
		return nil
	})
}

// remove ends every binding of a user.
func (b *binding) remove(user string, secrets map[string]string) {
	in := slices.Index(b.incoming, user)
	out := b.hasOut && b.outgoing == user
	if in < 0 && !out {
		return
	}
	if in >= 0 {
		b.incoming = slices.Delete(b.incoming, in, in+1)
	}
	if out {
		b.outgoing, b.hasOut = "", false
	}
	b.resolve(secrets)
}

// bindingOf returns the bindings of a target, or those of discovery. mu is held.
func (m *Model) bindingOf(tid int) (*binding, error) {
	if tid == Discovery {
		return &m.guard, nil
	}
	t, err := m.find(tid)
	if err != nil {
		return nil, err
	}
	return &t.accounts, nil
}

// BindAccount binds an account to a target, or to Discovery: an incoming one lets initiators in, any of
// several; the outgoing one, of which there is one, is what the target proves itself with. It
// returns mgmt.ErrNoTarget, mgmt.ErrNoAccount, mgmt.ErrAccountExists when it is bound already, or
// mgmt.ErrHasOutgoing.
func (m *Model) BindAccount(tid int, user string, outgoing bool) error {
	return m.update(func() error {
		b, err := m.bindingOf(tid)
		if err != nil {
			return err
		}
		_, known := m.secrets[user]
		switch {
		case !known:
			return silent(fmt.Errorf("account %.80q: %w", user, mgmt.ErrNoAccount))
		case outgoing && b.hasOut:
			return fmt.Errorf("outgoing account %.80q: %w", b.outgoing, mgmt.ErrHasOutgoing)
		case !outgoing && slices.Contains(b.incoming, user):
			return fmt.Errorf("incoming account %.80q is bound: %w", user, mgmt.ErrAccountExists)
		case !outgoing && len(b.incoming) >= MaxBindings:
			return fmt.Errorf("there are %d incoming accounts: %w", MaxBindings, mgmt.ErrTooManyAccounts)
		}
		if outgoing {
			b.outgoing, b.hasOut = user, true
		} else {
			b.incoming = append(b.incoming, user)
		}
		b.resolve(m.secrets)
		return nil
	})
}

// UnbindAccount ends the binding of an account in one direction. It returns mgmt.ErrNoTarget, or mgmt.ErrNoAccount
// when the account is not bound that way.
func (m *Model) UnbindAccount(tid int, user string, outgoing bool) error {
	return m.update(func() error {
		b, err := m.bindingOf(tid)
		if err != nil {
			return err
		}
		in := slices.Index(b.incoming, user)
		switch {
		case outgoing && (!b.hasOut || b.outgoing != user), !outgoing && in < 0:
			return fmt.Errorf("account %.80q is not bound: %w", user, mgmt.ErrNoAccount)
		case outgoing:
			b.outgoing, b.hasOut = "", false
		default:
			b.incoming = slices.Delete(b.incoming, in, in+1)
		}
		b.resolve(m.secrets)
		return nil
	})
}
