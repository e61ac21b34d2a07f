package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// The scrub reads everything that this server has on disk, a chunk at a time and no faster than ScrubRate: it checks
// the bytes against their records, and the records against those of the other servers as of their checkpoints. Blocks
// that the same entry changed last must be the same everywhere (store.Image.Differing), so what is found is damage
// that checksums don't show: a write that got lost together with its record, or a server that computed something else.
// Damage is repaired. Where servers differ the majority is right: the server that stands alone takes over what the
// others have; each looks after itself, when it is its turn.

const (
	// DefaultScrubEvery is the time from one scrub to the next.
	DefaultScrubEvery = 7 * 24 * time.Hour
	// DefaultScrubRate is how many bytes a second a scrub covers at the most.
	DefaultScrubRate = 16 << 20
	// scrubSave is how often the position of a scrub is written down.
	scrubSave = 10 * time.Second
	// scrubLook is how often it is looked whether a scrub is due.
	scrubLook = 10 * time.Second
	scrubName = "scrub"
	// maxScrubFile is the largest file of that name that is read, in bytes.
	maxScrubFile = 64 << 10
)

// scrub runs scrubs.
type scrub struct {
	r       *Replica
	command chan bool // true: begin one now, false: end the one that runs

	mu  sync.Mutex
	rep admin.Scrub
}

func newScrub(r *Replica) *scrub {
	return &scrub{r: r, command: make(chan bool, 1), rep: admin.Scrub{RateLimit: r.opts.ScrubRate}}
}

// StartScrub begins a scrub now, if none is running.
func (r *Replica) StartScrub() { r.scrub.tell(true) }

// StopScrub ends the scrub that is running; the next one goes on from there.
func (r *Replica) StopScrub() { r.scrub.tell(false) }

func (s *scrub) tell(begin bool) {
	select {
	case <-s.command: // the newer word counts
	default:
	}
	select {
	case s.command <- begin:
	default:
	}
}

func (s *scrub) report() admin.Scrub {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rep
}

func (s *scrub) change(f func(*admin.Scrub)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.rep)
}

// run scrubs when it is time to, until the server ends.
func (s *scrub) run() {
	if err := s.load(); err != nil {
		s.r.logger.Warn("where the last scrub stood is not known", "error", err)
	}
	t := time.NewTicker(scrubLook)
	defer t.Stop()
	for {
		begin := s.due(time.Now())
		if !begin {
			select {
			case <-s.r.ctx.Done():
				return
			case begin = <-s.command:
			case <-t.C:
			}
		}
		if begin {
			s.pass()
		}
		if s.r.ctx.Err() != nil {
			return
		}
	}
}

// due says whether a scrub is to begin, or to go on after a restart. The first one of a server begins so that those of
// a cell are spread over the time between two.
func (s *scrub) due(now time.Time) bool {
	every := s.r.opts.ScrubEvery
	if every < 0 {
		return false
	}
	rep := s.report()
	switch {
	case rep.Running:
		return true
	case rep.Started.IsZero():
		return s.r.now() >= every/cell.MaxServers*time.Duration(s.r.opts.ID+1)
	}
	return now.Sub(rep.Started) >= every
}

// pass carries a scrub out, from its beginning or from where it was interrupted.
func (s *scrub) pass() {
	rep := s.report()
	if !rep.Running {
		s.change(func(rep *admin.Scrub) {
			rep.Running = true
			if rep.Object == 0 { // the last one came to its end
				rep.Started, rep.Chunk, rep.CheckedBytes = time.Now(), 0, 0
			}
		})
	}
	s.r.logger.Info("scrub begins", "object", s.report().Object, "chunk", s.report().Chunk)
	p := &scrubPass{s: s, buf: make([]byte, store.VerifyBuffer), sources: map[cell.ID]*scrubSource{}, saved: time.Now()}
	defer p.close()
	ended, err := p.objects()
	if ended || err == nil && s.r.ctx.Err() == nil {
		s.change(func(rep *admin.Scrub) {
			rep.Running = false
			if ended {
				rep.Finished, rep.Object, rep.Chunk = time.Now(), 0, 0
			}
		})
	}
	rep = s.report()
	if err = errors.Join(err, s.save()); err != nil && s.r.ctx.Err() == nil {
		s.r.logger.Error("scrub", "error", err)
	}
	s.r.logger.Info("scrub ends", "complete", ended, "bytes", rep.CheckedBytes, "damaged", rep.Damaged,
		"unrepaired", rep.Unrepaired, "different", rep.Different, "replaced", rep.Replaced)
}

// load reads what save wrote.
func (s *scrub) load() error {
	f, err := s.r.fs.Open(scrubName, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxScrubFile))
	if err != nil {
		return err
	}
	var rep admin.Scrub
	if err := json.Unmarshal(b, &rep); err != nil {
		return fmt.Errorf("%s: %w", scrubName, err)
	}
	rep.RateLimit = s.r.opts.ScrubRate
	s.change(func(old *admin.Scrub) { *old = rep })
	return nil
}

// save writes the position down, so that a restart goes on from there. It need not be durable: an older position
// costs time only.
func (s *scrub) save() error {
	b, err := json.Marshal(s.report())
	if err != nil {
		return err
	}
	name := scrubName + ".tmp"
	f, err := s.r.fs.Open(name, disk.Create)
	if err != nil {
		return err
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return s.r.fs.Rename(name, scrubName)
}

// scrubPass is a scrub at work.
type scrubPass struct {
	s       *scrub
	buf     []byte
	sources map[cell.ID]*scrubSource
	saved   time.Time
	mine    store.Image
}

// scrubSource is another server to compare with. It is asked again only in the next pass once it failed.
type scrubSource struct {
	src  *remoteSource // nil: it can't be asked
	stop func()
	img  store.Image
	good bool // img is of the chunk at work
}

func (p *scrubPass) close() {
	for _, x := range p.sources {
		x.close()
	}
}

func (x *scrubSource) close() {
	if x.src != nil {
		x.stop()
		x.src.conn.Close()
		x.src = nil
	}
}

// objects goes through all objects. It reports whether it came to the end.
func (p *scrubPass) objects() (ended bool, err error) {
	r := p.s.r
	from := p.s.report()
	for _, o := range r.store.Objects(store.Checkpoint) {
		if o.Number < from.Object {
			continue
		}
		first := uint32(0)
		if o.Number == from.Object {
			first = from.Chunk
		}
		var chunks []uint32
		err := r.store.Chunks(o.Number, first, func(chunk uint32) bool { chunks = append(chunks, chunk); return true })
		if err != nil && !errors.Is(err, store.ErrNoObject) {
			return false, err
		}
		for _, chunk := range chunks {
			select {
			case begin := <-p.s.command:
				if !begin {
					return false, nil
				}
			default:
			}
			if err := p.chunk(ChunkRef{o.Number, chunk}); err != nil {
				return false, err
			}
			if r.ctx.Err() != nil {
				return false, nil
			}
		}
	}
	return true, nil
}

// chunk checks one chunk, and waits until the rate allows the next one.
func (p *scrubPass) chunk(ref ChunkRef) error {
	began := time.Now()
	r := p.s.r
	p.s.change(func(rep *admin.Scrub) { rep.Object, rep.Chunk = ref.Object, ref.Chunk })
	if time.Since(p.saved) >= scrubSave {
		p.saved = time.Now()
		if err := p.s.save(); err != nil {
			r.logger.Warn("the position of the scrub was not saved", "error", err)
		}
	}
	if err := p.records(ref); err != nil {
		return err
	}
	bad, bytes, first, err := r.store.Verify(store.Checkpoint, ref.Object, ref.Chunk, p.buf)
	if errors.Is(err, store.ErrNoObject) {
		return nil
	}
	if err != nil {
		return err
	}
	p.s.change(func(rep *admin.Scrub) { rep.CheckedBytes += uint64(bytes) })
	if bad.Len() > 0 {
		p.repair(ref, first)
	} else if err := p.compare(ref); err != nil {
		return err
	}
	pause := time.Duration(float64(bytes)/float64(r.opts.ScrubRate)*float64(time.Second)) - time.Since(began)
	if pause > 0 {
		r.wait(pause)
	}
	return nil
}

// records has the records of a chunk that are in memory compared with the disk.
func (p *scrubPass) records(ref ChunkRef) error {
	d, err := p.s.r.store.VerifyRecords(ref.Object, ref.Chunk)
	if errors.Is(err, store.ErrNoObject) {
		return nil
	}
	if d != nil {
		p.s.r.logger.Warn("records were damaged on disk and not in memory", "object", ref.Object, "chunk", ref.Chunk,
			"mended", err == nil, "damage", d)
		p.s.change(func(rep *admin.Scrub) {
			rep.Damaged++
			if err != nil {
				rep.Unrepaired++
			}
		})
	}
	return err
}

func (p *scrubPass) repair(ref ChunkRef, first *store.DamageError) {
	done := make(chan error, 1)
	err := errRepairs
	if p.s.r.repairs.request(damagedAt(first), func(err error) { done <- err }) {
		select {
		case err = <-done:
		case <-p.s.r.ctx.Done():
			return
		}
	}
	p.s.change(func(rep *admin.Scrub) {
		rep.Damaged++
		if err != nil {
			rep.Unrepaired++
		}
	})
}

// compare holds the records of a chunk against those of the other servers.
func (p *scrubPass) compare(ref ChunkRef) error {
	r := p.s.r
	var none store.Blocks
	err := r.store.Export(store.Checkpoint, ref.Object, ref.Chunk, &none, &p.mine)
	var damage *store.DamageError
	if errors.Is(err, store.ErrNoObject) || errors.As(err, &damage) { // the latter is found the next time
		return nil
	}
	if err != nil {
		return err
	}
	var differ store.Blocks
	for _, id := range r.repairs.sources() {
		x := p.source(id)
		x.good = x.ask(ref)
		if !x.good {
			continue
		}
		d := p.mine.Differing(&x.img)
		differ.Union(&d)
	}
	for i := range store.BlocksPerChunk {
		if differ.Has(i) {
			p.judge(ref, i)
		}
	}
	return nil
}

func (p *scrubPass) source(id cell.ID) *scrubSource {
	x := p.sources[id]
	if x == nil {
		x = &scrubSource{}
		p.sources[id] = x
		if conn, err := p.s.r.dial(id); err == nil {
			x.src, x.stop = newRemoteSource(conn, repairTimeout), p.s.r.closeWith(conn)
		}
	}
	return x
}

// ask gets the records of a chunk as of the server's checkpoint.
func (x *scrubSource) ask(ref ChunkRef) bool {
	if x.src == nil {
		return false
	}
	var none store.Blocks
	err := x.src.Image(ref, &none, &x.img)
	if err != nil && !errors.Is(err, ErrMoved) && !errors.Is(err, errDamagedThere) {
		x.close()
	}
	return err == nil
}

// judge finds out who is wrong about a block that differs: this server, if more of the others that can be compared
// agree with each other than with it.
func (p *scrubPass) judge(ref ChunkRef, block int) {
	r := p.s.r
	p.s.change(func(rep *admin.Scrub) { rep.Different++ })
	votes := map[store.Record]int{p.mine.Records[block]: 1}
	var best *scrubSource
	for _, x := range p.sources {
		if !x.good || !p.mine.Comparable(&x.img, block) {
			continue // it says nothing about this state of the block
		}
		rec := x.img.Records[block]
		votes[rec]++
		if rec != p.mine.Records[block] && (best == nil || votes[rec] > votes[best.img.Records[block]]) {
			best = x
		}
	}
	own := votes[p.mine.Records[block]]
	log := r.logger.With("object", ref.Object, "chunk", ref.Chunk, "block", block, "here", p.mine.Records[block])
	switch {
	case best == nil:
		return
	case votes[best.img.Records[block]] <= own:
		log.Error("another server's block differs from what this one and others have",
			"agree", own, "theirs", best.img.Records[block])
		return
	}
	rec := best.img.Records[block]
	log.Error("this server's block differs from what most others have: it is replaced",
		"agree", votes[rec], "theirs", rec)
	var want store.Blocks
	want.Add(block)
	var img store.Image
	if best.src == nil || best.src.Image(ref, &want, &img) != nil || img.Records[block] != rec {
		return // it went on meanwhile; the next scrub finds it again
	}
	r.drive(func(time.Duration) error {
		done, err := r.core.Replace(&img, &want)
		if errors.Is(err, store.ErrNoObject) {
			return nil
		}
		p.s.change(func(rep *admin.Scrub) { rep.Replaced += uint64(done.Len()) })
		return err
	})
}
