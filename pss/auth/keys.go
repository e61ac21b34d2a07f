package auth

import (
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// Keys are the keys of a cell as one process has them. All methods may be called from any goroutine, and on nil,
// which is an open cell.
type Keys struct {
	file string
	ring atomic.Pointer[ring]

	mu      sync.Mutex         // guards state to conns
	state   fileState          // of the file when it was looked at last
	trouble error              // with that state of the file
	told    bool               // Refresh has told of trouble
	changed bool               // since the last Refresh
	conns   map[*Conn]struct{} // to be ended with their key; as many as the process has connections
	// buffers lends connections memory for records to be written (*[]byte), plains for content (*[maxPlain]byte).
	buffers, plains sync.Pool
}

// ring is one content of the key file, with what is derived from it. It does not change.
type ring struct {
	keys   []Key // the first signs
	public []ed25519.PublicKey
	tls    *tls.Config
}

// Load reads a key file.
func Load(file string) (*Keys, error) {
	keys, state, err := readKeys(file)
	if err != nil {
		return nil, err
	}
	k := &Keys{file: file, state: state, conns: make(map[*Conn]struct{})}
	r, err := newRing(keys)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	k.ring.Store(r)
	return k, nil
}

func newRing(keys []Key) (*ring, error) {
	r := &ring{keys: keys}
	for i := range keys {
		r.public = append(r.public, signer(&keys[i]).Public().(ed25519.PublicKey))
	}
	var err error
	r.tls, err = r.config()
	return r, err
}

// find is the key of an id.
func (r *ring) find(id KeyID) *Key {
	for i := range r.keys {
		if r.keys[i].ID == id {
			return &r.keys[i]
		}
	}
	return nil
}

// Refresh reads the key file again if it has changed, and reports whether other keys are in force than at the last
// Refresh. Connections that a key opened which is gone are closed. After an error, which is returned once for each state
// of the file, the keys stay as they were: also when the file is gone. Dialling refreshes by itself.
func (k *Keys) Refresh() (changed bool, err error) {
	if k == nil {
		return false, nil
	}
	k.refresh()
	k.mu.Lock()
	defer k.mu.Unlock()
	changed, err = k.changed, k.trouble
	if k.told {
		err = nil
	}
	k.changed, k.told = false, true
	return changed, err
}

// refresh is Refresh; what comes of it stays for Refresh to tell.
func (k *Keys) refresh() {
	k.mu.Lock()
	defer k.mu.Unlock()
	var state fileState
	info, err := os.Stat(k.file)
	if err == nil {
		state = stateOf(info)
	}
	if state == k.state {
		return
	}
	k.state, k.told = state, false
	k.trouble = k.reload()
}

// reload puts the keys in the file into force. k is locked.
func (k *Keys) reload() error {
	keys, state, err := readKeys(k.file)
	if err != nil {
		return fmt.Errorf("take up the new cell key, going on with the old one: %w", err)
	}
	r, err := newRing(keys)
	if err != nil {
		return fmt.Errorf("take up the new cell key, going on with the old one: %w", err)
	}
	k.state, k.changed = state, true
	k.ring.Store(r)
	k.endDropped(r)
	return nil
}

// mistake is what is wrong with the key file at present, nil if nothing is.
func (k *Keys) mistake() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.trouble
}

// endDropped closes the connections of keys that r does not have. k is locked.
func (k *Keys) endDropped(r *ring) {
	for c := range k.conns {
		if !c.allowed(r) {
			c.raw.Close() // whoever uses it notices and forgets it
		}
	}
}

// add keeps a connection until forget. It reports false if a key of it was dropped meanwhile.
func (k *Keys) add(c *Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conns[c] = struct{}{}
	return c.allowed(k.ring.Load())
}

func (k *Keys) forget(c *Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, c)
}

// Modes of a Status.
const (
	ModeOpen = "open" // no key: whoever reaches the ports can do everything
	ModeKey  = "key"  // both sides of everything prove a key
)

// Status is what status displays say of a party's keys.
type Status struct {
	Mode string  `json:"mode"`           // ModeOpen or ModeKey
	Keys []KeyID `json:"keys,omitempty"` // the accepted ones; the first one signs
}

// Status tells which keys are in force.
func (k *Keys) Status() Status {
	if k == nil {
		return Status{Mode: ModeOpen}
	}
	s := Status{Mode: ModeKey}
	for _, key := range k.ring.Load().keys {
		s.Keys = append(s.Keys, key.ID)
	}
	return s
}

// String says for a log which keys are in force.
func (k *Keys) String() string {
	if k == nil {
		return "open: no cell key"
	}
	return fmt.Sprintf("keys %v of %s", k.Status().Keys, k.file)
}

// Errors that tell why two parties don't understand each other. They are wrapped with the peer's address.
var (
	// ErrMixed is one side with a cell key and one without.
	ErrMixed = errors.New("one side has a cell key and the other has none")
	// ErrStranger is a side whose key the other does not have.
	ErrStranger = errors.New("not a key of this cell")
)
