package watch

import (
	"bytes"
	"testing"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRate(t *testing.T) {
	a := admin.Counts{Reads: 10, ReadBytes: 40_000, ReadNanos: 1e6, Writes: 5}
	b := admin.Counts{Reads: 30, ReadBytes: 4_040_000, ReadNanos: 21e6, Writes: 5}
	f := rate("v", difference(a, b), 2)
	if f != (Flow{Name: "v", ReadIOPS: 10, ReadMBs: 2, ReadMS: 1}) {
		t.Errorf("%+v", f)
	}
}

func TestLook(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2)
	client, err := pss.Open(c.Conf, pss.Options{Software: "writer"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.CreateVolume(t.Context(), "vol", 1<<20); err != nil {
		t.Fatal(err)
	}
	v, err := client.OpenVolume(t.Context(), "vol")
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	w, err := New(c.Conf, "a test")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if first := w.Look(t.Context()); len(first.Volumes) != 1 || first.Volumes[0].Name != "vol" || len(first.Flows) != 0 || first.Health != "all is well" {
		t.Errorf("%+v", first)
	}
	done := make(chan struct{})
	v.Submit(&pss.Request{Op: pss.Write, Data: bytes.Repeat([]byte{1}, 8192), Done: func(*pss.Request) { close(done) }})
	<-done
	second := w.Look(t.Context())
	if len(second.Flows) != 1 || second.Flows[0].Name != "vol" || second.Flows[0].WriteIOPS <= 0 || second.Flows[0].WriteMS <= 0 || second.Total.WriteMBs <= 0 {
		t.Errorf("%+v", second.Flows)
	}
	if len(second.Clients) != 2 {
		t.Errorf("%+v", second.Clients)
	}
	c.Stop(c.Master())
	c.Master() // another counts from its own start
	if third := w.Look(t.Context()); len(third.Flows) != 0 || third.Cell.Alive != 2 {
		t.Errorf("%+v", third)
	}
}
