package replica

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
)

// Named limits of the journal.
const (
	journalLines   = 2000 // kept of the server's log
	journalReaders = 64   // lines a tool that follows may be behind; what it misses is not sent to it
	maxJournalText = 2048 // bytes of a line
)

// journal keeps the newest lines of the server's log, and gives new ones to tools that follow it. Whoever logs never
// waits for a tool.
type journal struct {
	mu      sync.Mutex
	ring    []admin.LogLine // up to journalLines, the oldest at next when it is full
	next    int
	readers map[chan admin.LogLine]struct{}
}

func newJournal() *journal { return &journal{readers: make(map[chan admin.LogLine]struct{})} }

func (j *journal) add(l admin.LogLine) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.ring) < journalLines {
		j.ring = append(j.ring, l)
	} else {
		j.ring[j.next] = l
		j.next = (j.next + 1) % journalLines
	}
	for r := range j.readers {
		select {
		case r <- l:
		default: // too slow
		}
	}
}

// follow returns the last n lines, and all that come after them on a channel, until stop is called.
func (j *journal) follow(n int) (last []admin.LogLine, more <-chan admin.LogLine, stop func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	n = max(0, min(n, len(j.ring)))
	for i := len(j.ring) - n; i < len(j.ring); i++ {
		last = append(last, j.ring[(j.next+i)%len(j.ring)])
	}
	r := make(chan admin.LogLine, journalReaders)
	j.readers[r] = struct{}{}
	return last, r, func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.readers, r)
	}
}

// journalHandler is a slog.Handler that also writes into a journal.
type journalHandler struct {
	slog.Handler
	j     *journal
	attrs string // of With, ready to be appended
	group string
}

// Enabled implements slog.Handler: the journal has what an operator asks for afterwards, whatever the log is set to.
func (h journalHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo || h.Handler.Enabled(ctx, level)
}

// Handle writes the record to the journal, and to the handler below if that wants it.
func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		writeAttr(&b, h.group, a)
		return true
	})
	text := b.String()
	if len(text) > maxJournalText {
		text = text[:maxJournalText]
	}
	h.j.add(admin.LogLine{UnixNano: r.Time.UnixNano(), Level: r.Level.String(), Text: strings.ToValidUTF8(text, "?")})
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	var b strings.Builder
	b.WriteString(h.attrs)
	for _, a := range attrs {
		writeAttr(&b, h.group, a)
	}
	h.attrs, h.Handler = b.String(), h.Handler.WithAttrs(attrs)
	return h
}

// WithGroup implements slog.Handler.
func (h journalHandler) WithGroup(name string) slog.Handler {
	if name != "" {
		h.group += name + "."
	}
	h.Handler = h.Handler.WithGroup(name)
	return h
}

func writeAttr(b *strings.Builder, group string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		for _, m := range v.Group() {
			writeAttr(b, group+a.Key+".", m)
		}
		return
	}
	b.WriteByte(' ')
	b.WriteString(group + a.Key)
	b.WriteByte('=')
	text := v.String()
	if v.Kind() == slog.KindTime {
		text = v.Time().Format(time.RFC3339Nano)
	}
	if strings.ContainsAny(text, " \"\n\t=") || text == "" {
		text = quote(text)
	}
	b.WriteString(text)
}
