package scsi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// ErrUnsupportedType is returned by NewUnit for a device type that is not there yet.
var ErrUnsupportedType = errors.New("unsupported device type")

// DeviceType is the kind of a logical unit, as tgtadm --device-type names it.
type DeviceType int

// The device types of the reference target.
const (
	Disk DeviceType = iota
	Controller
	CD
	Tape
	Changer
	OSD
	Passthrough
)

// String is the name that `tgtadm --op show` prints.
func (d DeviceType) String() string {
	if d < 0 || int(d) >= len(typeNames) {
		return fmt.Sprintf("DeviceType(%d)", int(d))
	}
	return typeNames[d]
}

var typeNames = [...]string{"disk", "controller", "cd/dvd", "tape", "changer", "osd", "passthrough"}

// defaultBlockSize holds where UnitOptions.BlockSize is no power of two from 2 up, in bytes.
const defaultBlockSize = 512

// UnitOptions are what a unit is made from.
type UnitOptions struct {
	Type      DeviceType
	TID       int
	LUN       uint64
	BlockSize int    // bytes; a power of two from 2 up, anything else means 512
	Path      string // what show prints, and Open is given; empty: no medium yet
	StoreName string // type of the store, for show
	Flags     string // --bsoflags as show prints them
	// Store is the medium, opened already; the unit closes it. When it is nil and Path is not empty, NewUnit
	// opens the medium with Open.
	Store backstore.Store
	// Open opens the medium at path. Update calls it for `path=`; without it that is an ErrInvalidParam.
	Open func(path string) (backstore.Store, error)
	// Peer finds another unit: a changer's drives are tape units. Nil: there is none.
	Peer func(tid int, lun uint64) *Unit
	// Log is where a changer's `dump=1` goes; nil: nowhere.
	Log *slog.Logger
}

// medium is what a unit currently stores to.
type medium struct {
	store   backstore.Store
	info    backstore.Info
	ordered bool
	bytes   atomic.Int64 // size as last asked for
	noCAW   atomic.Bool  // the store does not do COMPARE AND WRITE itself
	waiting atomic.Bool  // the store is not ready yet

	// What the store keeps for the unit; see state.go.
	loaded  atomic.Bool   // the unit's copy is good, as far as is known
	version atomic.Uint64 // that the copy had when it was loaded or saved
	ctx     context.Context
	cancel  context.CancelFunc

	// Guarded by Unit.mu.
	saved   uint64     // version as SaveState wants it
	busy    bool       // the state is being loaded or saved
	waiters []*parking // for that
	late    []*parking // for the state to be loaded after that
	trouble string     // why it can't be loaded or saved
	awake   bool       // the state was loaded before: mode pages have been set to their saved values
	users   int
	closing bool
	idle    chan struct{} // closed when closing and users is 0
}

// Unit is a logical unit. Its methods may be called from any goroutine.
type Unit struct {
	kind      DeviceType
	class     *class
	table     *table
	changer   *changer // of a Changer
	tid       int
	lun       sam.LUN
	blockSize int64
	storeName string
	flags     string
	open      func(path string) (backstore.Store, error)

	attrs atomic.Pointer[attributes]
	tasks sync.Pool

	update sync.Mutex // one Update or Close at a time; held while a medium is opened

	mu                    sync.Mutex
	first, last           *task
	taskCount, blocked    int
	ordered, exclusive    int
	readyFirst, readyLast *task
	running, removed      bool
	medium                *medium
	nexuses               map[*itl]struct{}
	reserved              *itl // RESERVE(6)
	persistent            persistentReservation
	guarded               atomic.Bool // there is a reservation of either kind
	modes                 []keptMode  // as the store keeps them; never changed in place
	// sanitizing is the sanitize operation under way, or the one that failed; nil for none.
	sanitizing atomic.Pointer[sanitizeJob]
	background sync.WaitGroup // goroutines of the unit, which Close waits for

	born time.Time
	load Load
}

// attributes are the settings of a unit that commands read: an immutable snapshot.
type attributes struct {
	vendor, product, revision string
	scsiID, scsiSN            string
	path                      string
	online, removable         bool
	readOnly                  bool
	descriptorSense           bool
	thin                      bool
	rotationRate              uint16
	logicalPerPhysical        int // exponent; negative: from the store
	lowestAligned             uint16
	optimalGranularity        uint16 // blocks
	optimalLength             uint32 // blocks
	pages                     []modePage
	fixedBlock                uint32      // of a tape, bytes; 0: variable
	writeCache                bool        // WCE of the caching page
	softwareProtect           bool        // SWP of the control page
	access                    accessState // accessNone: the unit has no target port groups
	portGroup                 uint16      // 0: the target portal group tag of the session
	identity                  string      // of a medium that has one of its own, 16 bytes
}

// NewUnit makes a logical unit; a type that does not exist is refused with ErrUnsupportedType. A unit
// without a medium is removable and offline, and gets one by Update("path=…").
func NewUnit(o UnitOptions) (*Unit, error) {
	if o.Type < 0 || int(o.Type) >= len(classes) {
		return nil, fmt.Errorf("logical unit %d: %w: %v", o.LUN, ErrUnsupportedType, o.Type)
	}
	wrap, open := classes[o.Type].wrap, o.Open
	if wrap != nil && open != nil {
		o.Open = func(path string) (backstore.Store, error) {
			store, err := open(path)
			if err != nil {
				return nil, err
			}
			return wrap(store), nil
		}
	}
	if wrap != nil && o.Store != nil {
		o.Store = wrap(o.Store)
	}
	if o.Store == nil && o.Path != "" && o.Open != nil {
		store, err := o.Open(o.Path)
		if err != nil {
			return nil, fmt.Errorf("logical unit %d: open medium %q: %w", o.LUN, o.Path, err)
		}
		o.Store = store
	}
	return newUnit(o), nil
}

func newUnit(o UnitOptions) *Unit {
	if o.BlockSize < 2 || bits.OnesCount(uint(o.BlockSize)) != 1 {
		o.BlockSize = defaultBlockSize
	}
	c := &classes[o.Type]
	if c.blockSize != 0 {
		o.BlockSize = int(c.blockSize)
	}
	u := &Unit{
		kind: o.Type, class: c, table: c.table, tid: o.TID, lun: sam.LUN(o.LUN), blockSize: int64(o.BlockSize),
		storeName: o.StoreName, flags: o.Flags, open: o.Open,
		nexuses: map[*itl]struct{}{}, born: time.Now(),
	}
	u.tasks.New = newTask
	a := &attributes{
		vendor: "IET", revision: "0001", product: c.product, pages: c.pages(),
		removable: c.removable, descriptorSense: c.descriptorSense,
		scsiID: u.defaultID(),
		scsiSN: u.defaultSN(),
		path:   o.Path, online: true, logicalPerPhysical: -1,
	}
	if o.Type == Changer {
		u.changer = &changer{peer: o.Peer, log: o.Log}
	}
	if o.Store == nil && o.Type != Controller {
		a.path, a.online, a.removable = "", false, true
	}
	a.derive()
	u.attrs.Store(a)
	if o.Store != nil {
		u.medium = newMedium(o.Store)
		if u.medium.info.AlwaysThin {
			u.change(func(a *attributes) { a.thin = true })
		}
		u.identify(u.medium.info.Identity)
	}
	return u
}

// defaultID is the SCSI id that a unit is born with, and defaultSN its serial number.
func (u *Unit) defaultID() string { return fmt.Sprintf("IET     %04x%04x", u.tid, uint64(u.lun)) }
func (u *Unit) defaultSN() string { return fmt.Sprintf("beaf%d%d", u.tid, uint64(u.lun)) }

// identify makes the unit show the identity of its medium, so that the units of several targets are one disk to
// an initiator; where the administrator has set the SCSI id or the serial number, that stays.
func (u *Unit) identify(identity string) {
	if len(identity) != 16 {
		return
	}
	u.change(func(a *attributes) {
		a.identity = identity
		if a.scsiID == u.defaultID() {
			a.scsiID = fmt.Sprintf("PSS %x", identity)
		}
		if a.scsiSN == u.defaultSN() {
			a.scsiSN = fmt.Sprintf("%x", identity)
		}
	})
}

func newMedium(store backstore.Store) *medium {
	m := &medium{store: store, info: store.Info(), idle: make(chan struct{})}
	m.ordered = m.info.Ordered
	m.waiting.Store(m.info.Waiting != "")
	m.start()
	m.bytes.Store(m.info.Bytes)
	return m
}

// derive works out what is read often from the mode pages.
func (a *attributes) derive() {
	a.writeCache, a.softwareProtect = true, false
	for i := range a.pages {
		p := &a.pages[i]
		switch {
		case p.is(cachingPage, 0):
			a.writeCache = len(p.current) > 0 && p.current[0]&cachingWCE != 0
		case p.is(controlPage, 0):
			a.softwareProtect = len(p.current) > 2 && p.current[2]&controlSWP != 0
		}
	}
}

// change replaces the settings by a changed copy.
func (u *Unit) change(f func(*attributes)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.changeLocked(f)
}

func (u *Unit) changeLocked(f func(*attributes)) {
	a := *u.attrs.Load()
	f(&a)
	a.derive()
	u.attrs.Store(&a)
}

// LUN is the number of the unit.
func (u *Unit) LUN() uint64 { return uint64(u.lun) }

// blocks is the number of blocks of the medium, as last known.
func (t *task) blocks() uint64 {
	if t.medium == nil {
		return 0
	}
	return uint64(t.medium.bytes.Load() / t.unit.blockSize)
}

// refresh asks the store for its size. Sessions learn of a change by CAPACITY DATA HAS CHANGED, except the
// one that asked (nil for none).
func (u *Unit) refresh(m *medium, asking *itl) {
	info := m.store.Info()
	was := m.bytes.Swap(info.Bytes)
	waited := m.waiting.Swap(info.Waiting != "")
	ready := waited && info.Waiting == ""
	if ready {
		u.identify(info.Identity)
	}
	if was == info.Bytes && !ready {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.medium != m:
	case ready:
		u.attendOthers(asking, mediumMayHaveChanged) // NOT READY TO READY CHANGE
	default:
		u.attendOthers(asking, capacityChanged)
	}
}

// Resized tells the unit that the size of its medium may have changed; it is what backstore.Options.Resized
// should call. Sessions are told by CAPACITY DATA HAS CHANGED, and of what another target has made of the
// reservations of a shared medium.
func (u *Unit) Resized() {
	u.mu.Lock()
	m := u.medium
	if m != nil {
		m.users++
	}
	u.mu.Unlock()
	if m == nil {
		return
	}
	u.refresh(m, nil)
	if m.info.Shared {
		u.mu.Lock()
		if u.medium == m && !m.busy && !m.waiting.Load() {
			u.startLoading(m)
		}
		u.mu.Unlock()
	}
	u.leave(m)
}

// leave gives back a use of the medium.
func (u *Unit) leave(m *medium) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if m.users--; m.users == 0 && m.closing {
		close(m.idle)
	}
}

// attend queues a unit attention for one nexus.
func (u *Unit) attend(it *itl, code senseCode) {
	u.mu.Lock()
	defer u.mu.Unlock()
	it.attend(code)
}

// attendOthers queues a unit attention for every nexus but one (nil: for all). mu is held.
func (u *Unit) attendOthers(except *itl, code senseCode) {
	for it := range u.nexuses {
		if it != except {
			it.attend(code)
		}
	}
}

// connect makes the unit's side of a nexus.
func (u *Unit) connect(n *nexus, attention senseCode) *itl {
	it := &itl{nexus: n, unit: u, id: portID{n.sam.InitiatorName, n.sam.ISID, n.sam.TargetTag, n.sam.TargetName}}
	if attention != noSense {
		it.attend(attention)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.nexuses[it] = struct{}{}
	return it
}

// disconnect ends a nexus: d waits for its tasks, which are aborted; what it reserved by RESERVE(6)
// and its removal lock go. Registrations stay (SPC-4).
func (u *Unit) disconnect(it *itl, d *drain) {
	u.mu.Lock()
	defer u.mu.Unlock()
	it.closed = true
	delete(u.nexuses, it)
	if u.reserved == it {
		u.reserved = nil
		u.guard()
	}
	u.abortLocked(d, func(t *task) bool { return t.nexus == it })
}

// reset is a logical unit reset (SAM-5 6.3.3) after its tasks were aborted.
func (u *Unit) reset() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reserved = nil
	u.guard()
	for it := range u.nexuses {
		it.prevents = false
		it.attend(powerOnOrReset)
	}
}

// prevented says whether a session forbids the removal of the medium. mu is held.
func (u *Unit) prevented() bool {
	for it := range u.nexuses {
		if it.prevents {
			return true
		}
	}
	return false
}

// replaceMedium swaps the medium and returns when the old one's commands are through and it is closed.
func (u *Unit) replaceMedium(m *medium) error {
	u.stopSanitizing()
	u.mu.Lock()
	old := u.medium
	u.medium = m
	if old != nil {
		old.stop()
		old.closing = true
		if old.users == 0 {
			close(old.idle)
		}
	}
	u.mu.Unlock()
	if old == nil {
		return nil
	}
	<-old.idle
	if err := old.store.Close(); err != nil {
		return fmt.Errorf("logical unit %d: close medium: %w", u.lun, err)
	}
	return nil
}

// Close waits for the unit's commands and closes its medium. The unit must have been removed from its
// target, or its target be out of use.
func (u *Unit) Close() error {
	u.update.Lock()
	defer u.update.Unlock()
	err := u.replaceMedium(nil)
	u.background.Wait()
	return err
}

// UnitInfo is what `tgtadm --op show` prints of a unit.
type UnitInfo struct {
	LUN            uint64
	Type           DeviceType
	SCSIID, SCSISN string
	Bytes          int64 // size, in whole blocks
	BlockSize      int   // bytes; 1 for the controller, as the reference prints
	Online         bool
	Removable      bool
	PreventRemoval bool
	ReadOnly       bool
	SWP            bool
	Thin           bool
	StoreName      string
	Path           string // empty: None
	Problem        string // why the medium, or what it keeps for the unit, can't be used now; empty: nothing
	Flags          string
}

// Show describes the unit.
func (u *Unit) Show() UnitInfo {
	u.mu.Lock()
	a := u.attrs.Load()
	info := UnitInfo{
		LUN: uint64(u.lun), Type: u.kind, SCSIID: a.scsiID, SCSISN: a.scsiSN, BlockSize: int(u.blockSize),
		Online: a.online, Removable: a.removable, PreventRemoval: u.prevented(),
		ReadOnly: a.readOnly, SWP: a.softwareProtect, Thin: a.thin,
		StoreName: u.storeName, Path: a.path, Flags: u.flags,
	}
	m := u.medium
	trouble := ""
	if m != nil {
		m.users++
		trouble = m.trouble
	}
	u.mu.Unlock()
	if u.kind != Disk {
		info.BlockSize = 1
	}
	if m != nil {
		info.ReadOnly = info.ReadOnly || m.info.ReadOnly
		u.refresh(m, nil)
		info.Online = info.Online && !m.waiting.Load()
		info.Problem = cmp.Or(m.store.Info().Waiting, trouble)
		info.Bytes = m.bytes.Load() / u.blockSize * u.blockSize
		u.leave(m)
	}
	return info
}

// Stats are the counters of a session on this unit; zero when the session is not known.
func (u *Unit) Stats(session uint64) Stats {
	u.mu.Lock()
	defer u.mu.Unlock()
	for it := range u.nexuses {
		if it.nexus.sam.Session == session {
			return it.stats()
		}
	}
	return Stats{}
}
