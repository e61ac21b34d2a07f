package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// A server that lags behind the log is fed the difference: the chunks changed since its own checkpoint,
// and of those only the blocks whose checksums differ, as of a checkpoint of the server it takes them from.
// What it takes is staged beside its own state, which stays whole, as does its log, until everything is
// there; then the state and the log change over in one step. So it keeps every promise it made to the
// agreement at any moment of this.

// Named limits of catching up.
const (
	maxRounds = 64 // times what changed meanwhile is fetched, before catching up begins anew
	// holdTime is how long after it was asked for something a server puts its next checkpoint off, while another
	// catches up from it; it does not put it off once 1/holdShare of the memory for changed blocks is taken.
	holdTime  = 5 * time.Second
	holdShare = 2
	// maxHeldLog is up to how many bytes of log a master keeps while a server catches up, so that what that one has
	// then is not too little again; maxHeldCheckpoints is how many checkpoints back at the most.
	maxHeldLog         = 2 << 30
	maxHeldCheckpoints = 1024
	// snapshotRetry is how often a master tells a lagging server again to catch up.
	snapshotRetry = 2 * time.Second
)

// base is the checkpoint that other servers are brought to.
type base struct {
	index, term uint64
	members     raftpb.ConfState
	meta        []byte
	objects     []store.Object
}

// snapshot is raft's notion of the base: its position. The content is fetched apart.
func (c *Core) snapshot() (raftpb.Snapshot, error) {
	if c.base.index == 0 || c.base.index < c.mem.table.Index {
		// A server can't take a checkpoint over that does not know it: it was taken in since.
		c.wanted = max(c.wanted, c.mem.table.Index)
		return raftpb.Snapshot{}, raft.ErrSnapshotTemporarilyUnavailable
	}
	return raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{
		Index: c.base.index, Term: c.base.term, ConfState: c.base.members}}, nil
}

// retrySnapshots has the master tell servers that lag too far again and again: the word may be lost,
// and so may the server's attempt.
func (c *Core) retrySnapshots() {
	if !c.view.Self || c.now < c.retryAt {
		return
	}
	c.retryAt = c.now + snapshotRetry
	c.holdLog = false
	for _, p := range c.node.Progress(nil) {
		if p.Lagging {
			c.holdLog = c.holdLog || p.Active
			c.node.SnapshotDone(p.ID, false)
		}
	}
}

// CatchUp is a server's way out of lagging too far.
type CatchUp struct {
	From    cell.ID        // who has what is missing: whom the configuration names, or the master
	Need    uint64         // the index that a checkpoint must stand at or after to be of use
	Staging *store.Staging // where it goes
	Since   uint64         // what this server has

	// Progress, unless nil, is called by Pull with how many chunks of how many are staged.
	Progress func(done, of int)

	told raftpb.Message // the master's word that started it
	got  *Manifest      // set when everything is staged
	sent bool           // given to agreement
	void atomic.Bool    // not wanted any more: who carries it out may end it
}

// ErrNotNeeded ends a catch-up that is not wanted any more.
var ErrNotNeeded = errors.New("the log reached this server meanwhile")

func (c *Core) lag(m raftpb.Message) {
	if c.behind == nil {
		from, _ := cell.FromRaft(m.From) // checked where it came in
		if c.cfg.Source != nil && *c.cfg.Source != c.cfg.ID {
			from, c.cfg.Source = *c.cfg.Source, nil // if that fails, the master is next
		}
		c.behind = &CatchUp{From: from, Need: m.Snapshot.Metadata.Index, told: m}
	}
}

// catchUp moves a catch-up forward: staging can't begin while a checkpoint is made, and the
// installation needs a master to have come from.
func (c *Core) catchUp(out *Output) error {
	b := c.behind
	switch {
	case b == nil:
		return nil
	case b.Staging == nil:
		if c.flushing {
			return nil
		}
		st, err := c.store.Stage()
		if err != nil {
			return fmt.Errorf("catching up: %w", err)
		}
		b.Staging, b.Since = st, c.store.Index()
		out.CatchUp = b
		return nil
	case b.sent:
		return nil
	case b.got == nil:
		// While it lasts no checkpoint is made. Entries that fill the memory meanwhile show that this
		// server is fed from the log: then it does not need what it is fetching.
		if c.full() {
			b.void.Store(true)
		}
		return nil
	case b.got.Index <= c.applied || c.full(): // a master, too, applies everything soon
		c.behind = nil
		return b.Staging.Abandon()
	case !c.view.Known || c.view.Self || c.hurt.wait: // what waits for a repair was agreed before: it goes first
		return nil
	}
	members, _, _, err := decodeMeta(b.got.Meta)
	if err != nil {
		return c.CaughtUp(nil, err)
	}
	// The state is of agreed entries only, so it is good under any term: that of today makes agreement
	// take it.
	m := b.told
	m.Term, m.From = c.view.Term, c.node.Master()
	m.Snapshot = &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{
		Index: b.got.Index, Term: b.got.Term, ConfState: members}}
	b.sent = true
	if err := c.node.Step(c.now, m, 0, 0); err != nil {
		return err
	}
	c.node.Ready(&c.agreed)
	for i := range c.agreed.Appends {
		if c.agreed.Appends[i].Snapshot != nil {
			c.hand(out)
			return nil
		}
	}
	c.hand(out)
	// Agreement has no use for it: the log came meanwhile.
	c.behind = nil
	return b.Staging.Abandon()
}

// CaughtUp tells how carrying out Output.CatchUp ended.
func (c *Core) CaughtUp(m *Manifest, err error) error {
	b := c.behind
	if b.void.Load() {
		err = ErrNotNeeded
	}
	if err == nil && m.Index > c.applied {
		b.got = m
		return nil
	}
	if err != nil {
		c.logger.Warn("catching up failed; the master will ask again", "from", b.From, "error", err)
	}
	c.behind = nil
	if errors.Is(err, ErrNotNeeded) || err == nil {
		return b.Staging.Abandon()
	}
	b.Staging.Suspend() // the next attempt goes on from there
	return nil
}

// install brings the staged state to disk. The log writer calls it; nothing is applied meanwhile, as
// agreement hands out no entries while a snapshot is being installed.
func (b *CatchUp) install() error {
	return b.Staging.Install(b.got.Index, b.got.Term, b.got.Meta, b.got.Objects)
}

// installed takes the state over that install brought to disk.
func (c *Core) installed() error {
	got := c.behind.got
	members, table, meta, err := decodeMeta(got.Meta)
	if err == nil {
		err = c.machine.Restore(meta)
	}
	if err != nil {
		return fmt.Errorf("state at %d from server %d: %w", got.Index, c.behind.From, err)
	}
	c.logger.Info("caught up", "from", c.behind.From, "index", got.Index, "was", c.applied)
	c.applied, c.appTerm = got.Index, got.Term
	c.mem.table, c.tableNews = table, true
	c.digest.begin(c.applied)
	c.checkpoints = []uint64{got.Index}
	c.base = base{index: got.Index, term: got.Term, members: members, meta: got.Meta, objects: c.store.Objects(store.Checkpoint)}
	c.flushAt, c.behind = c.now, nil
	return nil
}

// Manifest says what a server that lags has to fetch.
type Manifest struct {
	Index, Term uint64 // of the checkpoint it describes
	Meta        []byte
	Objects     []store.Object
	Chunks      []ChangedChunk // since the index that was asked for
}

// ChangedChunk names a chunk, and the index of the last entry that changed it, which determines its content.
type ChangedChunk struct {
	ChunkRef
	Index uint64
}

// ChunkRef names a chunk of an object.
type ChunkRef struct {
	Object uint64
	Chunk  uint32
}

// Source is a server that a lagging one takes the difference from.
type Source interface {
	// Manifest tells what has changed since an index, as of the source's checkpoint.
	Manifest(since uint64) (*Manifest, error)
	// Image makes img the image of a chunk as of the source's checkpoint, with the bytes of the blocks in
	// want. ErrMoved says that the object is gone from there.
	Image(ref ChunkRef, want *store.Blocks, img *store.Image) error
}

// ErrMoved reports that a source's checkpoint is not the one its manifest told of any more.
var ErrMoved = errors.New("the source made a new checkpoint")

// voidSource is a Source that ends with the catch-up it is for.
type voidSource struct {
	Source
	b *CatchUp
}

func (v voidSource) Manifest(since uint64) (*Manifest, error) {
	if v.b.void.Load() {
		return nil, ErrNotNeeded
	}
	return v.Source.Manifest(since)
}

func (v voidSource) Image(ref ChunkRef, want *store.Blocks, img *store.Image) error {
	if v.b.void.Load() {
		return ErrNotNeeded
	}
	return v.Source.Image(ref, want, img)
}

// Pull stages everything that src has and this server has not, or ends when that is not wanted any more.
func (b *CatchUp) Pull(src Source) (*Manifest, error) {
	return pull(b.Staging, b.Since, voidSource{src, b}, b.Progress)
}

// pull stages everything that src has and the server with this staging has not; what is staged already it does not
// fetch again. The source goes on working and may make checkpoints meanwhile; what these changed is fetched in another
// round, until one round ends on the checkpoint that it began with.
func pull(st *store.Staging, since uint64, src Source, progress func(done, of int)) (*Manifest, error) {
	if progress == nil {
		progress = func(int, int) {}
	}
	var img store.Image
	st.Restart()
	m, err := src.Manifest(since)
	for range maxRounds {
		if err != nil {
			return nil, err
		}
		err = pullChunks(st, m.Chunks, src, &img, progress)
		if err != nil && !errors.Is(err, ErrMoved) {
			return nil, err
		}
		moved := err != nil
		if !moved {
			since = m.Index // everything up to here is staged
		}
		next, err := src.Manifest(since)
		if err != nil {
			return nil, err
		}
		if !moved && next.Index == m.Index {
			return m, nil
		}
		m = next
	}
	return nil, fmt.Errorf("after %d rounds: %w", maxRounds, ErrMoved)
}

func pullChunks(st *store.Staging, chunks []ChangedChunk, src Source, img *store.Image, progress func(done, of int)) error {
	var none store.Blocks
	for i, c := range chunks {
		progress(i, len(chunks))
		ref := c.ChunkRef
		if has, err := st.Has(ref.Object, ref.Chunk, c.Index); err != nil {
			return err
		} else if has {
			continue
		}
		if err := src.Image(ref, &none, img); err != nil {
			return err
		}
		missing, err := st.Missing(img)
		if err != nil {
			return err
		}
		if missing.Len() > 0 {
			if err := src.Image(ref, &missing, img); err != nil {
				return err
			}
		}
		err = st.PutChunk(img)
		var damage *store.DamageError
		if errors.As(err, &damage) { // of our own bytes: take all of the source's
			if err = src.Image(ref, nil, img); err == nil {
				err = st.PutChunk(img)
			}
		}
		if err != nil {
			return err
		}
	}
	progress(len(chunks), len(chunks))
	return nil
}

// localSource is this server as a Source. The Core is asked for its base through ask.
type localSource struct {
	store *store.Store
	ask   func() base
	need  uint64 // index that the base must stand at or after; 0: whoever asks sees to that
}

// LocalSource makes a Core a Source for another in the same goroutine. ErrBehind says that its checkpoint does not
// stand at need or after it yet.
func LocalSource(c *Core, need uint64) Source {
	return &localSource{c.store, func() base { return c.offer(need) }, need}
}

// hold returns the base and keeps it for a while.
func (c *Core) hold() base {
	c.held = c.now + holdTime
	return c.base
}

// offer is hold for a server that needs a checkpoint at an index or after it. If that of the base is older, one is
// made soon, unless this server is not so far itself.
func (c *Core) offer(need uint64) base {
	if c.base.index >= need {
		return c.hold()
	}
	if c.applied >= need {
		c.wanted = max(c.wanted, need)
		c.held = 0
	}
	return c.base
}

// Manifest implements Source.
func (l *localSource) Manifest(since uint64) (*Manifest, error) {
	b := l.ask()
	if b.index < l.need {
		return nil, fmt.Errorf("%w: it stands at %d, and %d is needed", ErrBehind, b.index, l.need)
	}
	m := &Manifest{Index: b.index, Term: b.term, Meta: b.meta, Objects: b.objects}
	for _, o := range b.objects {
		err := l.store.ChangedSince(store.Checkpoint, o.Number, since, func(chunk uint32, changed uint64) bool {
			m.Chunks = append(m.Chunks, ChangedChunk{ChunkRef{o.Number, chunk}, changed})
			return true
		})
		if err != nil && !errors.Is(err, store.ErrNoObject) {
			return nil, err
		}
	}
	// Chunks listed of a later checkpoint do no harm: they are fetched as they are then, and the
	// caller notices that the checkpoint moved.
	return m, nil
}

// Image implements Source.
func (l *localSource) Image(ref ChunkRef, want *store.Blocks, img *store.Image) error {
	err := l.store.Export(store.Checkpoint, ref.Object, ref.Chunk, want, img)
	if errors.Is(err, store.ErrNoObject) {
		return ErrMoved
	}
	return err
}

// The byte form of a manifest: u64 index, u64 term, u32 size of meta, meta, u32 count of objects, for
// each u64 number, u64 born, u16 size of the label, label; u32 count of chunks, for each u64 object, u32
// chunk, u64 index of its last change. It travels in sealed parts.

// errManifest is wrapped by every error about bytes that are no manifest.
var errManifest = errors.New("not a manifest")

func appendManifest(b []byte, m *Manifest) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, m.Index)
	b = le.AppendUint64(b, m.Term)
	b = le.AppendUint32(b, uint32(len(m.Meta)))
	b = append(b, m.Meta...)
	b = le.AppendUint32(b, uint32(len(m.Objects)))
	for _, o := range m.Objects {
		b = le.AppendUint64(b, o.Number)
		b = le.AppendUint64(b, o.Born)
		b = le.AppendUint16(b, uint16(len(o.Label)))
		b = append(b, o.Label...)
	}
	b = le.AppendUint32(b, uint32(len(m.Chunks)))
	for _, c := range m.Chunks {
		b = le.AppendUint64(b, c.Object)
		b = le.AppendUint32(b, c.Chunk)
		b = le.AppendUint64(b, c.Index)
	}
	return b
}

// cutter takes fields off the front of bytes; after the first that is missing it only yields zeros.
type cutter struct {
	b     []byte
	short bool
}

func (c *cutter) take(n uint64) []byte {
	if n > uint64(len(c.b)) {
		c.short, c.b = true, nil
		return nil
	}
	head := c.b[:n]
	c.b = c.b[n:]
	return head
}

func (c *cutter) u16() uint16 {
	if b := c.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (c *cutter) u32() uint32 {
	if b := c.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (c *cutter) u64() uint64 {
	if b := c.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func parseManifest(b []byte) (*Manifest, error) {
	c := &cutter{b: b}
	m := &Manifest{Index: c.u64(), Term: c.u64()}
	m.Meta = c.take(uint64(c.u32()))
	for n := c.u32(); n > 0 && !c.short; n-- {
		o := store.Object{Number: c.u64(), Born: c.u64()}
		o.Label = string(c.take(uint64(c.u16())))
		m.Objects = append(m.Objects, o)
	}
	for n := c.u32(); n > 0 && !c.short; n-- {
		m.Chunks = append(m.Chunks, ChangedChunk{ChunkRef{c.u64(), c.u32()}, c.u64()})
	}
	if c.short || len(c.b) > 0 {
		return nil, fmt.Errorf("%w: %d bytes", errManifest, len(b))
	}
	return m, nil
}
