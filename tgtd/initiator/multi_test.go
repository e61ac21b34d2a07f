package initiator

import (
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// newMultiRig is a target whose sessions may have several connections.
func newMultiRig(t *testing.T, connections int) *rig {
	t.Helper()
	r := newRig(t)
	if err := r.dir.params.Set("MaxConnections", strconv.Itoa(connections)); err != nil {
		t.Fatal(err)
	}
	return r
}

// several makes a session of several connections that are taken up again.
func several(n int) func(*Options) {
	return func(o *Options) { o.Connections, o.Reconnect = n, 20*time.Second }
}

// eventually waits for a condition that nothing announces.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// writes submits n writes of one block each, to the blocks 0…n-1, and returns a function that waits for them.
func writes(t *testing.T, s *Session, n int) (wait func()) {
	t.Helper()
	var over sync.WaitGroup
	tasks := make([]Task, n)
	for i := range tasks {
		over.Add(1)
		w := &tasks[i]
		w.LUN, w.Done = 1, func(*Task) { over.Done() }
		w.SetWrite(uint64(i), 1, pattern(blockSize, byte(i)))
		s.Submit(w)
	}
	return func() {
		t.Helper()
		over.Wait()
		for i := range tasks {
			if tasks[i].Err != nil {
				t.Errorf("write %d: %v", i, tasks[i].Err)
			}
		}
	}
}

// once checks that the blocks 0…n-1 were written once each.
func (r *rig) once(t *testing.T, n int) {
	t.Helper()
	r.disk.mu.Lock()
	defer r.disk.mu.Unlock()
	written := slices.Sorted(slices.Values(r.disk.written))
	for i := range n {
		if len(written) != n || written[i] != uint64(i) {
			t.Fatalf("blocks written: %d", written)
		}
	}
}

// TestSeveralConnections: a session has as many connections as both sides want, and uses all of them.
func TestSeveralConnections(t *testing.T) {
	for _, c := range []struct{ ours, theirs, want int }{{4, 8, 4}, {4, 2, 2}, {4, 1, 1}, {0, 8, 1}} {
		r := newMultiRig(t, c.theirs)
		s := r.login(t, several(c.ours))
		writes(t, s, 64)()
		r.once(t, 64)
		all := r.server.Sessions(1)
		if s.Connections() != c.want || len(all) != 1 || len(all[0].Connections) != c.want {
			t.Errorf("%d connections, wanted %d of %d: the target has %+v", s.Connections(), c.ours, c.theirs, all)
			continue
		}
		for _, k := range all[0].Connections {
			if k.Stats.CommandPDUs < 64/uint64(c.want) {
				t.Errorf("connection %d of %d carried %d commands", k.CID, c.want, k.Stats.CommandPDUs)
			}
		}
	}
	r := newMultiRig(t, 8)
	for _, n := range []int{-1, MaxConnections + 1} {
		o := Options{Portal: r.portal, Target: testTarget, Initiator: testInitiator, Connections: n}
		if _, err := Login(t.Context(), o); err == nil {
			t.Errorf("%d connections", n)
		}
	}
	o := Options{Portal: r.portal, Target: testTarget, Initiator: testInitiator, Connections: 2, Recovery: true,
		HeaderDigest: true, DataDigest: true}
	if _, err := Login(t.Context(), o); err == nil {
		t.Error("several connections with error recovery")
	}
}

// TestConnectionIsTakenUpAgain: what a lost connection carried is ended by the target and issued anew, and the others
// go on.
func TestConnectionIsTakenUpAgain(t *testing.T) {
	r := newMultiRig(t, 3)
	s := r.login(t, several(3))
	r.disk.setHold(true)
	const n = 16
	wait := writes(t, s, n)
	r.disk.waitKept(n)
	if err := r.server.CloseConnection(1, r.server.Sessions(1)[0].SID, 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection is there again", func() bool { return s.Rejoins() == 1 })
	r.disk.waitKept(n)
	r.disk.letGo()
	wait()
	r.once(t, n)
	if s.Relogins() != 0 || s.Connections() != 3 {
		t.Errorf("%d new sessions, %d connections", s.Relogins(), s.Connections())
	}
}

// TestAllConnectionsAreLost: then the session begins anew, with all its connections.
func TestAllConnectionsAreLost(t *testing.T) {
	r := newMultiRig(t, 3)
	s := r.login(t, several(3))
	r.dir.set(true) // nobody comes back before all are gone
	for cid := range uint32(3) {
		if err := r.server.CloseConnection(1, r.server.Sessions(1)[0].SID, cid); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all are lost", func() bool { return s.Connections() == 0 })
	over := make(chan error)
	go func() {
		over <- doAgain(s, func(k *Task) { k.SetWrite(0, 1, pattern(blockSize, 1)) })
	}()
	r.dir.set(false)
	if err := <-over; err != nil {
		t.Error(err)
	}
	r.once(t, 1)
	eventually(t, "all are there again", func() bool { return s.Connections() == 3 })
	if s.Relogins() != 1 {
		t.Errorf("%d new sessions", s.Relogins())
	}
}

// swallower passes connections on to a target; of one of them it takes what the initiator sends and drops it.
type swallower struct {
	net.Listener
	mu       sync.Mutex
	pairs    [][2]net.Conn // in the order of coming
	drops    int           // index of the connection whose commands are dropped, -1 for none
	dropped  int           // bytes
	conveyed sync.WaitGroup
}

func newSwallower(t *testing.T, portal string) *swallower {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &swallower{Listener: l, drops: -1}
	p.conveyed.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", portal)
			if err != nil {
				near.Close()
				continue
			}
			p.mu.Lock()
			n := len(p.pairs)
			p.pairs = append(p.pairs, [2]net.Conn{near, far})
			p.mu.Unlock()
			p.conveyed.Go(func() { p.up(n, near, far) })
			p.conveyed.Go(func() {
				_, _ = io.Copy(near, far)
				near.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for n := range p.pairs {
			p.close(n)
		}
		p.mu.Unlock()
		p.conveyed.Wait()
	})
	return p
}

// up conveys what the initiator sends on the connection n.
func (p *swallower) up(n int, near, far net.Conn) {
	defer far.Close()
	b := make([]byte, 64<<10)
	for {
		size, err := near.Read(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		drop := p.drops == n
		if drop {
			p.dropped += size
		}
		p.mu.Unlock()
		if !drop {
			if _, err := far.Write(b[:size]); err != nil {
				return
			}
		}
	}
}

// close ends a connection on both sides. mu is held.
func (p *swallower) close(n int) {
	p.pairs[n][0].Close()
	p.pairs[n][1].Close()
}

// TestCommandsThatNeverCame: commands that were lost on their way keep the target from those behind them, until they
// are sent again under their numbers on the connection that takes the lost one's place.
func TestCommandsThatNeverCame(t *testing.T) {
	r := newMultiRig(t, 2)
	p := newSwallower(t, r.portal)
	s := r.login(t, func(o *Options) {
		several(2)(o)
		o.Portal = p.Addr().String()
	})
	p.mu.Lock()
	p.drops = 1
	p.mu.Unlock()
	const n = 16
	wait := writes(t, s, n)
	const command = 48 + blockSize
	eventually(t, "half of the commands are lost", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.dropped == n/2*command
	})
	r.disk.mu.Lock()
	if len(r.disk.written) > 1 {
		t.Errorf("the target wrote %d, although commands are missing", r.disk.written)
	}
	r.disk.mu.Unlock()
	p.mu.Lock()
	p.close(1)
	p.mu.Unlock()
	wait()
	r.once(t, n)
	if s.Rejoins() != 1 || s.Relogins() != 0 {
		t.Errorf("%d connections taken up again, %d new sessions", s.Rejoins(), s.Relogins())
	}
}

// TestConnectionsComeAndGo breaks connections under load: every write succeeds and can be read back.
func TestConnectionsComeAndGo(t *testing.T) {
	r := newMultiRig(t, 4)
	s := r.login(t, several(4))
	stop := make(chan struct{})
	var cutting sync.WaitGroup
	cutting.Go(func() {
		for cid := uint32(0); ; cid = (cid + 1) % 4 {
			before := s.Rejoins() + s.Relogins()
			if all := r.server.Sessions(1); len(all) == 1 {
				_ = r.server.CloseConnection(1, all[0].SID, cid) // it may be away just now
			}
			for s.Rejoins()+s.Relogins() == before {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
			}
		}
	})
	rounds := 200
	if testing.Short() {
		rounds = 40
	}
	var work sync.WaitGroup
	for w := range 8 {
		work.Go(func() {
			for n := range rounds {
				out, in := pattern(8*blockSize, byte(w*31+n)), make([]byte, 8*blockSize)
				if err := doAgain(s, func(k *Task) { k.SetWrite(uint64(w*8), 8, out) }); err != nil {
					t.Error(err)
					return
				}
				if err := doAgain(s, func(k *Task) { k.SetRead(uint64(w*8), 8, in) }); err != nil || !slices.Equal(in, out) {
					t.Errorf("what was written does not come back: %v", err)
					return
				}
			}
		})
	}
	work.Wait()
	close(stop)
	cutting.Wait()
	if s.Rejoins() == 0 {
		t.Error("no connection was taken up again")
	}
}

// doAgain carries a command out, again after a unit attention, which a new session brings.
func doAgain(s *Session, set func(*Task)) error {
	for {
		k := Task{LUN: 1}
		set(&k)
		err := s.Do(&k)
		if status, ok := err.(*StatusError); !ok || status.Key()>>16 != 6 {
			return err
		}
	}
}
