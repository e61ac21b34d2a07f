package op

import (
	"encoding/binary"
	"fmt"
)

// EventKind is what an event is about: the flags of Watch and Unwatch.
type EventKind uint8

// The kinds of events, and the modes that each has.
const (
	EventDir   EventKind = iota + 1 // a folder: EventCreated, EventDeleted, EventUpdated; Entry is the name in it
	EventLock                       // a lock: EventWaits, and for those who hold it EventRecall
	EventQueue                      // a queue: EventPosted, EventWanted
	eventKinds
)

// The modes of events.
const (
	EventCreated uint8 = 0
	EventDeleted uint8 = 1
	EventUpdated uint8 = 2
	EventWaits   uint8 = 0 // somebody waits for the lock
	EventRecall  uint8 = 1 // somebody waits for the lock, which the session itself holds
	EventPosted  uint8 = 0
	EventWanted  uint8 = 1 // somebody waits for a message
	maxMode            = 2
)

// Event is something that happened to what a session watches.
type Event struct {
	Number uint64 // in the session, from 1; numbers of events that were omitted are missing
	Source uint64 // the entry of the log it comes from: the same for all who watch
	Kind   EventKind
	Mode   uint8
	Name   string // as it was watched
	Entry  string // EventDir: in the folder
}

// eventHead is the size of an event without its names in bytes.
const eventHead = 8 + 8 + 1 + 1 + 2 + 2

// Size is the size of the event's byte form in bytes.
func (e *Event) Size() int { return eventHead + len(e.Name) + len(e.Entry) }

// Valid says whether an event of the kind and mode may be.
func (e *Event) Valid() bool {
	return e.Kind > 0 && e.Kind < eventKinds && e.Mode <= maxMode && (e.Kind == EventDir || e.Mode < maxMode)
}

// AppendEvent appends the byte form of e: u64 number, u64 source, u8 kind, u8 mode, name, entry.
func AppendEvent(b []byte, e *Event) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, e.Number)
	b = le.AppendUint64(b, e.Source)
	b = append(b, byte(e.Kind), e.Mode)
	return AppendString(AppendString(b, e.Name), e.Entry)
}

// ParseEvent takes the first event off b.
func ParseEvent(b []byte) (e Event, rest []byte, err error) {
	le := binary.LittleEndian
	if len(b) < eventHead {
		return e, nil, fmt.Errorf("%w: an event of %d bytes", ErrInvalid, len(b))
	}
	e = Event{Number: le.Uint64(b), Source: le.Uint64(b[8:]), Kind: EventKind(b[16]), Mode: b[17]}
	if !e.Valid() {
		return e, nil, fmt.Errorf("%w: an event of kind %d, mode %d", ErrInvalid, e.Kind, e.Mode)
	}
	if e.Name, rest, err = String(b[18:]); err != nil {
		return e, nil, err
	}
	if e.Entry, rest, err = String(rest); err != nil {
		return e, nil, err
	}
	return e, rest, nil
}

// ParseEvents reads the value of an EventGet's answer.
func ParseEvents(b []byte) (events []Event, err error) {
	for len(b) > 0 {
		var e Event
		if e, b, err = ParseEvent(b); err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, nil
}

// Expiry names a session whose lease is over. If the session was opened anew meanwhile, it lives on.
type Expiry struct {
	Session uint64
	Epoch   uint32
}

// expirySize is the size of an Expiry in bytes.
const expirySize = 12

// MaxExpiries is how many sessions one SessionExpire names at most.
const MaxExpiries = MaxArgs / expirySize

// AppendExpiry appends an argument of a SessionExpire: u64 session, u32 epoch.
func AppendExpiry(args []byte, e Expiry) []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint64(args, e.Session), e.Epoch)
}

// Expiries are the arguments of a SessionExpire.
func (o *Op) Expiries() ([]Expiry, error) {
	if len(o.Args)%expirySize != 0 {
		return nil, fmt.Errorf("%w: %d bytes of sessions", ErrInvalid, len(o.Args))
	}
	list := make([]Expiry, 0, len(o.Args)/expirySize)
	for b := o.Args; len(b) > 0; b = b[expirySize:] {
		list = append(list, Expiry{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint32(b[8:])})
	}
	return list, nil
}

// PostArgs are the arguments of a QueuePost.
func PostArgs(queue string, message []byte) []byte {
	var args []byte
	for _, s := range AppendSums(nil, 0, message) {
		args = binary.LittleEndian.AppendUint32(args, s)
	}
	return AppendString(args, queue)
}
