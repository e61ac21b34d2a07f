package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"unicode"

	"github.com/paxos-iscsi/paxos-iscsi/pss/daemon"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/target"
)

// tag is what lines of the log begin with, on stderr and in syslog.
const tag = "tgtd"

// logger is the daemon's log.
type logger struct {
	*slog.Logger
	level *slog.LevelVar
	limit *daemon.Limit
	sink  daemon.Sink
}

// newLogger logs to a sink, debugging messages included if debug.
func newLogger(s daemon.Sink, debug bool) *logger {
	l := &logger{level: new(slog.LevelVar), sink: s}
	l.setDebug(debug)
	l.limit = daemon.NewLimit(&lineHandler{sink: s, level: l.level})
	l.Logger = slog.New(l.limit)
	return l
}

func (l *logger) setDebug(on bool) {
	if on {
		l.level.Set(slog.LevelDebug)
	} else {
		l.level.Set(slog.LevelInfo)
	}
}

// close writes what is still to be written. The logger may be used no more.
func (l *logger) close() {
	l.limit.Close()
	l.sink.Close()
}

// lineHandler makes lines of the form "function(line) text key=value …", which is tgt's with the values
// behind.
type lineHandler struct {
	sink   daemon.Sink
	level  slog.Leveler
	prefix string // of keys: groups
	attrs  string // of With, formatted
	origin string
}

func (h *lineHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

func (h *lineHandler) WithGroup(name string) slog.Handler {
	with := *h
	with.prefix += name + "."
	return &with
}

func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	var b strings.Builder
	for _, a := range attrs {
		with.append(&b, h.prefix, a)
	}
	with.attrs += b.String()
	return &with
}

// append writes one attribute, or takes it as the line's origin.
func (h *lineHandler) append(b *strings.Builder, prefix string, a slog.Attr) {
	value := a.Value.Resolve()
	switch {
	case a.Key == target.OriginKey:
		h.origin = value.String()
	case value.Kind() == slog.KindGroup:
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, inner := range value.Group() {
			h.append(b, prefix, inner)
		}
	case !a.Equal(slog.Attr{}):
		fmt.Fprintf(b, " %s%s=%s", prefix, a.Key, quote(value.String()))
	}
}

// quote puts a value in quotes where it could not be told from what follows.
func quote(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r == '"' || !unicode.IsGraphic(r) || r == ' ' }) {
		return strconv.Quote(s)
	}
	return s
}

// printable keeps a message on its line, whatever names of initiators are in it.
func printable(s string) string {
	if !strings.ContainsFunc(s, unicode.IsControl) {
		return s
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	one := *h
	var b strings.Builder
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		one.append(&b, h.prefix, a)
		return true
	})
	function, line := source(r.PC)
	if one.origin != "" {
		function = one.origin
	}
	h.sink.Log(r.Level, fmt.Sprintf("%s(%d) %s%s", function, line, printable(r.Message), b.String()))
	return nil
}

// closure is how the compiler names a function within a function.
var closure = regexp.MustCompile(`(\.func\d+|\.\d+|\.gowrap\d+)+$`)

// source is the function and line that logged.
func source(pc uintptr) (function string, line int) {
	if pc == 0 {
		return "?", 0
	}
	frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	name := closure.ReplaceAllString(path.Base(frame.Function), "")
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		name = name[i+1:]
	}
	return name, frame.Line
}

// logSink is where the log goes: to stderr with -f, else to syslog. In either case nobody waits for it.
func logSink(o options, stderr io.Writer) daemon.Sink {
	s := daemon.NewStderr(stderr, tag)
	if o.foreground {
		return daemon.NewQueue(s)
	}
	return daemon.NewSyslog(daemon.SyslogOptions{
		Tag: tag, Facility: daemon.FacilityDaemon, Stamp: stamp, Fallback: s,
	})
}

// stamp adds to a line for syslog its number, and how many before it were dropped.
func stamp(line string, number, dropped uint64) string {
	line = fmt.Sprintf("%s seq=%d", line, number)
	if dropped > 0 {
		line += fmt.Sprintf(" dropped=%d", dropped)
	}
	return line
}
