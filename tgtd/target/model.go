package target

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/isns"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/scsi"
)

// Limits of the model. What would go beyond one is refused: accounts with mgmt.ErrTooManyAccounts,
// everything else with mgmt.ErrNoMemory.
const (
	MaxTargets  = 65536
	MaxAccounts = 65536
	MaxBindings = 1024 // incoming accounts of a target, or of discovery
	MaxRules    = 4096 // access rules of a target, of each kind
	MaxHosts    = 65536
	MaxPortals  = 1024
)

// Options configure a Model.
type Options struct {
	Log *slog.Logger
	// SetDebug turns the daemon's debugging messages on and off; Debug is the initial state.
	SetDebug func(bool)
	Debug    bool
	Stores   *backstore.Registry
	Threads  int // of a store that works with threads
	// NopInterval (seconds) and NopCount are those of targets made later.
	NopInterval, NopCount int
	// Portals are those of the command line, as typed. When none of them can be opened DefaultPortals are.
	Portals []string
	// Inherited are listening sockets that were handed to the daemon; with any, Portals and DefaultPortals
	// are not opened.
	Inherited []net.Listener
	// Transport makes the transport that asks the given directory.
	Transport func(iscsi.Directory) Transport
}

// DefaultPortals are opened when the command line names none that can be.
var DefaultPortals = [...]string{"0.0.0.0:3260", "[::]:3260"}

// Model is the daemon's state. Its methods may be called from any goroutine.
type Model struct {
	o         Options
	log       *slog.Logger
	transport Transport
	stopped   chan struct{} // closed by Stop

	welcome   atomic.Bool   // what Welcome answers; follows the fields below
	callbacks chan struct{} // one token for each redirect callback that runs

	portalMu sync.Mutex   // one change of portals at a time; taken before mu
	isnsMu   sync.Mutex   // one start or stop of the iSNS client at a time; taken before mu
	follows  isnsSettings // what the iSNS client was started with; under isnsMu

	mu       sync.RWMutex
	targets  map[int]*target
	names    map[string]*target
	created  []*target // in order of creation
	hosts    map[uint32]int
	secrets  map[string]string // of accounts
	users    []string          // accounts, oldest first
	guard    binding           // discovery
	portals  []Portal          // oldest first
	driver   driverState
	offline  bool
	debug    bool
	isns     isnsSettings
	naming   *isns.Client // while iSNS is on and a server is named
	named    isns.State   // what it was told last
	stopping bool
}

// target is one target. tid, name and device never change; the rest is guarded by Model.mu.
type target struct {
	tid    int
	name   string
	device *scsi.Target

	params   iscsi.Params
	offline  bool
	redirect redirect
	accounts binding
	byAddr   []addressRule
	byName   []string
	opening  map[uint64]struct{} // unit numbers whose store is being opened
	records  map[uint64]*unitRecord
	deleting bool // logins are refused
	deleted  bool
}

// New makes a model without targets, whose driver is not started yet.
func New(o Options) *Model {
	m := &Model{
		o: o, log: o.Log,
		stopped:   make(chan struct{}),
		callbacks: make(chan struct{}, maxCallbacks),
		targets:   make(map[int]*target),
		names:     make(map[string]*target),
		hosts:     make(map[uint32]int),
		secrets:   make(map[string]string),
		isns:      isnsSettings{port: defaultISNSPort},
		debug:     o.Debug,
	}
	m.transport = o.Transport(m)
	return m
}

// update does a change of the model under its lock and brings what depends on it up to date.
func (m *Model) update(change func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := change()
	m.welcome.Store(len(m.targets) > 0 && !m.offline && m.driver == driverReady)
	m.tellISNS()
	return err
}

// find returns a target. mu is held.
func (m *Model) find(tid int) (*target, error) {
	t := m.targets[tid]
	if t == nil {
		return nil, fmt.Errorf("target %d: %w", tid, mgmt.ErrNoTarget)
	}
	return t, nil
}

// onTarget changes one target under the model's lock.
func (m *Model) onTarget(tid int, change func(*target) error) error {
	return m.update(func() error {
		t, err := m.find(tid)
		if err != nil {
			return err
		}
		if err := change(t); err != nil {
			return fmt.Errorf("target %d: %w", tid, err)
		}
		return nil
	})
}

// device returns the SCSI side of a target.
func (m *Model) device(tid int) (*scsi.Target, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	t, err := m.find(tid)
	if err != nil {
		return nil, err
	}
	return t.device, nil
}

// inOrder lists the targets by number.
func (m *Model) inOrder() []*target {
	m.mu.RLock()
	list := slices.Clone(m.created)
	m.mu.RUnlock()
	slices.SortFunc(list, func(a, b *target) int { return a.tid - b.tid })
	return list
}

// Stop tells the daemon to end: Stopped is closed. It returns mgmt.ErrInvalid while there is a target.
func (m *Model) Stop() error {
	return m.update(func() error {
		if len(m.targets) > 0 {
			return fmt.Errorf("%d targets are left: %w", len(m.targets), mgmt.ErrInvalid)
		}
		if !m.stopping {
			m.stopping = true
			close(m.stopped)
		}
		return nil
	})
}

// Stopped is closed once Stop has succeeded.
func (m *Model) Stopped() <-chan struct{} {
	return m.stopped
}

// Close closes portals, sessions and units, and waits for all of it. Nothing else may be called
// after it.
func (m *Model) Close() error {
	m.portalMu.Lock()
	defer m.portalMu.Unlock()
	m.stopISNS()
	var portals []Portal
	var list []*target
	m.update(func() error {
		m.stopping = true
		portals, m.portals = m.portals, nil
		list = slices.Clone(m.created)
		for _, t := range list {
			m.forget(t)
		}
		return nil
	})
	var errs []error
	for _, p := range portals {
		p.Close()
	}
	m.transport.Close()
	for _, t := range list {
		errs = append(errs, closeUnits(t.device))
	}
	return errors.Join(errs...)
}

// closeUnits removes and closes the units of a target that has no sessions any more.
func closeUnits(device *scsi.Target) error {
	var errs []error
	for _, u := range device.Units() {
		if u.LUN() == 0 {
			continue
		}
		removed, err := device.RemoveUnit(u.LUN())
		if errors.Is(err, scsi.ErrNoUnit) {
			continue // somebody else was faster, and closes it
		}
		if err == nil {
			err = removed.Close()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("logical unit %d: %w", u.LUN(), err))
		}
	}
	return errors.Join(errs...)
}
