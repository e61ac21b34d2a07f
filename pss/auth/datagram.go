package auth

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// Servers is how many servers a cell may have: ids 0 to Servers-1 (cell.MaxServers).
const Servers = 8

// Tool stands for whoever is no server, as sender and as receiver of a datagram (wire.None).
const Tool = 255

// Overhead is how much longer a sealed datagram is than what it carries, in bytes.
const Overhead = boxHead + boxTokens + boxTag

const (
	boxMagic   = 0x73535350 // "PSSs"
	boxVersion = 1
	boxSalt    = 16
	boxHead    = 36 // bytes in clear before the sealed part
	boxTokens  = 16 // bytes of the sealed part before the datagram
	boxTag     = 16
	boxNonce   = 12
)

// Kinds of sealed datagrams.
const (
	boxCarries    = 0 // a datagram
	boxIntroduces = 1 // its sender, and nothing else
)

// Errors about datagrams that are dropped.
var (
	// ErrForged is wrapped by errors about bytes that nobody sealed who has a key of the cell.
	ErrForged = errors.New("not sealed with a key of this cell")
	// ErrReplayed is wrapped by errors about a datagram that was taken before, or is too old to tell.
	ErrReplayed = errors.New("taken before, or too old to tell")
	// ErrUnproven is wrapped by errors about a sealed datagram of a server that may have been recorded before this
	// server, or the sender, started. The reply that comes with it settles that.
	ErrUnproven = errors.New("not proved to be new")
)

type salt [boxSalt]byte

// Box seals the datagrams that one party sends and opens those it receives. Its methods may be called from
// any goroutine.
type Box struct {
	keys *Keys
	self uint8

	mu      sync.Mutex
	salt    salt
	counter uint64 // of the last one sealed
	sealing opener // with our salt
	senders [Servers]sender
	nonce   [boxNonce]byte
	reply   []byte
}

// opener is the cipher of one sender since it started.
type opener struct {
	key  KeyID
	salt salt
	aead cipher.AEAD // nil at first
}

// sender is what is known of a server that sends to us.
type sender struct {
	proven  bool   // salt is that of the server since it started last, as far as we know
	opener  opener // of that salt
	window  window
	demand  uint64 // what it has to present to have another salt believed
	present uint64 // what it demands of us, 0 while that is not known
}

// Box makes the box of a server, or of a Tool. It is an error on nil Keys.
func (k *Keys) Box(self uint8) (*Box, error) {
	if k == nil {
		return nil, errors.New("an open cell seals nothing")
	}
	b := &Box{keys: k, self: self}
	if _, err := rand.Read(b.salt[:]); err != nil {
		return nil, fmt.Errorf("draw a salt: %w", err)
	}
	for i := range b.senders {
		var err error
		if b.senders[i].demand, err = newDemand(); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// newDemand draws a number that is not 0: that one is presented by who knows none.
func newDemand() (uint64, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("draw a demand: %w", err)
	}
	return binary.LittleEndian.Uint64(b[:]) | 1, nil
}

// cipher returns the cipher of one sender with one salt; have is used if it is that one.
func (r *ring) cipher(have opener, id KeyID, from uint8, s salt) (opener, error) {
	if have.aead != nil && have.key == id && have.salt == s {
		if r.find(id) != nil {
			return have, nil
		}
	}
	key := r.find(id)
	if key == nil {
		return have, fmt.Errorf("%w: key %v", ErrForged, id)
	}
	secret := derive(derive(key.secret[:], nil, "datagrams", secretSize), s[:], fmt.Sprintf("datagrams of %d", from), secretSize)
	block, err := aes.NewCipher(secret)
	if err != nil {
		return have, err
	}
	aead, err := cipher.NewGCM(block)
	return opener{id, s, aead}, err
}

// Seal appends the sealed form of datagram, for a server or for a Tool, to dst: Overhead bytes more.
func (b *Box) Seal(dst, datagram []byte, to uint8) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var present, demand uint64
	if to < Servers {
		present, demand = b.senders[to].present, b.senders[to].demand
	}
	return b.seal(dst, datagram, boxCarries, to, present, demand)
}

func (b *Box) seal(dst, datagram []byte, kind, to uint8, present, demand uint64) ([]byte, error) {
	r := b.keys.ring.Load()
	var err error
	if b.sealing, err = r.cipher(b.sealing, r.keys[0].ID, b.self, b.salt); err != nil {
		return dst, err
	}
	b.counter++
	le := binary.LittleEndian
	base := len(dst)
	dst = le.AppendUint32(dst, boxMagic)
	dst = append(dst, boxVersion, kind, b.self, to)
	dst = le.AppendUint32(dst, uint32(b.sealing.key))
	dst = append(dst, b.salt[:]...)
	dst = le.AppendUint64(dst, b.counter)
	clear := len(dst)
	dst = le.AppendUint64(dst, present)
	dst = le.AppendUint64(dst, demand)
	dst = append(dst, datagram...)
	le.PutUint64(b.nonce[:], b.counter)
	head := dst[base:clear]
	return b.sealing.aead.Seal(dst[:clear], b.nonce[:], dst[clear:], head), nil
}

// Open takes what Seal made, in place: it returns the sender and the datagram, a part of sealed, which is nil in an
// introduction. If the error wraps ErrUnproven, reply is to be sent to the server from; it is valid until
// the next Open. Errors wrap ErrForged, ErrReplayed, ErrUnproven, or ErrMixed for what is not sealed.
func (b *Box) Open(sealed []byte) (from uint8, datagram, reply []byte, err error) {
	le := binary.LittleEndian
	switch {
	case len(sealed) < 4 || le.Uint32(sealed) != boxMagic:
		return 0, nil, nil, ErrMixed
	case len(sealed) < Overhead || sealed[4] != boxVersion || sealed[5] > boxIntroduces:
		return 0, nil, nil, fmt.Errorf("%w: a datagram of %d bytes", ErrForged, len(sealed))
	}
	kind, from, to := sealed[5], sealed[6], sealed[7]
	id, counter := KeyID(le.Uint32(sealed[8:])), le.Uint64(sealed[28:])
	if from >= Servers && from != Tool || to != b.self || from == b.self {
		return from, nil, nil, fmt.Errorf("%w: from %d to %d", ErrForged, from, to)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var known opener
	if from < Servers {
		known = b.senders[from].opener
	}
	c, err := b.keys.ring.Load().cipher(known, id, from, salt(sealed[12:28]))
	if err != nil {
		return from, nil, nil, err
	}
	le.PutUint64(b.nonce[:], counter)
	plain, err := c.aead.Open(sealed[boxHead:boxHead], b.nonce[:], sealed[boxHead:], sealed[:boxHead])
	if err != nil {
		return from, nil, nil, fmt.Errorf("%w: from %d", ErrForged, from)
	}
	if from < Servers && b.self < Servers { // a tool has no window: the stamp tells it the answer to its question
		presented, demanded := le.Uint64(plain), le.Uint64(plain[8:])
		if reply, err = b.judge(from, c, counter, presented, demanded, kind); err != nil {
			return from, nil, reply, fmt.Errorf("%w: from server %d", err, from)
		}
	}
	if kind == boxIntroduces {
		return from, nil, nil, nil
	}
	return from, plain[boxTokens:], nil, nil
}

// judge says whether an authentic datagram of a server is new.
func (b *Box) judge(from uint8, c opener, counter, presented, demanded uint64, kind uint8) (reply []byte, err error) {
	s := &b.senders[from]
	if counter == 0 {
		return nil, ErrReplayed // nobody begins with it
	}
	if !s.proven || s.opener.salt != c.salt {
		if presented != s.demand {
			if kind == boxIntroduces {
				return nil, ErrUnproven
			}
			b.reply, err = b.seal(b.reply[:0], nil, boxIntroduces, from, demanded, s.demand)
			if err != nil {
				return nil, err
			}
			return b.reply, ErrUnproven
		}
		next, err := newDemand()
		if err != nil {
			return nil, err
		}
		s.proven, s.demand = true, next
		s.window.begin(counter) // what came before this one may have been recorded
	}
	if !s.window.take(counter) {
		return nil, ErrReplayed
	}
	s.opener, s.present = c, demanded
	return nil, nil
}

const (
	windowWords = 16
	// windowSize is by how much datagrams of one sender, to whomever, may overtake each other.
	windowSize = 64 * (windowWords - 1)
)

// window knows which counters were taken (RFC 6479).
type window struct {
	last uint64              // the highest one taken or excluded
	seen [windowWords]uint64 // bit n%64 of word n/64%windowWords: n was taken or is excluded
}

// begin excludes what is before n, which is not 0.
func (w *window) begin(n uint64) {
	w.last = n - 1
	for i := range w.seen {
		w.seen[i] = 1<<64 - 1
	}
	w.seen[w.last/64%windowWords] = 2<<(w.last%64) - 1
}

// take takes a counter. It reports false if it was taken before or may have been.
func (w *window) take(n uint64) bool {
	if n+windowSize <= w.last {
		return false
	}
	if n > w.last {
		for i := w.last/64 + 1; i <= n/64 && i <= w.last/64+windowWords; i++ {
			w.seen[i%windowWords] = 0
		}
		w.last = n
	}
	word, bit := &w.seen[n/64%windowWords], uint64(1)<<(n%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}
