package replica

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// adminOf is an administrative connection to a server.
func (h *house) adminOf(i int) *admin.Conn {
	h.t.Helper()
	c, err := admin.Dial(h.context(), h.conf, cell.ID(i))
	check(h.t, err)
	h.t.Cleanup(func() { c.Close() })
	return c
}

// refusal is the code of an error of a server's.
func refusal(err error) admin.Code {
	var e *admin.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func TestAdminStatus(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	m := h.master()
	var st admin.Status
	check(t, h.adminOf(m).Call(h.context(), admin.MethodStatus, nil, &st))
	if int(st.ID) != m || st.State != admin.StateMaster || !st.IsMaster || len(st.Members) != 3 || st.Root == "" || st.LogBytes == 0 {
		t.Errorf("%+v", st)
	}
	check(t, h.adminOf((m+1)%3).Call(h.context(), admin.MethodStatus, nil, &st))
	if st.State != admin.StateVoter || st.Master == nil || int(*st.Master) != m {
		t.Errorf("%+v", st)
	}
}

func TestAdminRefusals(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	m := h.master()
	c := h.adminOf(m)
	six, other := cell.ID(6), cell.ID((m+1)%3)
	for name, x := range map[string]struct {
		method string
		args   any
		want   admin.Code
	}{
		"no such method":          {"nonsense", nil, admin.UnknownMethod},
		"no such argument":        {admin.MethodHandOver, map[string]int{"nonsense": 1}, admin.BadArguments},
		"a master that is none":   {admin.MethodHandOver, admin.HandOverArgs{ID: &six}, admin.Refused},
		"arguments of no sense":   {admin.MethodHandOver, "x", admin.BadArguments},
		"an id that is not an id": {admin.MethodHandOver, map[string]int{"id": -1}, admin.BadArguments},
	} {
		if err := c.Call(h.context(), x.method, x.args, nil); refusal(err) != x.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	err := h.adminOf(int(other)).Call(h.context(), admin.MethodHandOver, nil, nil)
	var e *admin.Error
	if !errors.As(err, &e) || e.Code != admin.NotMaster || e.Master == nil || int(*e.Master) != m {
		t.Errorf("not the master: %v", err)
	}
}

func TestAdminHandOver(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	m := h.master()
	to := cell.ID((m + 1) % 3)
	var reply admin.HandOverReply
	check(t, admin.CallMaster(h.context(), h.conf, admin.MethodHandOver, admin.HandOverArgs{ID: &to}, &reply))
	if reply.Master != to || h.master() != int(to) {
		t.Errorf("%d is master, not %d", reply.Master, to)
	}
	check(t, h.adminOf(int(to)).Call(h.context(), admin.MethodHandOver, nil, &reply))
	if reply.Master == to {
		t.Errorf("%d is master still", to)
	}
}

func TestAdminCheckpoint(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	v := h.volume(h.client(), 1<<20)
	v.write(3)
	m := h.master()
	before := h.servers[m].report()
	var reply admin.CheckpointReply
	check(t, h.adminOf(m).Call(h.context(), admin.MethodCheckpoint, nil, &reply))
	if reply.Index < before.Applied || h.servers[m].report().Checkpoint < before.Applied {
		t.Errorf("checkpoint at %d, applied %d", reply.Index, before.Applied)
	}
}

func TestAdminShutdown(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	m := h.master()
	check(t, h.adminOf(m).Call(h.context(), admin.MethodShutdown, admin.ShutdownArgs{Comment: "planned"}, nil))
	within(t, "the end of the master", h.servers[m].Done())
	h.stop(m) // which checks that it ended without an error
	if next := h.master(); next == m {
		t.Errorf("server %d is master", next)
	}
}

func TestTooManyTools(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	for range maxAdmins {
		h.adminOf(0)
	}
	eventually(t, "all are served", func() bool { return len(h.servers[0].admins) == maxAdmins })
	c, err := admin.Dial(h.context(), h.conf, 0)
	check(t, err) // the greeting comes first
	defer c.Close()
	if err := c.Call(h.context(), admin.MethodStatus, nil, nil); err == nil || !strings.Contains(err.Error(), "16 administrative") {
		t.Error(err)
	}
}

// TestToolLeaves: a method that lasts ends with the tool that asked for it.
func TestToolLeaves(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	c := h.adminOf(0)
	ctx, cancel := context.WithCancel(h.context())
	cancel()
	if err := c.Call(ctx, admin.MethodStatus, nil, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	eventually(t, "the connection's place is free", func() bool { return len(h.servers[0].admins) == 0 })
	if !slices.Contains([]int{0, 1, 2}, h.master()) {
		t.Error("no master")
	}
}
