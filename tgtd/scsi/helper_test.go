package scsi

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// initiator is one session on a target.
type initiator struct {
	t      testing.TB
	target *Target
	nexus  *sam.Nexus
	tag    uint32
}

func attach(t testing.TB, tg *Target, session uint64, name string) *initiator {
	return attachISID(t, tg, session, name, [6]byte{0x80, 0, 0, 0, 0, byte(session)})
}

func attachISID(t testing.TB, tg *Target, session uint64, name string, isid [6]byte) *initiator {
	n := &sam.Nexus{Session: session, InitiatorName: name, ISID: isid, TargetTag: 1}
	tg.Attach(n)
	return &initiator{t: t, target: tg, nexus: n}
}

func (i *initiator) detach() { i.target.Detach(i.nexus) }

// result is what the initiator sees of a finished command.
type result struct {
	status  sam.Status
	sense   []byte
	data    []byte
	moved   uint64
	aborted bool
}

func (r result) code() senseCode {
	switch {
	case len(r.sense) == 0:
		return noSense
	case r.sense[0]&0x7e == 0x72:
		return senseCode(r.sense[1])<<16 | senseCode(r.sense[2])<<8 | senseCode(r.sense[3])
	}
	return senseCode(r.sense[2]&0xf)<<16 | senseCode(r.sense[12])<<8 | senseCode(r.sense[13])
}

// start sends a command; the result arrives on the channel.
func (i *initiator) start(c sam.Command, cdb []byte, in int, out []byte) <-chan result {
	i.tag++
	padded := make([]byte, 16)
	if copy(padded, cdb); len(cdb) > 16 {
		padded = cdb
	}
	done := make(chan result, 2)
	c.Nexus, c.CDB, c.InBytes, c.DataOut = i.nexus, padded, uint32(in), out
	if c.Tag == 0 {
		c.Tag = i.tag
	}
	if c.OutBytes == 0 {
		c.OutBytes = uint32(len(out))
	}
	c.Done = func(c *sam.Command) {
		r := result{c.Status, slices.Clone(c.Sense), slices.Clone(c.DataIn), c.Moved, c.Aborted}
		if len(r.data) > in {
			i.t.Errorf("% x: %d bytes of data-in where %d are expected", cdb, len(r.data), in)
		}
		if (c.Status == sam.CheckCondition) != (c.Sense != nil) && !c.Aborted {
			i.t.Errorf("% x: status %02x with sense % x", cdb, c.Status, c.Sense)
		}
		if c.Status != sam.Good && len(c.DataIn) > 0 && !fromTape(c.Sense) {
			i.t.Errorf("% x: data-in with status %02x", cdb, c.Status)
		}
		if c.Release != nil {
			c.Release(c)
		}
		done <- r
	}
	i.target.Execute(&c)
	return done
}

// fromTape says whether sense data tells of an incorrect length, a filemark or the end of the medium: data may come
// with those (SSC-3).
func fromTape(sense []byte) bool {
	if len(sense) > 3 && sense[0]&0x7e == 0x72 {
		return sense[len(sense)-4] == 0x04
	}
	return len(sense) > 2 && sense[2]&0xe0 != 0
}

// do sends a command and waits for it.
func (i *initiator) do(lun uint64, cdb []byte, in int, out []byte) result {
	return <-i.start(sam.Command{LUN: sam.LUN(lun), Attribute: sam.Simple}, cdb, in, out)
}

// clear drops the pending unit attentions of a unit.
func (i *initiator) clear(lun uint64) {
	for i.do(lun, make([]byte, 6), 0, nil).code().key() == 6 {
	}
}

// expect sends a command and fails unless it ends with the status and sense.
func (i *initiator) expect(lun uint64, cdb []byte, in int, out []byte, status sam.Status, code senseCode) result {
	i.t.Helper()
	r := i.do(lun, cdb, in, out)
	if r.status != status || r.code() != code {
		i.t.Fatalf("% x: status %02x sense %06x, want %02x %06x", cdb, r.status, r.code(), status, code)
	}
	return r
}

func (i *initiator) good(lun uint64, cdb []byte, in int, out []byte) []byte {
	i.t.Helper()
	return i.expect(lun, cdb, in, out, sam.Good, noSense).data
}

func cdb10(op byte, flags byte, lba uint32, n uint16) []byte {
	return []byte{op, flags, byte(lba >> 24), byte(lba >> 16), byte(lba >> 8), byte(lba), 0, byte(n >> 8), byte(n), 0}
}

func cdb16(op byte, flags byte, lba uint64, n uint32) []byte {
	return []byte{op, flags, byte(lba >> 56), byte(lba >> 48), byte(lba >> 40), byte(lba >> 32), byte(lba >> 24),
		byte(lba >> 16), byte(lba >> 8), byte(lba), byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), 0, 0}
}

func cdbCompare(flags byte, lba uint64, n byte) []byte {
	b := cdb16(0x89, flags, lba, 0)
	b[13] = n
	return b
}

// memory is a store in memory. Requests complete inside Submit, or are held back until told.
type memory struct {
	info backstore.Info

	mu      sync.Mutex
	bytes   []byte
	holding bool
	held    []*backstore.IO
	log     []backstore.IO
	fail    func(*backstore.IO) error
	caw     bool
	closed  bool
}

func newMemory(size int) *memory {
	m := &memory{bytes: make([]byte, size)}
	return m
}

func (m *memory) Info() backstore.Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	info := m.info
	info.Bytes = int64(len(m.bytes))
	return info
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errors.New("closed twice")
	}
	m.closed = true
	return nil
}

func (m *memory) Submit(io *backstore.IO) {
	m.mu.Lock()
	m.log = append(m.log, *io)
	if m.holding {
		m.held = append(m.held, io)
		m.mu.Unlock()
		return
	}
	m.execute(io)
	m.mu.Unlock()
	io.Done(io)
}

func (m *memory) execute(io *backstore.IO) {
	if m.closed {
		io.Err = errors.New("submitted after Close")
		return
	}
	if m.fail != nil {
		if io.Err = m.fail(io); io.Err != nil {
			return
		}
	}
	if io.Op != backstore.Flush && (io.Offset < 0 || io.Length < 0 || io.Offset+io.Length > int64(len(m.bytes))) {
		io.Err = fmt.Errorf("out of range: %d at %d", io.Length, io.Offset)
		return
	}
	part := m.bytes[io.Offset : io.Offset+io.Length]
	switch io.Op {
	case backstore.Read:
		copy(io.Data, part)
	case backstore.Write:
		copy(part, io.Data)
	case backstore.Unmap, backstore.WriteZeroes:
		clear(part)
	case backstore.CompareAndWrite:
		if !m.caw {
			io.Err = errors.ErrUnsupported
		} else if at := difference(part, io.Data[:io.Length]); at >= 0 {
			io.Err, io.Miscompare = backstore.ErrMiscompare, int64(at)
		} else {
			copy(part, io.Data[io.Length:])
		}
	case backstore.Status:
		io.Mapped, io.MappedLength = true, io.Length
	}
}

// hold makes the store keep requests back.
func (m *memory) hold() {
	m.mu.Lock()
	m.holding = true
	m.mu.Unlock()
}

// release completes what is held back and holds no more.
func (m *memory) release() {
	m.mu.Lock()
	held := m.held
	m.held, m.holding = nil, false
	for _, io := range held {
		m.execute(io)
	}
	m.mu.Unlock()
	for _, io := range held {
		io.Done(io)
	}
}

// releaseOne completes the oldest request that is held back.
func (m *memory) releaseOne() {
	m.mu.Lock()
	io := m.held[0]
	m.held = m.held[1:]
	m.execute(io)
	m.mu.Unlock()
	io.Done(io)
}

func (m *memory) ops() []backstore.Op {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ops []backstore.Op
	for _, io := range m.log {
		ops = append(ops, io.Op)
	}
	m.log = nil
	return ops
}

// disk makes a target with a disk of the store on LUN 1 and one session whose unit attentions are cleared.
func disk(t testing.TB, store backstore.Store) (*Target, *Unit, *initiator) {
	t.Helper()
	tg := NewTarget(1)
	u, err := NewUnit(UnitOptions{Type: Disk, TID: 1, LUN: 1, Path: "memory", StoreName: "memory", Store: store})
	if err != nil {
		t.Fatal(err)
	}
	if err := tg.AddUnit(1, u); err != nil {
		t.Fatal(err)
	}
	i := attach(t, tg, 1, "iqn.2000-01.probe:i")
	i.clear(1)
	return tg, u, i
}
