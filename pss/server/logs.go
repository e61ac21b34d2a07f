package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/daemon"
)

// logs sends slog's lines to standard error, or to syslog with the tag pssd_<id> (M30). Nobody waits for either, and
// lines of one kind are limited.
type logs struct {
	logger *slog.Logger
	limit  *daemon.Limit
	sink   daemon.Sink
}

func newLogs(id cell.ID, stderr bool, level slog.Level) *logs {
	l := &logs{}
	if stderr {
		l.sink = daemon.NewQueue(daemon.NewStderr(os.Stderr, ""))
	} else {
		l.sink = daemon.NewSyslog(syslogOptions(id))
	}
	l.limit = daemon.NewLimit(newLineHandler(l.sink, level, stderr))
	l.logger = slog.New(l.limit)
	if stderr {
		l.logger = l.logger.With("server", id) // which syslog has in its tag
	}
	return l
}

// syslogOptions say how a server's lines look in syslog: as user.notice, pssd_<id> (M30).
func syslogOptions(id cell.ID) daemon.SyslogOptions {
	tag := "pssd_" + strconv.Itoa(int(id))
	return daemon.SyslogOptions{
		Tag: tag, Facility: daemon.FacilityUser, Notice: true, Stamp: stamp,
		Fallback: daemon.NewStderr(os.Stderr, tag),
	}
}

func (l *logs) close() {
	l.limit.Close()
	l.sink.Close()
}

// stamp adds to a line for syslog its number, and how many before it were dropped.
func stamp(line string, number, dropped uint64) string {
	line = fmt.Sprintf("%d %s", number, line)
	if dropped > 0 {
		line += fmt.Sprintf(" (%d lines before this one were dropped)", dropped)
	}
	return line
}

// lineHandler is slog's text handler, whose lines go to a sink together with their level.
type lineHandler struct {
	slog.Handler
	to *lineWriter
}

// newLineHandler leaves the time out unless it is asked for: syslogd stamps each line with its own clock.
func newLineHandler(sink daemon.Sink, level slog.Level, stamped bool) *lineHandler {
	w := &lineWriter{sink: sink}
	return &lineHandler{to: w, Handler: slog.NewTextHandler(w, &slog.HandlerOptions{Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if !stamped && len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})}
}

// Handle implements slog.Handler.
func (h *lineHandler) Handle(ctx context.Context, r slog.Record) error {
	h.to.mu.Lock()
	defer h.to.mu.Unlock()
	h.to.level = r.Level
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *lineHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return &lineHandler{h.Handler.WithAttrs(as), h.to}
}

// WithGroup implements slog.Handler.
func (h *lineHandler) WithGroup(name string) slog.Handler {
	return &lineHandler{h.Handler.WithGroup(name), h.to}
}

// lineWriter takes lines from the text handler, each in one Write.
type lineWriter struct {
	mu    sync.Mutex // held while a line is made
	level slog.Level // of that line
	sink  daemon.Sink
}

// Write implements io.Writer.
func (w *lineWriter) Write(b []byte) (int, error) {
	w.sink.Log(w.level, string(bytes.TrimSuffix(b, []byte("\n"))))
	return len(b), nil
}
