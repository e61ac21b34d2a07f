package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	gsyslog "github.com/hashicorp/go-syslog"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

const (
	maxQueuedLines = 1024             // lines waiting for syslogd; more are dropped and counted
	syslogRetry    = 10 * time.Second // between attempts to find a syslog socket
)

// logs sends slog's lines to standard error, or to syslog with the tag pssd_<id> (M30). Writing to
// syslog takes up to 40 ms a line when syslogd stalls, so a goroutine does it and nobody waits for it.
type logs struct {
	logger *slog.Logger
	queue  *lineQueue // nil for standard error
}

func newLogs(id cell.ID, stderr bool, level slog.Level) *logs {
	opts := &slog.HandlerOptions{Level: level}
	if stderr {
		return &logs{logger: slog.New(slog.NewTextHandler(os.Stderr, opts)).With("server", id)}
	}
	q := newLineQueue("pssd_" + strconv.Itoa(int(id)))
	// syslogd stamps each line with its own clock.
	opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	return &logs{logger: slog.New(&levelHandler{Handler: slog.NewTextHandler(q, opts), q: q}), queue: q}
}

func (l *logs) close() {
	if l.queue != nil {
		l.queue.close()
	}
}

// levelHandler is a text handler whose lines arrive at the queue in pairs with their level.
type levelHandler struct {
	slog.Handler
	q *lineQueue
}

// Handle implements slog.Handler.
func (h *levelHandler) Handle(ctx context.Context, r slog.Record) error {
	h.q.mu.Lock()
	defer h.q.mu.Unlock()
	h.q.level = r.Level
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *levelHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return &levelHandler{h.Handler.WithAttrs(as), h.q}
}

// WithGroup implements slog.Handler.
func (h *levelHandler) WithGroup(name string) slog.Handler {
	return &levelHandler{h.Handler.WithGroup(name), h.q}
}

type line struct {
	level slog.Level
	text  string
}

// lineQueue is the bounded way to syslogd.
type lineQueue struct {
	tag     string
	mu      sync.Mutex // guards level while a handler writes
	level   slog.Level
	lines   chan line
	dropped atomic.Uint64
	written sync.WaitGroup
}

func newLineQueue(tag string) *lineQueue {
	q := &lineQueue{tag: tag, lines: make(chan line, maxQueuedLines)}
	q.written.Go(q.run)
	return q
}

// Write takes one line; it never waits.
func (q *lineQueue) Write(b []byte) (int, error) {
	select {
	case q.lines <- line{q.level, string(bytes.TrimSuffix(b, []byte("\n")))}:
	default:
		q.dropped.Add(1)
	}
	return len(b), nil
}

func (q *lineQueue) close() {
	close(q.lines)
	q.written.Wait()
}

// run writes lines to syslogd, to standard error while there is none.
func (q *lineQueue) run() {
	var to gsyslog.Syslogger
	var tried time.Time
	var sequence uint64 // syslog's stamps have a resolution of a second: the number keeps the order
	for l := range q.lines {
		if to == nil && time.Since(tried) >= syslogRetry {
			tried = time.Now()
			to, _ = gsyslog.NewLogger(gsyslog.LOG_NOTICE, "USER", q.tag)
		}
		sequence++
		text := fmt.Sprintf("%d %s", sequence, l.text)
		if n := q.dropped.Swap(0); n > 0 {
			text += fmt.Sprintf(" (%d lines before this one were dropped)", n)
		}
		if to != nil {
			if to.WriteLevel(priority(l.level), []byte(text)) == nil {
				continue
			}
			to.Close()
			to = nil
		}
		fmt.Fprintln(os.Stderr, q.tag+":", text)
	}
	if to != nil {
		to.Close()
	}
}

func priority(l slog.Level) gsyslog.Priority {
	switch {
	case l >= slog.LevelError:
		return gsyslog.LOG_ERR
	case l >= slog.LevelWarn:
		return gsyslog.LOG_WARNING
	case l >= slog.LevelInfo:
		return gsyslog.LOG_NOTICE
	}
	return gsyslog.LOG_DEBUG
}
