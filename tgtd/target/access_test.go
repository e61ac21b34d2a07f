package target

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

func TestAddressRules(t *testing.T) {
	const v4, v6 = "127.0.0.1", "::1"
	for _, c := range []struct {
		rule, peer string
		want       bool
	}{
		{"ALL", v4, true}, {"ALL", v6, true}, {"all", v4, false}, {"*", v4, false}, {"", v4, false},
		{v4, v4, true}, {v4, v6, false}, {v4, "127.0.0.2", false},
		{"127.0.0.1/32", v4, true}, {"127.0.0.1/32", "127.0.0.2", false},
		{"127.0.0.0/8", v4, true}, {"127.0.0.0/8", "128.0.0.1", false}, {"127.0.0.0/8", v6, false},
		{"127.0.0.1/8", "127.9.9.9", true}, // host bits do not count
		{"127.0.0.0/31", v4, true}, {"127.0.0.0/31", "127.0.0.2", false},
		{"0.0.0.0/0", v4, true}, {"0.0.0.0/0", v6, false}, {"127.0.0.1/0", "9.9.9.9", true},
		{"127.0.0.1/33", v4, false}, {"127.0.0.1/", v4, false}, {"127.0.0.1/-1", v4, false},
		{"127.0.0.1/x", v4, false}, {"127.0.0.1/8/8", v4, false},
		{"127.1", v4, true}, {"0x7f.1", v4, true}, {"2130706433", v4, true}, {"0177.0.0.1", v4, true},
		{"127.1/8", "127.8.8.8", true}, {"127.256.1", v4, false}, {"1.2.3.4.5", v4, false}, {"127.", v4, false},
		{"256.0.0.1", v4, false}, {"127.1_0", v4, false},
		{"localhost", v4, false},
		{"::1", v6, true}, {"[::1]", v6, true}, {"::1", v4, false}, {"[::1]", v4, false},
		{"[::1]/128", v6, true}, {"::1/128", v6, true}, {"[::]/127", v6, true}, {"[::]/0", v6, true},
		{"::/0", v4, false}, {"::/129", v6, false}, {"[::1", v6, false}, {"::1]", v6, false}, {"[127.0.0.1]", v4, false},
		{"fe80::1", "fe80::1%eth0", true}, {"fe80::1%eth0", "fe80::1%eth0", false},
		{v4, "::ffff:127.0.0.1", true}, {"::ffff:127.0.0.1", v4, true}, {"::ffff:127.0.0.0/104", "127.3.3.3", true},
		{"10.0.0.1,initiator-name=iqn.x:a", "10.0.0.1", false},
	} {
		if got := parseAddressRule(c.rule).matches(netip.MustParseAddr(c.peer)); got != c.want {
			t.Errorf("rule %q, peer %s: %v, want %v", c.rule, c.peer, got, c.want)
		}
	}
}

// TestNetRuleProperty: a net lets in exactly the addresses that share its leading bits.
func TestNetRuleProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Uint32().Draw(t, "net"), rapid.Uint32().Draw(t, "peer")
		bits := rapid.IntRange(0, 32).Draw(t, "bits")
		if rapid.Bool().Draw(t, "near") {
			b = a ^ 1<<rapid.IntRange(0, 31).Draw(t, "flip")
		}
		addr := func(v uint32) netip.Addr {
			return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
		}
		rule := netip.PrefixFrom(addr(a), bits).String()
		want := uint64(a)>>(32-bits) == uint64(b)>>(32-bits)
		if got := parseAddressRule(rule).matches(addr(b)); got != want {
			t.Fatalf("rule %s, peer %s: %v", rule, addr(b), got)
		}
	})
}

var (
	peer4 = netip.MustParseAddrPort("10.0.0.1:1000")
	here  = netip.MustParseAddrPort("10.0.0.9:3260")
)

func TestAdmitOrder(t *testing.T) {
	b := newBench(t, nil)
	admit := func() iscsi.Admission { return b.Admit("iqn.x:a", "iqn.q:i", peer4, here) }
	want := func(what string, status iscsi.LoginStatus, redirect string) {
		t.Helper()
		a := admit()
		if a.Status != status || a.Redirect != redirect || (a.Target != nil) != (status == iscsi.LoginSuccess) {
			t.Errorf("%s: %v %q %v, want %v %q", what, a.Status, a.Redirect, a.Target, status, redirect)
		}
	}
	want("no target", iscsi.TargetNotFound, "")
	must(t, b.NewTarget(1, "iqn.x:a"))
	want("no rule", iscsi.TargetNotFound, "")
	must(t, b.Bind(1, Rule{Name: "iqn.q:I", HasName: true}))
	want("a name in another case", iscsi.TargetNotFound, "")
	must(t, b.Bind(1, Rule{Name: "iqn.q:i", HasName: true}))
	want("a name rule is enough", iscsi.LoginSuccess, "")
	must(t, b.Unbind(1, Rule{Name: "iqn.q:i", HasName: true}))
	must(t, b.Bind(1, Rule{Address: "10.0.0.0/8", HasAddress: true}))
	want("an address rule is enough", iscsi.LoginSuccess, "")
	must(t, b.SetTargetParam(1, "state", "offline"))
	want("offline", iscsi.TargetUnavailable, "")
	must(t, b.Unbind(1, Rule{Address: "10.0.0.0/8", HasAddress: true}))
	want("offline is told before rules", iscsi.TargetUnavailable, "")
	must(t, b.SetTargetParam(1, "RedirectAddress", "10.0.0.7"))
	must(t, b.SetTargetParam(1, "RedirectPort", "3261"))
	want("a redirection needs a reason", iscsi.TargetUnavailable, "")
	must(t, b.SetTargetParam(1, "RedirectReason", "Permanent"))
	want("redirection comes before state and rules", iscsi.TargetMovedPerm, "10.0.0.7:3261")
	must(t, b.SetTargetParam(1, "RedirectAddress", "10.0.0.9"))
	want("who is there already is not sent on", iscsi.TargetUnavailable, "")
	must(t, b.SetTargetParam(1, "RedirectAddress", "fe80::7"))
	must(t, b.SetTargetParam(1, "RedirectReason", "Temporary"))
	want("an IPv6 address gets brackets", iscsi.TargetMovedTemp, "[fe80::7]:3261")
	must(t, b.SetTargetParam(1, "RedirectAddress", "[fe80::7]"))
	must(t, b.SetTargetParam(1, "RedirectPort", ""))
	want("no port", iscsi.TargetMovedTemp, "[fe80::7]")
	must(t, b.SetTargetParam(1, "RedirectAddress", "other.example"))
	want("a name", iscsi.TargetMovedTemp, "other.example")
}

func TestISNSAccessControlShutsAll(t *testing.T) {
	b := newBench(t, nil)
	must(t, b.NewTarget(1, "iqn.x:a"))
	must(t, b.Bind(1, Rule{Address: "ALL", HasAddress: true}))
	must(t, b.SetSystem([]Setting{{"iSNSAccessControl", "On"}}))
	if a := b.Admit("iqn.x:a", "iqn.q:i", peer4, here); a.Status != iscsi.LoginSuccess {
		t.Errorf("access control without iSNS: %v", a.Status)
	}
	must(t, b.SetSystem([]Setting{{"iSNS", "On"}}))
	if a := b.Admit("iqn.x:a", "iqn.q:i", peer4, here); a.Status != iscsi.TargetNotFound {
		t.Errorf("nobody can be asked, and the login is answered %v", a.Status)
	}
	if got := b.Discover(peer4, "iqn.q:i"); got != nil {
		t.Errorf("nobody can be asked, and discovery lists %v", got)
	}
}

func TestDiscoverAndWelcome(t *testing.T) {
	b := newBench(t, nil)
	welcome := func(what string, want bool) {
		t.Helper()
		if b.Welcome() != want {
			t.Errorf("%s: Welcome() = %v", what, !want)
		}
	}
	welcome("no target", false)
	for tid, name := range map[int]string{5: "iqn.x:five"} {
		must(t, b.NewTarget(tid, name))
	}
	must(t, b.NewTarget(1, "iqn.x:one"))
	must(t, b.NewTarget(3, "iqn.x:three"))
	welcome("targets", true)
	must(t, b.SetSystem([]Setting{{"State", "offline"}}))
	welcome("offline", false)
	must(t, b.SetSystem([]Setting{{"State", "ready"}}))
	for _, tid := range []int{5, 3} {
		must(t, b.Bind(tid, Rule{Address: "ALL", HasAddress: true}))
	}
	must(t, b.SetTargetParam(3, "state", "offline"))
	got := b.Discover(peer4, "iqn.q:i")
	if len(got) != 2 || got[0] != "iqn.x:five" || got[1] != "iqn.x:three" {
		t.Errorf("discovery lists %v, want those that let the peer in, in order of creation", got)
	}
	for _, tid := range []int{1, 3, 5} {
		must(t, b.DeleteTarget(tid, false))
	}
	welcome("all gone", false)
}

func TestAccountsOfAdmission(t *testing.T) {
	b := newBench(t, nil)
	must(t, b.NewTarget(1, "iqn.x:a"))
	must(t, b.Bind(1, Rule{Address: "ALL", HasAddress: true}))
	must(t, b.NewAccount("joe", "geheim"))
	must(t, b.NewAccount("ann", "secret"))
	must(t, b.NewAccount("tgt", "mutual"))
	must(t, b.BindAccount(1, "joe", false))
	must(t, b.BindAccount(1, "ann", false))
	must(t, b.BindAccount(1, "tgt", true))
	must(t, b.BindAccount(Discovery, "ann", false))
	before := b.Admit("iqn.x:a", "iqn.q:i", peer4, here).Accounts
	if len(before.Incoming) != 2 || before.Incoming[0] != (iscsi.Account{User: "joe", Secret: "geheim"}) ||
		before.Outgoing != (iscsi.Account{User: "tgt", Secret: "mutual"}) {
		t.Errorf("accounts %v", before)
	}
	if d := b.DiscoveryAccounts(); len(d.Incoming) != 1 || d.Incoming[0].User != "ann" {
		t.Errorf("discovery accounts %v", d)
	}
	must(t, b.DeleteAccount("joe"))
	must(t, b.DeleteAccount("tgt"))
	after := b.Admit("iqn.x:a", "iqn.q:i", peer4, here).Accounts
	if len(after.Incoming) != 1 || after.Incoming[0].User != "ann" || after.Outgoing.User != "" {
		t.Errorf("after the deletion of accounts: %v", after)
	}
	if before.Incoming[0].User != "joe" {
		t.Error("the accounts of a login under way were changed in place")
	}
	must(t, b.DeleteAccount("ann"))
	if d := b.DiscoveryAccounts(); len(d.Incoming) != 0 {
		t.Errorf("discovery accounts %v", d)
	}
	wantErrno(t, "deleted twice", b.DeleteAccount("ann"), mgmt.ErrNoAccount)
}
