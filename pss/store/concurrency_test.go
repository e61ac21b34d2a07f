package store

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// TestReadersBesideAll lets readers of all kinds run while entries are applied, frozen, flushed and
// deleted on a store whose caches hold next to nothing. Every block holds one number throughout, so
// that a reader that sees two versions mixed notices; numbers must not go back.
func TestReadersBesideAll(t *testing.T) {
	const blocks, rounds, perRound = 3 * 1024, 20, 40
	s, _, err := Open(disk.NewMem(), tiny())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Create(1, "v", 1); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for kind := range 4 {
		readers.Go(func() {
			if err := readUntil(s, kind, blocks, stop); err != nil {
				t.Error(err)
			}
		})
	}
	rng := rand.New(rand.NewPCG(1, 2))
	index := uint64(1)
	for round := range rounds {
		for range perRound {
			index++
			first, n := rng.IntN(blocks-8), 1+rng.IntN(8)
			if err := writeNumber(s, first, n, index); err != nil {
				t.Fatal(err)
			}
		}
		index++
		if err := errors.Join(s.Create(1000+uint64(round), "", index), s.Write(1000+uint64(round), 0, make([]byte, BlockSize),
			sumBytes(0, make([]byte, BlockSize)), 0, index)); err != nil {
			t.Fatal(err)
		}
		f, err := s.Freeze(index, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- f.Run() }()
		for range perRound { // entries beside the flush
			index++
			if err := writeNumber(s, rng.IntN(blocks), 1, index); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		index++
		if err := s.Delete(1000+uint64(round), index); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	readers.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// writeNumber fills blocks with a number that tells their entry.
func writeNumber(s *Store, first, n int, index uint64) error {
	p := make([]byte, n*BlockSize)
	for i := 0; i < len(p); i += 4 {
		p[i], p[i+1], p[i+2] = byte(index>>16), byte(index>>8), byte(index)
	}
	off := int64(first) * BlockSize
	return s.Write(1, off, p, sumBytes(off, p), 0, index)
}

func readUntil(s *Store, kind, blocks int, stop chan struct{}) error {
	rng := rand.New(rand.NewPCG(uint64(kind), 3))
	p := make([]byte, 16*BlockSize)
	seen := make([]uint32, blocks)
	see := func(block int, b []byte) error {
		if !bytes.Equal(b[4:], b[:len(b)-4]) {
			return errors.New("two versions of a block are mixed")
		}
		v := uint32(b[0])<<16 | uint32(b[1])<<8 | uint32(b[2])
		if v < seen[block] {
			return errors.New("a block went back in time")
		}
		seen[block] = v
		return nil
	}
	var img Image
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		first := rng.IntN(blocks - 16)
		switch kind {
		case 0, 1:
			n := 1 + rng.IntN(16)
			sums := make([]uint32, n)
			if err := s.ReadSums(1, int64(first)*BlockSize, p[:n*BlockSize], sums); err != nil {
				return err
			}
			for i := range n {
				b := p[i*BlockSize : (i+1)*BlockSize]
				if op.Sum(b) != sums[i] {
					return errors.New("a sum does not belong to its block")
				}
				if err := see(first+i, b); err != nil {
					return err
				}
			}
		case 2:
			chunk := first / BlocksPerChunk
			if err := s.Export(Newest, 1, uint32(chunk), nil, &img); err != nil {
				return err
			}
			for i, q := 0, img.Data; i < BlocksPerChunk; i++ {
				if !img.Has.Has(i) {
					continue
				}
				if img.Records[i].Index > img.Index {
					return errors.New("a block is newer than its chunk")
				}
				if err := see(chunk*BlocksPerChunk+i, q[:BlockSize]); err != nil {
					return err
				}
				q = q[BlockSize:]
			}
			if err := img.check(); err != nil {
				return err
			}
		case 3:
			if _, err := s.Digest(1); err != nil {
				return err
			}
			if _, _, err := s.Allocated(1, int64(first)*BlockSize, ChunkSize); err != nil {
				return err
			}
			for _, o := range s.Objects(Newest) {
				if err := s.ReadAt(o.Number, 0, p[:BlockSize]); err != nil && !errors.Is(err, ErrNoObject) {
					return err
				}
			}
		}
	}
}

// TestReaderBeforeFreeze holds a reader up that has looked into the overlay and not yet read the
// disk, and shows that a flush waits for it before it changes what the reader is going to read.
func TestReaderBeforeFreeze(t *testing.T) {
	r := newRig(t)
	r.do("create", 1, 0, 0)
	r.do("write", 1, 0, BlockSize)
	r.flush()
	want := bytes.Clone(r.now.block(1, 0))

	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	chunk := chunkFile(r.s.inDir(dataName)+"/0000000000000001-vol_1", 0)
	var wrote sync.Once
	touched := make(chan struct{})
	r.mem.SetHook(func(op, name string) error {
		if op == disk.OpRead && name == chunk {
			once.Do(func() { close(held); <-release })
		}
		if op == disk.OpWrite && name == chunk {
			wrote.Do(func() { close(touched) })
		}
		return nil
	})
	got := make([]byte, BlockSize)
	read, flushed := make(chan error, 1), make(chan error, 1)
	go func() { read <- r.s.ReadAt(1, 0, got) }()
	<-held
	r.do("write", 1, 0, BlockSize)
	f := r.freeze()
	go func() { flushed <- f.Run() }()
	// The flush gets as far as `prepared`, and then waits for the gate that the reader is in.
	gate := r.s.gate(r.s.objects[1], 0)
	for waits := false; !waits; {
		select {
		case <-touched:
			t.Error("the flush did not wait for the reader")
			waits = true
		case err := <-flushed:
			t.Error("the flush did not wait for the reader")
			flushed <- err
			waits = true
		default:
			if waits = !gate.TryRLock(); !waits {
				gate.RUnlock()
			}
		}
	}
	close(release)
	if err := errors.Join(<-read, <-flushed); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the reader did not get what was there when it began")
	}
	r.mem.SetHook(nil)
	r.equal(r.now)
}

// TestReaderOfTheDeleted shows that a reader that found an object just before it was deleted, and
// reads when its files are gone, finds no damage.
func TestReaderOfTheDeleted(t *testing.T) {
	r := newRig(t)
	r.do("create", 1, 0, 0)
	r.do("write", 1, 0, BlockSize)
	r.flush()
	o, err := r.s.find(Newest, 1)
	if err != nil {
		t.Fatal(err)
	}
	r.do("delete", 1, 0, 0)
	r.flush()
	p := []byte{1}
	if err := r.s.read(o, Newest, 0, p, nil); err != nil || p[0] != 0 {
		t.Errorf("read %d, %v", p[0], err)
	}
}

func TestCacheLimits(t *testing.T) {
	dropped := 0
	c := newCache(8, 1, func(k int) uint64 { return uint64(k) }, func(v *int) {
		if *v != 0 {
			dropped++
		}
		*v = 0
	})
	h := &c.shards[0]
	var pinned []*slot[int, int]
	for k := range 20 {
		s := c.pin(k)
		if s.value != 0 {
			t.Fatalf("the value of %d is that of another key", k)
		}
		s.value = k + 1
		pinned = append(pinned, s)
	}
	if len(h.ring) != 20 || dropped != 0 {
		t.Errorf("%d values with 20 pinned, %d dropped", len(h.ring), dropped)
	}
	for _, s := range pinned {
		c.unpin(s)
	}
	if len(h.ring) != 8 || len(h.slots) != 8 || dropped != 12 {
		t.Errorf("%d values with none pinned, %d dropped", len(h.ring), dropped)
	}
	for k := range 1000 {
		s := c.pin(k)
		s.value = 1
		c.unpin(s)
	}
	if len(h.ring) != 8 || len(h.slots) != 8 {
		t.Errorf("%d values, limit 8", len(h.ring))
	}
	s := c.pin(5)
	s.value = 7
	before := dropped
	c.remove(5)
	if again := c.pin(5); again == s {
		t.Error("a removed value was found")
	} else {
		c.unpin(again)
	}
	if dropped != before+0 && s.value != 7 {
		t.Error("a pinned value was dropped")
	}
	c.unpin(s)
	if s.value != 0 {
		t.Error("a removed value was not dropped when it was given back")
	}
	c.clear()
	if len(h.ring) != 0 || len(h.slots) != 0 {
		t.Error("clear leaves something")
	}
}
