package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// fetchTimeout is how long one answer of the server that another catches up from may take.
const fetchTimeout = 30 * time.Second

// maxManifest is the largest manifest that is accepted, in bytes.
const maxManifest = 1 << 30

// lastPart is the code of a manifest's last part.
const lastPart = 1

// catchUp carries a CatchUp out.
func (r *Replica) catchUp(b *CatchUp) {
	f := &fetching{r: r, began: time.Now(), since: b.Since}
	f.from.Store(uint32(b.From))
	b.Progress = func(done, of int) { f.done.Store(int64(done)); f.chunks.Store(int64(of)) }
	r.fetch.Store(f)
	m, err := r.fetchAll(b, f)
	r.fetch.Store(nil)
	r.drive(func(time.Duration) error { return r.core.CaughtUp(m, err) })
	r.sweep()
}

// sweep removes what was fetched in vain.
func (r *Replica) sweep() {
	if err := r.store.Sweep(); err != nil {
		r.logger.Warn("what was fetched in vain is left until the next start", "error", err)
	}
}

// DefaultCatchUpRate is how many bytes a second a server that catches up takes at the most: less than what
// clients need of the other server's disk and network.
const DefaultCatchUpRate = 128 << 20

// fetching is a catch-up under way: it counts, and keeps to the rate.
type fetching struct {
	r     *Replica
	began time.Time
	since uint64 // what this server had

	from   atomic.Uint32 // whom it takes it from
	bytes  atomic.Int64  // received
	done   atomic.Int64  // chunks of the present round that are staged
	chunks atomic.Int64  // of the present round
}

func (f *fetching) report() *admin.CatchUp {
	if f == nil {
		return nil
	}
	took := time.Since(f.began).Seconds()
	rep := &admin.CatchUp{From: cell.ID(f.from.Load()), Since: f.since, Bytes: f.bytes.Load(), Chunks: f.chunks.Load(), ChunksDone: f.done.Load()}
	rep.Rate = int64(float64(rep.Bytes) / took)
	if rep.ChunksDone > 0 {
		rep.SecondsLeft = took / float64(rep.ChunksDone) * float64(max(0, rep.Chunks-rep.ChunksDone))
	}
	return rep
}

// took counts bytes that were received, and waits as long as the rate wants.
func (f *fetching) took(n int) {
	all := f.bytes.Add(int64(n))
	f.r.fetchedBytes.Add(uint64(n))
	ahead := time.Duration(float64(all)/float64(f.r.opts.CatchUpRate)*float64(time.Second)) - time.Since(f.began)
	if ahead > minFetchPause {
		f.r.wait(ahead)
	}
}

// minFetchPause is the shortest pause that is worth a timer.
const minFetchPause = 5 * time.Millisecond

// pacedSource is a Source that is counted and keeps to a rate.
type pacedSource struct {
	*remoteSource
	f *fetching
}

// Image implements Source.
func (s pacedSource) Image(ref ChunkRef, want *store.Blocks, img *store.Image) error {
	err := s.remoteSource.Image(ref, want, img)
	s.f.took(len(s.buf))
	return err
}

// Named limits of finding a source.
const (
	behindTries = 8                      // times a source is asked whose checkpoint is too old
	behindPause = 100 * time.Millisecond // between them: it makes a new one meanwhile, if it can
)

// ErrBehind reports a source whose checkpoint is older than what is needed.
var ErrBehind = errors.New("the server's checkpoint is too old")

// candidates lists whom to catch up from: whom the configuration names, replicas, who have the time, core servers, and
// the master at last.
func (r *Replica) candidates(b *CatchUp) []cell.ID {
	var list []cell.ID
	master, _ := cell.FromRaft(b.told.From) // checked where it came in
	if b.From != master {
		list = append(list, b.From)
	}
	for _, id := range r.repairs.sources() {
		if id != master && id != b.From {
			list = append(list, id)
		}
	}
	return append(list, master)
}

// fetchAll takes what is missing from the first server that can give it. What one gave before it failed need not be
// fetched again.
func (r *Replica) fetchAll(b *CatchUp, f *fetching) (*Manifest, error) {
	var errs []error
	for _, id := range r.candidates(b) {
		f.from.Store(uint32(id))
		m, err := r.fetchFrom(id, b, f)
		if err == nil || errors.Is(err, ErrNotNeeded) || r.ctx.Err() != nil {
			return m, err
		}
		r.logger.Info("a server can't give what is missing", "server", id, "error", err)
		errs = append(errs, fmt.Errorf("server %d: %w", id, err))
	}
	return nil, errors.Join(errs...)
}

func (r *Replica) fetchFrom(id cell.ID, b *CatchUp, f *fetching) (*Manifest, error) {
	conn, err := r.dial(id)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer r.closeWith(conn)()
	src := pacedSource{newRemoteSource(conn, fetchTimeout), f}
	src.need = b.Need
	for range behindTries {
		var m *Manifest
		m, err = b.Pull(src)
		if err == nil {
			r.logger.Info("fetched the difference", "from", id, "since", b.Since, "index", m.Index, "bytes", f.bytes.Load())
		}
		if !errors.Is(err, ErrBehind) || !r.wait(behindPause) {
			return m, err
		}
	}
	return nil, err
}

// remoteSource is another server as a Source.
type remoteSource struct {
	conn    net.Conn
	w       *wire.Writer
	rd      *wire.Reader
	buf     []byte
	timeout time.Duration // of one answer
	need    uint64        // index that the source's checkpoint must stand at or after
}

func newRemoteSource(conn net.Conn, timeout time.Duration) *remoteSource {
	return &remoteSource{conn: conn, w: wire.NewWriter(conn), rd: wire.NewReader(conn), timeout: timeout}
}

func (s *remoteSource) begin() error { return s.conn.SetDeadline(time.Now().Add(s.timeout)) }

// Manifest implements Source.
func (s *remoteSource) Manifest(since uint64) (*Manifest, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	ask := binary.LittleEndian.AppendUint64(nil, since)
	if err := s.w.Frame(wire.KindManifest, 0, 0, binary.LittleEndian.AppendUint64(ask, s.need)); err != nil {
		return nil, err
	}
	if err := s.w.Flush(); err != nil {
		return nil, err
	}
	var all []byte
	for {
		h, err := s.next(wire.KindManifestPart)
		if err != nil {
			return nil, err
		}
		if len(all)+int(h.Size) > maxManifest {
			return nil, fmt.Errorf("%w: a manifest of more than %d bytes", wire.ErrProtocol, maxManifest)
		}
		at := len(all)
		all = append(all, make([]byte, h.Size)...)
		if err := s.rd.Body(all[at:]); err != nil {
			return nil, err
		}
		if h.Code != lastPart {
			continue
		}
		m, err := parseManifest(all)
		if err == nil && m.Index < s.need {
			err = fmt.Errorf("%w: it stands at %d, and %d is needed", ErrBehind, m.Index, s.need)
		}
		return m, err
	}
}

func (s *remoteSource) next(want wire.Kind) (wire.Header, error) {
	h, err := s.rd.Next()
	if err == nil && h.Kind != want {
		err = fmt.Errorf("%w: %v for %v", wire.ErrProtocol, h.Kind, want)
	}
	return h, err
}

// The code of a fetch says which state of the source is asked for. A server of an earlier version shows its
// checkpoint whatever the code is, and the receiver finds out what it may use of that.
const (
	fetchCheckpoint = 0
	fetchNewest     = 1
)

// Image implements Source.
func (s *remoteSource) Image(ref ChunkRef, want *store.Blocks, img *store.Image) error {
	return s.image(fetchCheckpoint, ref, want, img)
}

// errDamagedThere reports that the other server's copy is damaged too. It repairs it by itself.
var errDamagedThere = errors.New("the other server's copy is damaged")

func (s *remoteSource) image(code uint16, ref ChunkRef, want *store.Blocks, img *store.Image) error {
	f := wire.Fetch{Object: ref.Object, Chunk: ref.Chunk}
	if want != nil {
		f.Blocks = *want
	} else {
		for i := range f.Blocks {
			f.Blocks[i] = 1<<64 - 1
		}
	}
	if err := s.begin(); err != nil {
		return err
	}
	if err := s.w.Frame(wire.KindFetch, code, 0, wire.AppendFetch(nil, &f)); err != nil {
		return err
	}
	if err := s.w.Flush(); err != nil {
		return err
	}
	h, err := s.next(wire.KindImage)
	if err != nil {
		return err
	}
	if cap(s.buf) < int(h.Size) {
		s.buf = make([]byte, h.Size)
	}
	s.buf = s.buf[:h.Size]
	if err := s.rd.Body(s.buf); err != nil {
		return err
	}
	switch op.Errno(h.Code) {
	case op.OK:
		return img.Parse(s.buf)
	case op.NotFound:
		return ErrMoved
	case op.ReadDamaged:
		return fmt.Errorf("chunk %d of object %d: %w", ref.Chunk, ref.Object, errDamagedThere)
	}
	return fmt.Errorf("chunk %d of object %d: %w", ref.Chunk, ref.Object, op.Errno(h.Code))
}

// fetchServer answers another server's questions for the difference, on one connection.
type fetchServer struct {
	r      *Replica
	source *localSource
	w      *wire.Writer
	img    store.Image
	buf    []byte
	need   uint64 // of the manifest that is asked for
	yield  yielding
}

func newFetchServer(r *Replica, conn net.Conn) *fetchServer {
	w := wire.NewWriter(conn)
	w.Timeout = fetchTimeout
	s := &fetchServer{r: r, w: w, yield: yielding{work: r.work}}
	s.source = &localSource{store: r.store, ask: func() base {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.core.offer(s.need)
	}}
	return s
}

func (s *fetchServer) answer(rd *wire.Reader, h wire.Header, to cell.ID) error {
	b, err := rd.View()
	if err != nil {
		return err
	}
	if h.Kind == wire.KindManifest {
		if len(b) != 16 {
			return fmt.Errorf("%w: a manifest request of %d bytes", wire.ErrProtocol, len(b))
		}
		s.need = binary.LittleEndian.Uint64(b[8:])
		return s.manifest(binary.LittleEndian.Uint64(b))
	}
	f, err := wire.ParseFetch(b)
	if err != nil {
		return err
	}
	want := store.Blocks(f.Blocks)
	code := op.OK
	ref := ChunkRef{f.Object, f.Chunk}
	if h.Code == fetchNewest {
		if err = s.r.store.Export(store.Newest, f.Object, f.Chunk, &want, &s.img); errors.Is(err, store.ErrNoObject) {
			err = ErrMoved
		}
	} else {
		s.yield.wait(s.r.wait)
		s.r.keepBase()
		err = s.source.Image(ref, &want, &s.img)
	}
	var damage *store.DamageError
	switch {
	case errors.As(err, &damage):
		s.r.repairs.request(damagedAt(damage), nil)
		code, s.buf = op.ReadDamaged, s.buf[:0]
	case errors.Is(err, ErrMoved):
		code, s.buf = op.NotFound, s.buf[:0]
	case err != nil:
		return fmt.Errorf("chunk %d of object %d for server %d: %w", f.Chunk, f.Object, to, err)
	default:
		s.buf = s.img.Append(s.buf[:0])
	}
	s.yield.gave(len(s.buf), s.r.opts.CatchUpFloor)
	if err := s.w.Frame(wire.KindImage, uint16(code), 0, s.buf); err != nil {
		return err
	}
	return s.w.Flush()
}

func (s *fetchServer) manifest(since uint64) error {
	m, err := s.source.Manifest(since)
	if err != nil {
		return err
	}
	for b, code := appendManifest(nil, m), uint16(0); code != lastPart; {
		n := min(len(b), wire.MaxPart)
		if n == len(b) {
			code = lastPart
		}
		if err := s.w.Frame(wire.KindManifestPart, code, 0, b[:n]); err != nil {
			return err
		}
		if err := s.w.Flush(); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
