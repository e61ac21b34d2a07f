package daemon

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// How many lines of one kind are written: what is wrong a thousand times a second is as clear from fewer, and must
// neither fill a disk nor hide the other lines.
const (
	maxBurst      = 100         // at once
	lineInterval  = time.Second // and then one in each
	sweepInterval = 10 * time.Second
	// maxKinds are counted apart; more share one account. A kind is a place in the program, so there are fewer.
	maxKinds = 4096
)

// SuppressedKey is the attribute that says how many lines of its kind were not written before this one.
const SuppressedKey = "suppressed"

// Limit passes records on to a slog.Handler, but not more of one kind than can be read: a kind is the place in the
// program that logs. The next record of the kind that is written says how many were not; where none comes, a line of
// its own does, within sweepInterval. Debugging messages are not limited: who asks for them wants them all.
type Limit struct {
	slog.Handler
	*accounts
}

// accounts are what the handlers of a Limit have in common.
type accounts struct {
	mu      sync.Mutex
	kinds   map[uintptr]*kind
	closing chan struct{}
	sweeper sync.WaitGroup
}

// kind is the account of one kind.
type kind struct {
	tokens     float64 // lines that may be written
	at         time.Time
	suppressed uint64
	last       slog.Record  // the newest that was suppressed
	by         slog.Handler // and its handler
}

// NewLimit returns a limit in front of a handler, and starts the goroutine that Close ends.
func NewLimit(h slog.Handler) *Limit {
	a := &accounts{kinds: map[uintptr]*kind{}, closing: make(chan struct{})}
	a.sweeper.Go(a.run)
	return &Limit{h, a}
}

// Handle implements slog.Handler.
func (l *Limit) Handle(ctx context.Context, r slog.Record) error {
	if r.Level > slog.LevelDebug {
		suppressed, write := l.take(l.Handler, &r)
		if !write {
			return nil
		}
		if suppressed > 0 {
			r = r.Clone()
			r.AddAttrs(slog.Uint64(SuppressedKey, suppressed))
		}
	}
	return l.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (l *Limit) WithAttrs(as []slog.Attr) slog.Handler {
	return &Limit{l.Handler.WithAttrs(as), l.accounts}
}

// WithGroup implements slog.Handler.
func (l *Limit) WithGroup(name string) slog.Handler {
	return &Limit{l.Handler.WithGroup(name), l.accounts}
}

// Close writes what is still to be told and ends the goroutine. The handler behind it must still take lines.
func (a *accounts) Close() {
	close(a.closing)
	a.sweeper.Wait()
}

// take counts a record. It says whether the record is to be written, and how many of its kind were not before.
func (a *accounts) take(by slog.Handler, r *slog.Record) (suppressed uint64, write bool) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	place := r.PC
	k := a.kinds[place]
	if k == nil && len(a.kinds) >= maxKinds {
		place = 0
		k = a.kinds[place]
	}
	if k == nil {
		k = &kind{tokens: maxBurst, at: now}
		a.kinds[place] = k
	}
	k.tokens = min(maxBurst, k.tokens+float64(now.Sub(k.at))/float64(lineInterval))
	k.at = now
	if k.tokens < 1 {
		k.suppressed++
		k.last, k.by = *r, by
		return 0, false
	}
	k.tokens--
	suppressed, k.suppressed, k.by = k.suppressed, 0, nil
	return suppressed, true
}

// run tells of suppressed lines that no line of their kind follows.
func (a *accounts) run() {
	t := time.NewTicker(sweepInterval)
	defer t.Stop()
	for {
		select {
		case <-a.closing:
			a.sweep()
			return
		case <-t.C:
			a.sweep()
		}
	}
}

// sweep writes a line for each kind of which lines were suppressed: the newest of them, and their number.
func (a *accounts) sweep() {
	type pending struct {
		slog.Record
		by slog.Handler
	}
	var tell []pending
	a.mu.Lock()
	for _, k := range a.kinds {
		if k.suppressed == 0 {
			continue
		}
		r := k.last.Clone()
		r.AddAttrs(slog.Uint64(SuppressedKey, k.suppressed-1)) // beside this one
		tell = append(tell, pending{r, k.by})
		k.suppressed, k.last, k.by = 0, slog.Record{}, nil
	}
	a.mu.Unlock()
	for _, p := range tell {
		_ = p.by.Handle(context.Background(), p.Record) // an error of a log has nowhere to go
	}
}
