package initiator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
)

func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = seed + byte(i) ^ byte(i>>8)
	}
	return b
}

// TestTransfers moves data in every way that can be negotiated.
func TestTransfers(t *testing.T) {
	params := []struct{ name, set string }{
		{"as offered", ""},
		{"only solicited", "InitialR2T=Yes ImmediateData=No"},
		{"immediate and solicited", "InitialR2T=Yes ImmediateData=Yes FirstBurstLength=4096"},
		{"unsolicited in pieces", "InitialR2T=No ImmediateData=No MaxRecvDataSegmentLength=1024 FirstBurstLength=8192"},
		{"all three", "InitialR2T=No ImmediateData=Yes MaxRecvDataSegmentLength=512 FirstBurstLength=2048 MaxBurstLength=4096"},
	}
	for _, p := range params {
		for _, digests := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, digests %v", p.name, digests), func(t *testing.T) {
				r := newRig(t)
				for kv := range strings.FieldsSeq(p.set + " HeaderDigest=CRC32C,None DataDigest=CRC32C,None") {
					name, value, _ := strings.Cut(kv, "=")
					if err := r.dir.params.Set(name, value); err != nil && !strings.HasSuffix(name, "Digest") {
						t.Fatal(err)
					}
				}
				s := r.login(t, func(o *Options) { o.HeaderDigest, o.DataDigest = digests, digests })
				if got := s.conns[0].digests.Data && s.conns[0].digests.Header; got != digests {
					t.Fatalf("digests %v, want %v", got, digests)
				}
				for i, blocks := range []int{1, 8, 9, 600, 6000} {
					out := pattern(blocks*blockSize, byte(i))
					var w Task
					w.LUN = 1
					w.SetWrite(uint64(i), uint32(blocks), out)
					if err := s.Do(&w); err != nil {
						t.Fatalf("write of %d blocks: %v", blocks, err)
					}
					in := make([]byte, len(out))
					w.SetRead(uint64(i), uint32(blocks), in)
					if err := s.Do(&w); err != nil || w.Moved != len(in) {
						t.Fatalf("read of %d blocks: %d bytes, %v", blocks, w.Moved, err)
					}
					if !bytes.Equal(in, out) {
						t.Fatalf("%d blocks came back different", blocks)
					}
				}
			})
		}
	}
}

func TestCommands(t *testing.T) {
	r := newRig(t)
	o := Options{Portal: r.portal, Target: testTarget, Initiator: testInitiator}
	s, err := Login(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var status *StatusError
	if err := s.Do(&Task{LUN: 1}); !errors.As(err, &status) || status.Key() != 0x062900 {
		t.Fatalf("first command: %v, want a power-on unit attention", err)
	}
	if blocks, size, err := s.Capacity(1); err != nil || blocks != 8<<20/blockSize || size != blockSize {
		t.Errorf("capacity %d × %d, %v", blocks, size, err)
	}
	if vendor, product, err := s.Inquiry(1); err != nil || vendor != "IET" || product != "VIRTUAL-DISK" {
		t.Errorf("inquiry %q %q, %v", vendor, product, err)
	}
	if luns, err := s.LUNs(); err != nil || !slices.Equal(luns, []uint64{0, 1, 300}) {
		t.Errorf("LUNs %d, %v", luns, err)
	}
	var flush Task
	flush.SetFlush()
	if err := s.Do(&flush); err != nil {
		t.Errorf("flush: %v", err)
	}
	if err := s.UnmapBlocks(1, 0, 1); !errors.As(err, &status) || status.Key() != 0x052000 {
		t.Errorf("unmap: %v, want an invalid operation code", err)
	}
	var beyond Task
	beyond.SetRead(1<<40, 1, make([]byte, blockSize))
	if err := s.Do(&beyond); !errors.As(err, &status) || status.Key() != 0x052100 {
		t.Errorf("read beyond the end: %v, want an address out of range", err)
	}
	if beyond.Residual != blockSize {
		t.Errorf("residual %d, want %d", beyond.Residual, blockSize)
	}
	long := &Task{CDB: [16]byte{0: 0x12, 4: 36}, In: make([]byte, 200)}
	if err := s.Do(long); err != nil || long.Moved != 36 || long.Residual != 164 {
		t.Errorf("inquiry into 200 bytes: moved %d, residual %d, %v", long.Moved, long.Residual, err)
	}
	short := &Task{LUN: 1, CDB: [16]byte{0: 0x12, 4: 36}, In: make([]byte, 10)}
	if err := s.Do(short); err != nil || short.Moved != 10 || short.Residual != -26 {
		t.Errorf("inquiry into 10 bytes: moved %d, residual %d, %v", short.Moved, short.Residual, err)
	}
}

func TestTaskThatCannotBeSent(t *testing.T) {
	s := newRig(t).login(t, nil)
	for _, bad := range []*Task{
		{LUN: 1 << 60},
		{In: make([]byte, 1), Out: make([]byte, 1)},
		{Out: make([]byte, MaxTransfer+1)},
	} {
		if err := s.Do(bad); err == nil {
			t.Errorf("LUN %d, %d bytes out, %d in: no error", bad.LUN, len(bad.Out), len(bad.In))
		}
	}
	if err := s.Ready(1); err != nil {
		t.Error(err)
	}
}

func TestDiscover(t *testing.T) {
	r := newRig(t)
	for i := range 500 {
		r.dir.names = append(r.dir.names, fmt.Sprintf("%s-with-a-name-to-fill-some-room-%d", testTarget, i))
	}
	found, err := Discover(t.Context(), Options{Portal: r.portal, Initiator: testInitiator})
	if err != nil || len(found) != 501 {
		t.Fatalf("%d targets, %v", len(found), err)
	}
	for i, f := range found {
		if f.Name != r.dir.names[i] || !slices.Equal(f.Addresses, []string{r.portal + ",1"}) {
			t.Fatalf("target %d is %v", i, f)
		}
	}
	r.dir.discovery = iscsi.Accounts{Incoming: []iscsi.Account{{User: "u", Secret: "secret-of-12"}}}
	var refused *LoginError
	if _, err := Discover(t.Context(), Options{Portal: r.portal, Initiator: testInitiator}); !errors.As(err, &refused) {
		t.Errorf("without a secret: %v", err)
	}
	o := Options{Portal: r.portal, Initiator: testInitiator, User: "u", Secret: "secret-of-12"}
	if found, err = Discover(t.Context(), o); err != nil || len(found) != 501 {
		t.Errorf("with the secret: %d targets, %v", len(found), err)
	}
}

func TestCHAP(t *testing.T) {
	in := []iscsi.Account{{User: "other", Secret: "another-secret"}, {User: "iscsi_pss", Secret: "iscsi_pss000"}}
	out := iscsi.Account{User: "target", Secret: "targets-secret"}
	for _, c := range []struct {
		name     string
		accounts iscsi.Accounts
		o        Options
		want     string // of the error; "" for success
	}{
		{"none needed", iscsi.Accounts{}, Options{}, ""},
		{"right", iscsi.Accounts{Incoming: in}, Options{User: "iscsi_pss", Secret: "iscsi_pss000"}, ""},
		{"wrong secret", iscsi.Accounts{Incoming: in}, Options{User: "iscsi_pss", Secret: "iscsi_pss001"}, "status 0201"},
		{"wrong name", iscsi.Accounts{Incoming: in}, Options{User: "iscsi", Secret: "iscsi_pss000"}, "status 0201"},
		{"not offered", iscsi.Accounts{Incoming: in}, Options{}, "status 0201"},
		{"mutual", iscsi.Accounts{Incoming: in, Outgoing: out},
			Options{User: "iscsi_pss", Secret: "iscsi_pss000", MutualUser: "target", MutualSecret: "targets-secret"}, ""},
		{"mutual, other secret", iscsi.Accounts{Incoming: in, Outgoing: out},
			Options{User: "iscsi_pss", Secret: "iscsi_pss000", MutualUser: "target", MutualSecret: "a-wrong-secret"}, ErrMutual.Error()},
		{"mutual, other name", iscsi.Accounts{Incoming: in, Outgoing: out},
			Options{User: "iscsi_pss", Secret: "iscsi_pss000", MutualUser: "tgt", MutualSecret: "targets-secret"}, ErrMutual.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.dir.accounts = c.accounts
			c.o.Portal, c.o.Target, c.o.Initiator = r.portal, testTarget, testInitiator
			s, err := Login(t.Context(), c.o)
			if err == nil {
				defer s.Close()
				err = s.Ready(1)
			}
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Fatalf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestLoginErrors(t *testing.T) {
	r := newRig(t)
	o := Options{Portal: r.portal, Target: "iqn.2001-03.jp.tritech:none", Initiator: testInitiator}
	var refused *LoginError
	if _, err := Login(t.Context(), o); !errors.As(err, &refused) || *refused != (LoginError{2, 3}) {
		t.Errorf("unknown target: %v", err)
	}
	o.Depth = MaxDepth + 1
	if _, err := Login(t.Context(), o); err == nil {
		t.Error("a depth over the limit is taken")
	}
	if _, err := Login(t.Context(), Options{Portal: r.portal, Initiator: testInitiator}); err == nil {
		t.Error("a login without a target is taken")
	}
	// A portal that accepts and says nothing: the context ends the login.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	o = Options{Portal: l.Addr().String(), Target: testTarget, Initiator: testInitiator}
	if _, err := Login(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("silent portal: %v", err)
	}
}

// TestDepth keeps more commands under way than the target's window holds, from several goroutines, each
// task submitting itself again and again.
func TestDepth(t *testing.T) {
	const depth, rounds = MaxDepth, 16
	r := newRig(t)
	if err := r.dir.params.Set("MaxQueueCmd", "7"); err != nil {
		t.Fatal(err)
	}
	s := r.login(t, func(o *Options) { o.Depth = depth })
	var left sync.WaitGroup
	failed := make(chan error, depth)
	tasks := make([]Task, 2*depth) // half of them wait for a slot
	for i := range tasks {
		task := &tasks[i]
		task.LUN = 1
		n := 0
		again := func(task *Task) {
			err := task.Err
			if n++; err == nil && n < rounds {
				if n%2 == 1 {
					task.SetRead(uint64(8*i), 8, make([]byte, 8*blockSize))
				} else {
					task.SetWrite(uint64(8*i), 8, task.In)
				}
				if err = s.Again(task); err == nil {
					return
				}
			}
			if err != nil {
				failed <- err
			}
			left.Done()
		}
		task.Done = again
		task.SetWrite(uint64(8*i), 8, pattern(8*blockSize, byte(i)))
		left.Add(1)
	}
	for part := range 4 {
		left.Go(func() {
			for i := part; i < len(tasks); i += 4 {
				s.Submit(&tasks[i])
			}
		})
	}
	left.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	for i := range tasks {
		if got := r.disk.bytes[8*i*blockSize:][:8*blockSize]; !bytes.Equal(got, pattern(8*blockSize, byte(i))) {
			t.Fatalf("block range %d came out different", i)
		}
	}
	waitFree(s, depth)
}

// waitFree waits until n slots are free: they become so shortly after Done.
func waitFree(s *Session, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.free) != n {
		s.room.Wait()
	}
}

// TestReconnect cuts the connection with writes under way: they are issued anew on the next one, in the
// order of their submission.
func TestReconnect(t *testing.T) {
	const count = 20
	r := newRig(t)
	s := r.login(t, func(o *Options) { o.Depth, o.Reconnect = count, time.Minute })
	// Tags that do not follow the order of submission.
	var mixed sync.WaitGroup
	first := make([]Task, count)
	for i := range first {
		mixed.Add(1)
		first[i] = Task{LUN: 1, Done: func(*Task) { mixed.Done() }}
		s.Submit(&first[i])
	}
	mixed.Wait()
	waitFree(s, count)
	s.mu.Lock()
	rand.Shuffle(len(s.free), func(i, j int) { s.free[i], s.free[j] = s.free[j], s.free[i] })
	s.mu.Unlock()

	r.disk.setHold(true)
	var done sync.WaitGroup
	tasks := make([]Task, count)
	for i := range tasks {
		done.Add(1)
		tasks[i].LUN = 1
		tasks[i].Done = func(*Task) { done.Done() }
		tasks[i].SetWrite(uint64(i), 1, pattern(blockSize, byte(i)))
		s.Submit(&tasks[i])
	}
	for range 3 {
		r.disk.waitKept(count)
		r.cut(t)
		r.disk.waitKept(0)
		// The new nexus has a unit attention for the first command that is carried out: let it be this one.
		r.disk.waitKept(count)
	}
	r.disk.letGo()
	done.Wait()
	var status *StatusError
	if err := tasks[0].Err; !errors.As(err, &status) || status.Key() != 0x062900 {
		t.Errorf("first write: %v, want the unit attention of the new session", err)
	}
	var want []uint64
	for i := range tasks[1:] {
		want = append(want, uint64(i+1))
		if tasks[i+1].Err != nil {
			t.Errorf("write %d: %v", i+1, tasks[i+1].Err)
		}
	}
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	if !slices.Equal(r.disk.written, want) {
		t.Errorf("carried out in the order %d", r.disk.written)
	}
	if n := s.Relogins(); n != 3 {
		t.Errorf("%d logins after the first, want 3", n)
	}
}

// TestReconnectReads cuts the connection amid reads of much data; what came of them before does not count.
func TestReconnectReads(t *testing.T) {
	r := newRig(t)
	copy(r.disk.bytes, pattern(len(r.disk.bytes), 3))
	s := r.login(t, func(o *Options) { o.Reconnect = time.Minute })
	const size = 2 << 20
	for i := range 10 {
		task := Task{LUN: 1}
		task.SetRead(0, size/blockSize, make([]byte, size))
		done := make(chan struct{})
		task.Done = func(*Task) { close(done) }
		s.Submit(&task)
		r.cut(t)
		<-done
		var status *StatusError
		switch {
		case errors.As(task.Err, &status) && status.Key() == 0x062900:
		case task.Err != nil:
			t.Fatal(task.Err)
		case task.Moved != size || !bytes.Equal(task.In, r.disk.bytes[:size]):
			t.Fatalf("read %d: %d bytes, or different ones", i, task.Moved)
		}
		if err := s.Ready(1); err != nil { // and so the next round finds a session
			t.Fatal(err)
		}
	}
}

func TestReconnectGivesUp(t *testing.T) {
	r := newRig(t)
	s := r.login(t, func(o *Options) { o.Reconnect = 30 * time.Millisecond })
	r.disk.setHold(true)
	w := Task{LUN: 1}
	w.SetWrite(0, 1, make([]byte, blockSize))
	ended := make(chan error, 1)
	w.Done = func(t *Task) { ended <- t.Err }
	s.Submit(&w)
	r.disk.waitKept(1)
	r.dir.set(true)
	r.cut(t)
	var refused *LoginError
	if err := <-ended; !errors.As(err, &refused) {
		t.Errorf("the command under way: %v", err)
	}
	if err := s.Do(&Task{LUN: 1}); !errors.As(err, &refused) {
		t.Errorf("a later command: %v", err)
	}
}

func TestNoReconnect(t *testing.T) {
	r := newRig(t)
	s := r.login(t, nil)
	r.disk.setHold(true)
	w := Task{LUN: 1}
	w.SetWrite(0, 1, make([]byte, blockSize))
	ended := make(chan error, 1)
	w.Done = func(t *Task) { ended <- t.Err }
	s.Submit(&w)
	r.disk.waitKept(1)
	r.cut(t)
	if err := <-ended; err == nil {
		t.Error("a command of a lost session has no error")
	}
	if err := s.Again(&w); err == nil {
		t.Error("a lost session takes a command again")
	}
}

// TestClose closes sessions in every situation; that it returns, and leaves no goroutine, is the test.
func TestClose(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(t *testing.T, r *rig, s *Session)
	}{
		{"idle", func(*testing.T, *rig, *Session) {}},
		{"connection just lost", func(t *testing.T, r *rig, _ *Session) { r.cut(t) }},
		{"no login possible", func(t *testing.T, r *rig, _ *Session) {
			r.dir.set(true)
			r.cut(t)
		}},
		{"already closed", func(_ *testing.T, _ *rig, s *Session) { s.Close() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			s := r.login(t, func(o *Options) { o.Reconnect = time.Minute })
			r.disk.setHold(true)
			w := Task{LUN: 1}
			w.SetWrite(0, 1, make([]byte, blockSize))
			ended := make(chan error, 1)
			w.Done = func(t *Task) { ended <- t.Err }
			s.Submit(&w)
			r.disk.waitKept(1)
			c.do(t, r, s)
			s.Close()
			if err := <-ended; !errors.Is(err, ErrClosed) {
				t.Errorf("the command under way: %v", err)
			}
			if err := s.Do(&Task{}); !errors.Is(err, ErrClosed) {
				t.Errorf("a command after Close: %v", err)
			}
		})
	}
}

// TestNoAllocation reads and writes without allocating, at both ends.
func TestNoAllocation(t *testing.T) {
	s := newRig(t).login(t, nil)
	buf := make([]byte, 8*blockSize)
	over := make(chan struct{})
	task := Task{LUN: 1, Done: func(*Task) { over <- struct{}{} }}
	per := testing.AllocsPerRun(2000, func() {
		task.SetWrite(8, 8, buf)
		s.Submit(&task)
		<-over
		task.SetRead(8, 8, buf)
		s.Submit(&task)
		<-over
	})
	if per > 0 && !raceEnabled {
		t.Errorf("%.2f allocations for a write and a read", per)
	}
}

func TestManage(t *testing.T) {
	r := newRig(t)
	s := r.login(t, nil)
	submit := func(lun, lba uint64) (*Task, chan error) {
		ended := make(chan error, 1)
		w := &Task{LUN: lun, Done: func(t *Task) { ended <- t.Err }}
		w.SetWrite(lba, 1, make([]byte, blockSize))
		s.Submit(w)
		return w, ended
	}
	r.disk.setHold(true)
	_, other := submit(1, 0)
	w, ended := submit(1, 1)
	r.disk.waitKept(2)
	if err := s.Manage(AbortTask, 1, w); err != nil {
		t.Fatalf("abort: %v", err)
	}
	if err := <-ended; !errors.Is(err, ErrAborted) {
		t.Errorf("the aborted task: %v", err)
	}
	var refused *ManageError
	if err := s.Manage(AbortTask, 1, w); !errors.As(err, &refused) || refused.Response != 1 {
		t.Errorf("abort of a task that is over: %v", err)
	}
	_, elsewhere := submit(2, 0)
	r.disk.waitKept(2)
	if err := s.Manage(LogicalUnitReset, 1, nil); err != nil {
		t.Fatalf("reset: %v", err)
	}
	if err := <-other; !errors.Is(err, ErrAborted) {
		t.Errorf("a task of the unit that was reset: %v", err)
	}
	r.disk.waitKept(1)
	if err := s.Manage(TargetColdReset, 0, nil); err != nil {
		t.Fatalf("cold reset: %v", err)
	}
	if err := <-elsewhere; !errors.Is(err, ErrAborted) {
		t.Errorf("a task of the target that was reset: %v", err)
	}
	r.disk.letGo()
	if err := s.Ready(1); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	s.Close()
	if err := s.Manage(LogicalUnitReset, 1, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
