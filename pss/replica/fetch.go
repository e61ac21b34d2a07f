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
	r.logger.Info("catching up", "from", b.From, "since", b.Since)
	f := &fetching{r: r, began: time.Now()}
	r.fetch.Store(f)
	m, err := r.fetchAll(b, f)
	r.fetch.Store(nil)
	r.drive(func(time.Duration) error { return r.core.CaughtUp(m, err) })
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

	bytes  atomic.Int64 // received
	done   atomic.Int64 // chunks of the present round that are staged
	chunks atomic.Int64 // of the present round
}

func (f *fetching) report() *admin.CatchUp {
	if f == nil {
		return nil
	}
	took := time.Since(f.began).Seconds()
	rep := &admin.CatchUp{Bytes: f.bytes.Load(), Chunks: f.chunks.Load(), ChunksDone: f.done.Load()}
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
	f    *fetching
	last ChunkRef
}

// Manifest implements Source.
func (s *pacedSource) Manifest(since uint64) (*Manifest, error) {
	m, err := s.remoteSource.Manifest(since)
	if err == nil {
		s.f.chunks.Store(int64(len(m.Chunks)))
		s.f.done.Store(0)
	}
	return m, err
}

// Image implements Source.
func (s *pacedSource) Image(ref ChunkRef, want *store.Blocks, img *store.Image) error {
	err := s.remoteSource.Image(ref, want, img)
	s.f.took(len(s.buf))
	if ref != s.last {
		s.last = ref
		s.f.done.Add(1)
	}
	return err
}

func (r *Replica) fetchAll(b *CatchUp, f *fetching) (*Manifest, error) {
	p := r.peer(b.From)
	if p == nil {
		return nil, fmt.Errorf("server %d is not in this cell", b.From)
	}
	conn, err := p.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer r.closeWith(conn)()
	return b.Pull(&pacedSource{remoteSource: newRemoteSource(conn, fetchTimeout), f: f})
}

// remoteSource is another server as a Source.
type remoteSource struct {
	conn    net.Conn
	w       *wire.Writer
	rd      *wire.Reader
	buf     []byte
	timeout time.Duration // of one answer
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
	if err := s.w.Frame(wire.KindManifest, 0, 0, binary.LittleEndian.AppendUint64(nil, since)); err != nil {
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
		if h.Code == lastPart {
			return parseManifest(all)
		}
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
	source Source
	w      *wire.Writer
	img    store.Image
	buf    []byte
}

func newFetchServer(r *Replica, conn net.Conn) *fetchServer {
	w := wire.NewWriter(conn)
	w.Timeout = fetchTimeout
	return &fetchServer{r: r, w: w, source: &localSource{r.store, func() base {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.core.hold()
	}}}
}

func (s *fetchServer) answer(rd *wire.Reader, h wire.Header, to cell.ID) error {
	b, err := rd.View()
	if err != nil {
		return err
	}
	if h.Kind == wire.KindManifest {
		if len(b) != 8 {
			return fmt.Errorf("%w: a manifest request of %d bytes", wire.ErrProtocol, len(b))
		}
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
