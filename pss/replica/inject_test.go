package replica

import (
	"errors"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// TestInject: a master whose messages are lost on the way to all others is replaced, and is a follower again when they
// are not any more. (That a server refuses which was not told to inject faults, package PSSAdmin tests.)
func TestInject(t *testing.T) {
	t.Parallel()
	h := newHouse(t, func(o *Options) { o.Inject = true })
	m := cell.ID(h.master())
	inject := func(to cell.ID, cut bool) error {
		return admin.CallServer(t.Context(), h.conf, m, admin.MethodInject, admin.InjectArgs{To: to, Cut: cut}, nil)
	}
	others := []cell.ID{(m + 1) % 3, (m + 2) % 3}
	for _, id := range others {
		check(t, inject(id, true))
	}
	var next cell.ID
	eventually(t, "another is master", func() bool {
		st := h.servers[others[0]].Status()
		if st.Master != nil {
			next = *st.Master
		}
		return st.Master != nil && next != m
	})
	for _, id := range others {
		check(t, inject(id, false))
	}
	eventually(t, "the old one follows", func() bool {
		st := h.servers[m].Status()
		return st.Master != nil && *st.Master != m
	})
	for _, bad := range []cell.ID{m, 7} {
		var refusal *admin.Error
		if err := inject(bad, true); !errors.As(err, &refusal) || refusal.Code != admin.BadArguments {
			t.Errorf("to server %d: %v", bad, err)
		}
	}
}
