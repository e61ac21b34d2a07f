package iscsi

import (
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// TestNegotiate is a test of each kind of key beyond what the transcripts show: answer and outcome.
func TestNegotiate(t *testing.T) {
	set := func(kv ...string) Params {
		p := DefaultParams()
		for i := 0; i < len(kv); i += 2 {
			if err := p.Set(kv[i], kv[i+1]); err != nil {
				t.Fatal(err)
			}
		}
		return p
	}
	for _, c := range []struct {
		ours       Params
		key, offer string
		answer     string
		ok         func(agreement) bool
	}{
		{set(), "MaxBurstLength", "0x1000", "4096", func(a agreement) bool { return a.maxBurst == 4096 && a.firstBurst == 65536 }},
		{set(), "MaxBurstLength", "8K", "Reject", func(a agreement) bool { return a.maxBurst == 262144 }},
		{set(), "MaxBurstLength", "-1", "Reject", nil},
		{set(), "MaxBurstLength", "1_000", "Reject", nil},
		{set(), "MaxBurstLength", "99999999999", "Reject", nil},
		{set(), "FirstBurstLength", "16777216", "Reject", nil},
		{set("MaxOutstandingR2T", "8"), "MaxOutstandingR2T", "4", "4", func(a agreement) bool { return a.maxR2T == 4 }},
		{set(), "MaxOutstandingR2T", "70000", "Reject", nil},
		{set(), "DefaultTime2Wait", "5", "5", func(a agreement) bool { return a.time2Wait == 5 }},
		{set(), "DefaultTime2Retain", "5000", "Reject", func(a agreement) bool { return a.time2Retain == 20 }},
		{set("InitialR2T", "No"), "InitialR2T", "No", "No", func(a agreement) bool { return !a.initialR2T }},
		{set("InitialR2T", "No"), "InitialR2T", "Yes", "Yes", func(a agreement) bool { return a.initialR2T }},
		{set(), "InitialR2T", "Yes,No", "Reject", nil},
		{set("ImmediateData", "No"), "ImmediateData", "Yes", "No", func(a agreement) bool { return !a.immediateData }},
		{set(), "ImmediateData", "No", "No", func(a agreement) bool { return !a.immediateData }},
		{set("DataPDUInOrder", "No"), "DataPDUInOrder", "No", "No", func(a agreement) bool { return !a.dataPDUInOrder }},
		{set("HeaderDigest", "CRC32C"), "HeaderDigest", "None,CRC32C", "CRC32C", func(a agreement) bool { return a.digests.Header }},
		{set("HeaderDigest", "CRC32C"), "HeaderDigest", "X-other,None", "None", func(a agreement) bool { return !a.digests.Header }},
		{set(), "DataDigest", "CRC32C", "None", func(a agreement) bool { return !a.digests.Data }},
		{set(), "DataDigest", "bogus", "Reject", nil},
		{set(), "MaxRecvDataSegmentLength", "65536", "", func(a agreement) bool { return a.sendSegment == 65536 }},
		{set(), "MaxRecvDataSegmentLength", "511", "Reject", func(a agreement) bool { return a.sendSegment == 8192 }},
		{set(), "MaxXmitDataSegmentLength", "4096", "NotUnderstood", nil},
		{set(), "TargetAlias", "x", "NotUnderstood", nil},
		{set(), "InitiatorAlias", "x", "", nil},
		{set(), "RDMAExtensions", "No", "No", nil},
		{set(), "MaxOutstandingUnexpectedPDUs", "7", "0", nil},
		{set(), "IFMarkInt", "2048~4096", "Reject", nil},
	} {
		n := newNegotiation(c.ours)
		want := ""
		if c.answer != "" {
			want = c.key + "=" + c.answer + "\x00"
		}
		if got := string(n.receive(nil, c.key, c.offer)); got != want {
			t.Errorf("%s=%s: answer %q, want %q", c.key, c.offer, got, want)
		}
		if c.ok != nil && !c.ok(n.agreement()) {
			t.Errorf("%s=%s: agreed on %+v", c.key, c.offer, n.agreement())
		}
	}
}

// TestProposal: the answer to a proposal decides, and silence or nonsense leaves the RFC's default.
func TestProposal(t *testing.T) {
	ours := DefaultParams()
	for _, kv := range [][2]string{{"InitialR2T", "No"}, {"MaxBurstLength", "1048576"}, {"HeaderDigest", "CRC32C"},
		{"MaxRecvDataSegmentLength", "65536"}} {
		if err := ours.Set(kv[0], kv[1]); err != nil {
			t.Fatal(err)
		}
	}
	n := newNegotiation(ours)
	text, asked := n.propose(nil)
	const want = "MaxRecvDataSegmentLength=65536 HeaderDigest=CRC32C InitialR2T=No MaxBurstLength=1048576"
	if got := strings.ReplaceAll(strings.TrimSuffix(string(text), "\x00"), "\x00", " "); !asked || got != want {
		t.Fatalf("proposed %q", got)
	}
	if text, asked = n.propose(nil); asked {
		t.Fatalf("proposed again: %q", text)
	}
	a := n.agreement()
	if a.receiveSegment != 65536 || !a.initialR2T || a.maxBurst != 262144 || a.digests.Header {
		t.Errorf("without an answer: %+v", a)
	}
	for _, kv := range []pdu.KeyValue{{Key: "InitialR2T", Value: "No"}, {Key: "MaxBurstLength", Value: "524288"},
		{Key: "HeaderDigest", Value: "Irrelevant"}} {
		if out := n.receive(nil, kv.Key, kv.Value); len(out) > 0 {
			t.Errorf("an answer was answered: %q", out)
		}
	}
	if a = n.agreement(); a.initialR2T || a.maxBurst != 524288 || a.digests.Header {
		t.Errorf("answered: %+v", a)
	}
}

func FuzzNegotiation(f *testing.F) {
	f.Add("MaxBurstLength", "4096", uint8(3))
	f.Add("HeaderDigest", "CRC32C,None", uint8(0))
	f.Fuzz(func(t *testing.T, key, value string, seed uint8) {
		ours := DefaultParams()
		if seed&1 != 0 {
			ours.value[keyMaxBurstLength], ours.value[keyInitialR2T] = 65536, no
		}
		n := newNegotiation(ours)
		if seed&2 != 0 {
			n.propose(nil)
		}
		n.receive(nil, key, value)
		a := n.agreement()
		if a.maxBurst < minSegment || a.maxBurst > 262144 || a.firstBurst > 65536 || a.maxR2T < 1 ||
			a.sendSegment < minSegment || a.receiveSegment != 8192 || a.queueDepth != 128 {
			t.Errorf("%s=%q led to %+v", key, value, a)
		}
	})
}
