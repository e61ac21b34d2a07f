package replica

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/machine"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// Named limits of the runtime.
const (
	maxConnections = 1024                // TCP connections that have greeted, at the same time
	maxClients     = maxConnections - 64 // of them, clients'; the rest is for the other servers
	// The Default… are what stands for the zero values of Options.
	DefaultCheckpointBytes = 64 << 20
	DefaultOverlayBytes    = 256 << 20
	DefaultCheckpointEvery = 30 * time.Second
	DefaultSegmentBytes    = 64 << 20
)

// Options sets up a Replica.
type Options struct {
	Cell   *cell.Config
	ID     cell.ID
	Root   string // folder of this server alone; made when it isn't there
	Timing agreement.Timing
	Logger *slog.Logger

	// Source is the server that what is missing is taken from first, should the log not reach this server; nil: the
	// master.
	Source *cell.ID

	// Sizes of the log and the store; zero values stand for the defaults.
	CheckpointBytes int64         // of changed blocks in memory that begin a checkpoint
	OverlayBytes    int64         // of changed blocks in memory at the most
	CheckpointEvery time.Duration // between checkpoints at the most, while anything changes
	SegmentBytes    int64         // of a log segment

	CatchUpRate  int64         // bytes a second that a server which lags too far takes from another at the most
	CatchUpFloor int64         // bytes a second that it gets from this one at least, however busy clients keep it
	HealEvery    time.Duration // from one time that the server gives its root up by itself to the next (Heal)
	ScrubEvery   time.Duration // from one scrub to the next; negative: only when it is asked for
	ScrubRate    int64         // bytes a second that a scrub covers

	Inject     bool          // faults that a tool asks for (admin.MethodInject)
	Disk       disk.FS       // what Root is on; nil: the folder Root. Tests give a disk that can fail
	ClientIdle time.Duration // after which a client that says nothing is dropped; zero stands for DefaultClientIdle
}

func (o Options) withDefaults() Options {
	o.CheckpointBytes = cmp.Or(o.CheckpointBytes, DefaultCheckpointBytes)
	o.OverlayBytes = cmp.Or(o.OverlayBytes, DefaultOverlayBytes)
	o.CheckpointEvery = cmp.Or(o.CheckpointEvery, DefaultCheckpointEvery)
	o.SegmentBytes = cmp.Or(o.SegmentBytes, DefaultSegmentBytes)
	o.CatchUpRate = cmp.Or(o.CatchUpRate, DefaultCatchUpRate)
	o.CatchUpFloor = cmp.Or(o.CatchUpFloor, DefaultCatchUpFloor)
	o.HealEvery = cmp.Or(o.HealEvery, DefaultHealEvery)
	o.ScrubEvery = cmp.Or(o.ScrubEvery, DefaultScrubEvery)
	o.ScrubRate = cmp.Or(o.ScrubRate, DefaultScrubRate)
	o.ClientIdle = cmp.Or(o.ClientIdle, DefaultClientIdle)
	return o
}

// Replica is one server of a cell: a Core with its log, its store, its clock and its sockets around it.
type Replica struct {
	opts    Options
	self    cell.Server
	logger  *slog.Logger // writes to the journal, too
	journal *journal
	cut     cuts
	ticked  atomic.Int64 // on the server's clock: when its clock last went on
	loads   loads
	heard   [cell.MaxServers]atomic.Int64 // unix nanoseconds: when something last came from each server
	start   time.Duration                 // on machine.SinceBoot
	fs      disk.FS                       // of the root
	rooted  interface{ Close() error }    // the lock on the root
	memory  *Memory
	kept    chan []agreement.Promise // one token: the newest that is to be kept of the others
	log     *log.Log
	store   *store.Store
	pool    bufferPool
	slabs   *wire.SlabPool
	// touched lends lists of outlets (*[]*outlet) to drive.
	touched sync.Pool

	mu    sync.Mutex // guards core and out
	core  *Core
	out   Output
	fatal error
	room  admin.Space

	place   place
	appends *appendQueue
	reads   chan *agreement.Read
	upkeep  *upkeep
	repairs *repairs
	scrub   *scrub
	fetch   atomic.Pointer[fetching] // the catch-up under way

	fetchedBytes atomic.Uint64 // by all catch-ups
	tcp          net.Listener
	udp          *datagrams

	refused refusals
	dialled peerConnections
	causes  causes

	maxClients int // maxClients, but in tests
	clients    struct {
		sync.Mutex
		all map[*client]struct{}
	}
	admins chan struct{} // a token for each administrative connection
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// Open starts a server of the cell: it takes its root, recovers what the root holds, binds its ports
// and joins the others. It returns when clients can connect; the cell may have no master yet.
func Open(o Options) (*Replica, error) {
	o = o.withDefaults()
	self, ok := o.Cell.Server(o.ID)
	if !ok {
		return nil, fmt.Errorf("%s has no record of server %d", o.Cell.File, o.ID)
	}
	journal := newJournal()
	o.Logger = slog.New(journalHandler{Handler: o.Logger.Handler(), j: journal})
	r := &Replica{opts: o, self: self, logger: o.Logger, journal: journal, start: machine.SinceBoot(), slabs: wire.NewSlabPool(),
		place: newPlace(), maxClients: maxClients, reads: make(chan *agreement.Read, agreement.MaxReads),
		kept:   make(chan []agreement.Promise, 1),
		admins: make(chan struct{}, maxAdmins)}
	r.clients.all = make(map[*client]struct{})
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if o.Cell.Auth == nil {
		r.logger.Warn("the cell is open: without a cell key anybody who reaches this server can read and change everything",
			"key", auth.File(o.Cell.File))
	}
	if err := r.recover(); err != nil {
		r.closeFiles()
		return nil, fmt.Errorf("server %d, %s: %w", o.ID, o.Root, err)
	}
	if err := r.bind(); err != nil {
		r.closeFiles()
		return nil, fmt.Errorf("server %d: %w", o.ID, err)
	}
	r.run()
	return r, nil
}

// recover opens the root's log and store and starts the Core where they stand.
func (r *Replica) recover() error {
	fs := r.opts.Disk
	if fs == nil {
		var err error
		if fs, err = disk.Dir(r.opts.Root); err != nil {
			return err
		}
	}
	r.fs = fs
	var err error
	if r.rooted, err = disk.Lock(r.opts.Root); err != nil {
		return err
	}
	id, err := OpenIdentity(fs, r.opts.ID, crand.Reader)
	if err != nil {
		return err
	}
	if id.Refound {
		r.logger.Warn("the cell is founded again, with this server as its only member", "cell", id.Cell)
		if err := finishRefound(fs, &id, r.opts.SegmentBytes, r.opts.OverlayBytes); err != nil {
			return err
		}
	}
	r.place.identity.Store(&id)
	life := rand.Uint64() | 1
	if r.memory, err = OpenMemory(fs, life); err != nil {
		return err
	}
	st, ckpt, err := r.openFiles(fs)
	if err != nil {
		return err
	}
	r.core, err = NewCore(Config{
		ID: r.opts.ID, Identity: id, Servers: r.opts.Cell.Servers, Source: r.opts.Source,
		Life: life, Memory: r.memory, Timing: r.opts.Timing, Logger: r.logger,
		CheckpointBytes: stagger(r.opts.CheckpointBytes, r.opts.ID), OverlayBytes: r.opts.OverlayBytes,
		CheckpointEvery: stagger(r.opts.CheckpointEvery, r.opts.ID), ExpireSessions: true,
	}, r.log, st, ckpt, r.now())
	if err != nil {
		return err
	}
	r.logger.Info("recovered", "checkpoint", ckpt.Index, "log", r.log.Last())
	return nil
}

// openFiles opens the log and the store. Damage that is not healed here is a HealError: this server must
// neither vote nor acknowledge with what is left.
func (r *Replica) openFiles(fs disk.FS) (*store.Store, store.Position, error) {
	superseded, err := store.Checkpointed(fs, ".")
	if err != nil {
		return nil, store.Position{}, needsHealing(err)
	}
	r.log, err = log.Open(fs, "log", log.Options{SegmentBytes: r.opts.SegmentBytes, Direct: true,
		Superseded: superseded, Bodies: maxBodies})
	if err != nil {
		return nil, store.Position{}, needsHealing(err)
	}
	if d := r.log.Healed(); d != nil {
		r.logger.Warn("damaged segments of the log were given up: the checkpoint has what they led to",
			"checkpoint", superseded, "first", r.log.First(), "damage", d)
	}
	st, ckpt, err := OpenStore(fs, r.log, r.opts.OverlayBytes)
	if err != nil {
		return nil, ckpt, needsHealing(err)
	}
	r.store = st
	if first := r.log.First(); first > ckpt.Index+1 {
		return nil, ckpt, &HealError{fmt.Errorf("the log begins at %d but the checkpoint ends at %d", first, ckpt.Index)}
	}
	return st, ckpt, nil
}

// stagger makes a threshold larger for servers with higher ids: they all apply the same entries, and if all
// made their checkpoints at the same entry, no majority would have a disk to itself.
func stagger[T int64 | time.Duration](threshold T, id cell.ID) T {
	return threshold + threshold/8*T(id)
}

// OpenStore opens the store of a root whose log is l: a checkpoint that was cut short is completed from
// the log's entries. If the store was brought to a state that the log has not reached (CatchUp) and the
// log was to begin anew behind it, that is completed too.
func OpenStore(fs disk.FS, l *log.Log, overlayBytes int64) (*store.Store, store.Position, error) {
	st, at, err := store.Open(fs, store.Options{MaxOverlayBytes: overlayBytes, Bodies: bodies{l}, EntryData: func(index uint64) ([]byte, error) {
		es, err := l.Entries(index, index+1, op.MaxSize)
		if err != nil {
			return nil, err
		}
		return es[0].Data, nil
	}})
	if err != nil {
		return nil, at, err
	}
	if at.Index > 0 && l.First() <= at.Index+1 {
		// Whatever is checkpointed is in the log, unless it came from another server.
		if term, err := l.Term(at.Index); errors.Is(err, log.ErrUnavailable) || err == nil && term != at.Term {
			if err := l.Reset(at.Index, at.Term); err != nil {
				st.Close()
				return nil, at, err
			}
		} else if err != nil {
			st.Close()
			return nil, at, err
		}
	}
	return st, at, nil
}

// bind takes the server's two ports.
func (r *Replica) bind() error {
	l, err := net.Listen("tcp", r.self.TCPAddr())
	if err != nil {
		return fmt.Errorf("TCP port of clients and peers: %w", err)
	}
	u, err := newDatagrams(r)
	if err != nil {
		l.Close()
		return fmt.Errorf("UDP port of the agreement: %w", err)
	}
	r.tcp, r.udp = l, u
	return nil
}

// run starts the goroutines. Close waits for all of them.
func (r *Replica) run() {
	r.appends = newAppendQueue(r)
	r.upkeep = newUpkeep(r)
	r.repairs = newRepairs(r)
	r.scrub = newScrub(r)
	t := r.core.Table()
	r.reconcile(&t)
	r.tasks.Go(r.follow)
	r.tasks.Go(r.appends.run)
	r.tasks.Go(r.readLog)
	r.tasks.Go(r.upkeep.run)
	r.tasks.Go(r.upkeep.prepareSegments)
	r.tasks.Go(r.remember)
	r.repairs.start()
	r.tasks.Go(r.scrub.run)
	r.tasks.Go(r.watchSpace)
	r.tasks.Go(r.watchReads)
	r.tasks.Go(r.udp.run)
	r.tasks.Go(r.tick)
	r.tasks.Go(r.accept)
	r.tasks.Go(r.watchClients)
	if r.opts.Cell.Auth != nil {
		r.tasks.Go(r.watchKeys)
	}
}

// now is the time since the server started on a clock that only goes forward, also while the machine is suspended;
// never 0.
func (r *Replica) now() time.Duration { return machine.SinceBoot() - r.start + 1 }

func (r *Replica) tick() {
	t := time.NewTicker(r.opts.Timing.Tick)
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-t.C:
			r.drive(func(now time.Duration) error { r.reportAlive(now); return r.core.Tick(now) })
			r.ticked.Store(int64(r.now()))
		}
	}
}

// drive gives the Core an input and sees to what comes of it. Everything the Core wants done is
// handed on to the goroutine that does it; nothing here waits.
func (r *Replica) drive(input func(now time.Duration) error) { r.driveWith(input, true) }

// driveAndAppend is drive for a goroutine that may wait for the disk: what is to be appended to the log it
// appends itself, which saves waking another.
func (r *Replica) driveAndAppend(input func(now time.Duration) error) {
	r.driveWith(input, false)
	r.appends.workOnce()
}

func (r *Replica) driveWith(input func(now time.Duration) error, wake bool) {
	touched, ok := r.touched.Get().(*[]*outlet)
	if !ok {
		touched = new([]*outlet)
	}
	r.step(input, touched, wake)
	// Without the lock: a system call for each connection that has something to send.
	for i, o := range *touched {
		o.push()
		(*touched)[i] = nil
	}
	*touched = (*touched)[:0]
	r.touched.Put(touched)
}

// step gives the Core an input and hands its output on. The outlets that got something are added to
// touched; wake is appendQueue.add's.
func (r *Replica) step(input func(now time.Duration) error, touched *[]*outlet, wake bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fatal != nil {
		return
	}
	// The engine panics where going on could break the agreement. That ends this server, not its
	// neighbours in the process.
	defer func() {
		if p := recover(); p != nil {
			r.fail(brokenBy(p))
		}
	}()
	err := input(r.now())
	if err == nil {
		err = r.core.Pump(&r.out)
	}
	if err != nil {
		r.fail(err) // nothing of the output may be trusted
		return
	}
	r.dispatch(touched, wake)
}

// brokenBy makes an error of what a panic was given. Where the engine can't read the log it panics with the log's
// error.
func brokenBy(p any) error {
	if err, ok := p.(error); ok {
		return fmt.Errorf("broken invariant: %w", err)
	}
	return fmt.Errorf("broken invariant: %v", p)
}

// fail ends the server after an error it can't go on from: a HealError if that is about damage. Its caller holds mu.
func (r *Replica) fail(err error) {
	if r.fatal == nil {
		err = needsHealing(err)
		r.fatal = err
		r.logger.Error("server stops", "error", err)
		r.cancel()
	}
}

// failed is fail for callers that don't hold mu.
func (r *Replica) failed(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail(err)
}

// dispatch hands the Core's output on.
func (r *Replica) dispatch(touched *[]*outlet, wake bool) {
	out := &r.out
	for i := range out.Messages {
		m := &out.Messages[i]
		if r.cut.has(m.To) {
			continue // as if the network had lost it
		}
		if m.Urgent() {
			r.udp.send(m)
		} else if p := r.peer(m.To); p != nil {
			touch(touched, p.send(&m.Message))
		}
	}
	r.appends.add(out.Appends, wake)
	for _, read := range out.Reads {
		r.reads <- read // it has room for all that agreement has under way
	}
	for i := range out.Replies {
		touch(touched, r.deliver(&out.Replies[i]))
	}
	for _, session := range out.Wakes {
		r.wake(session, touched) // after the reply that said so to wait
	}
	if out.Flush != nil || out.Recycle != 0 {
		r.upkeep.add(out.Flush, out.Recycle)
	}
	if b := out.CatchUp; b != nil {
		r.tasks.Go(func() { r.catchUp(b) })
	}
	if out.Repair != nil {
		r.repairs.forApply(*out.Repair)
	}
	if out.Master != nil {
		r.announce(*out.Master)
	}
	for i := range out.Notices {
		r.udp.notify(&out.Notices[i])
	}
	if id := out.Identity; id != nil {
		r.tasks.Go(func() { r.keep(*id) })
	}
	if out.Remember != nil {
		select {
		case <-r.kept:
		default:
		}
		r.kept <- out.Remember
	}
	if out.Table != nil {
		r.place.tell(*out.Table)
		r.tellServers(out.Table)
	}
	out.Reset()
}

// touch adds an outlet to those to be pushed, once; nil is none.
func touch(list *[]*outlet, o *outlet) {
	if o != nil && !slices.Contains(*list, o) {
		*list = append(*list, o)
	}
}

// announce tells every client who is master now.
func (r *Replica) announce(v agreement.View) {
	if v.Known {
		r.logger.Info("master", "server", v.Master, "term", v.Term)
	} else {
		r.logger.Info("no master", "term", v.Term)
	}
	m := masterOf(v)
	r.clients.Lock()
	defer r.clients.Unlock()
	for c := range r.clients.all {
		c.notice(m)
	}
}

// tellServers tells every client that asked for it where the servers are now. Its caller holds mu.
func (r *Replica) tellServers(t *Table) {
	where := r.whereabouts(t)
	r.clients.Lock()
	defer r.clients.Unlock()
	for c := range r.clients.all {
		if c.follows.Load() {
			c.servers(where)
		}
	}
}

// masterOf puts a view into the words of the wire. A candidate's new term is not told: clients take the
// highest term for the newest news of a master.
func masterOf(v agreement.View) wire.Master {
	if !v.Known {
		return wire.Master{Term: v.Term, Master: wire.None}
	}
	return wire.Master{Term: v.Term, Master: uint8(v.Master)}
}

// view is who is master now.
func (r *Replica) view() agreement.View {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.core.View()
}

// Done is closed when the server has ended or is about to; Err then says why.
func (r *Replica) Done() <-chan struct{} { return r.ctx.Done() }

// Err is why the server ended by itself, or nil.
func (r *Replica) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fatal
}

// handOverTimeout is how long a master that stops waits for another to take over.
const handOverTimeout = time.Second

// Shutdown hands the mastership over if this server has it, then closes it.
func (r *Replica) Shutdown() error {
	r.resign()
	return r.Close()
}

// resign hands the mastership over if this server has it, and waits until another has taken it.
func (r *Replica) resign() {
	if to, ok := r.successor(); ok {
		r.drive(func(time.Duration) error { r.core.HandOver(to); return nil })
		deadline := time.NewTimer(handOverTimeout)
		defer deadline.Stop()
		poll := time.NewTicker(r.opts.Timing.Tick)
		defer poll.Stop()
		for waiting := true; waiting && r.view().Self; {
			select {
			case <-poll.C:
			case <-deadline.C:
				waiting = false
			case <-r.ctx.Done():
				waiting = false
			}
		}
	}
}

// successor is the core server that is most up to date, while this one is master.
func (r *Replica) successor() (cell.ID, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var best agreement.Progress
	found := false
	for _, p := range r.core.Node().Progress(nil) {
		if p.ID != r.opts.ID && p.Voter && p.Active && (!found || p.Match > best.Match) {
			best, found = p, true
		}
	}
	return best.ID, found
}

// Close stops the server at once, as a crash would, but leaves no goroutine, file or socket behind.
// What was acknowledged is on disk anyway.
func (r *Replica) Close() error {
	r.cancel()
	r.tcp.Close()
	r.udp.close()
	r.clients.Lock()
	for c := range r.clients.all {
		c.out.close()
		c.end()
	}
	r.clients.Unlock()
	for i := range r.place.peers {
		if p := r.place.peers[i].Load(); p != nil {
			p.close()
		}
	}
	r.appends.close()
	r.upkeep.close()
	r.tasks.Wait()
	return errors.Join(r.Err(), r.keepPromises(), r.closeFiles())
}

// remember keeps what the other servers promised until the server ends.
func (r *Replica) remember() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case ps := <-r.kept:
			if err := r.memory.Keep(r.place.identity.Load().Cell, ps); noRoom(err) {
				r.logger.Warn("what the other servers have promised is not kept", "error", err)
			} else if err != nil {
				r.failed(err)
				return
			}
		}
	}
}

// keepPromises keeps what the others promised up to the end: should the whole cell be stopped, it is all that is left.
func (r *Replica) keepPromises() error {
	if r.Err() != nil || !r.core.Belongs() {
		return nil
	}
	err := r.memory.Keep(r.place.identity.Load().Cell, r.core.Promised())
	if noRoom(err) {
		return nil // what was kept before counts
	}
	return err
}

func (r *Replica) closeFiles() error {
	var errs []error
	if r.store != nil {
		errs = append(errs, r.store.Close())
	}
	if r.log != nil {
		errs = append(errs, r.log.Close())
	}
	if r.rooted != nil {
		errs = append(errs, r.rooted.Close())
	}
	return errors.Join(errs...)
}
