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
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	gsyslog "github.com/hashicorp/go-syslog"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/target"
)

// tag is what lines of the log begin with, on stderr and in syslog.
const tag = "tgtd"

// sink takes finished lines, without their tag and newline.
type sink interface {
	write(level slog.Level, line string)
	close()
}

// logger is the daemon's log.
type logger struct {
	*slog.Logger
	level *slog.LevelVar
	sink  sink
}

// newLogger logs to a sink, debugging messages included if debug.
func newLogger(s sink, debug bool) *logger {
	l := &logger{level: new(slog.LevelVar), sink: s}
	l.setDebug(debug)
	l.Logger = slog.New(&lineHandler{sink: s, level: l.level})
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
func (l *logger) close() { l.sink.close() }

// lineHandler makes lines of the form "function(line) text key=value …", which is tgt's with the values
// behind.
type lineHandler struct {
	sink   sink
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
	h.sink.write(r.Level, fmt.Sprintf("%s(%d) %s%s", function, line, printable(r.Message), b.String()))
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

// stderrSink writes to the standard error at once.
type stderrSink struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *stderrSink) write(_ slog.Level, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.w, "%s: %s\n", tag, line) // an error here has nowhere to go
}

func (s *stderrSink) close() {}

// Limits of syslog.
const (
	// syslogQueue lines wait for syslogd; more are dropped and counted, so that a stalled syslogd stalls
	// nobody.
	syslogQueue = 1024
	// syslogRetry is how long a syslogd that can't be reached is left alone.
	syslogRetry = 10 * time.Second
	// syslogFlush is how long the last lines may take when the daemon ends.
	syslogFlush = 2 * time.Second
)

// syslogLine is a line on its way.
type syslogLine struct {
	level slog.Level
	text  string
}

// syslogSink hands lines to syslogd from a goroutine of its own. What syslogd does not take goes to
// fallback. Lines are numbered, since syslog's clock has whole seconds.
type syslogSink struct {
	lines    chan syslogLine
	dropped  atomic.Uint64
	done     chan struct{}
	closing  chan struct{}
	dial     func() (gsyslog.Syslogger, error)
	fallback sink

	// Used by the goroutine only.
	conn    gsyslog.Syslogger
	retryAt time.Time
	number  uint64
}

// newSyslogSink starts the goroutine; close ends it.
func newSyslogSink(dial func() (gsyslog.Syslogger, error), fallback sink) *syslogSink {
	s := &syslogSink{
		lines: make(chan syslogLine, syslogQueue), done: make(chan struct{}), closing: make(chan struct{}),
		dial: dial, fallback: fallback,
	}
	go s.run()
	return s
}

// dialSyslog reaches the local syslogd.
func dialSyslog() (gsyslog.Syslogger, error) {
	return gsyslog.NewLogger(gsyslog.LOG_INFO, "DAEMON", tag)
}

func (s *syslogSink) write(level slog.Level, line string) {
	select {
	case s.lines <- syslogLine{level, line}:
	default:
		s.dropped.Add(1)
	}
}

func (s *syslogSink) close() {
	close(s.closing)
	<-s.done
	s.fallback.close()
}

// run hands lines over until the sink is closed, and then those that are left.
func (s *syslogSink) run() {
	defer close(s.done)
	defer func() {
		if s.conn != nil {
			s.conn.Close()
		}
	}()
	for {
		select {
		case l := <-s.lines:
			s.hand(l)
			continue
		case <-s.closing:
		}
		for end := time.Now().Add(syslogFlush); time.Now().Before(end); {
			select {
			case l := <-s.lines:
				s.hand(l)
			default:
				return
			}
		}
		return
	}
}

// hand gives one line to syslogd, or to the fallback.
func (s *syslogSink) hand(l syslogLine) {
	s.number++
	text := fmt.Sprintf("%s seq=%d", l.text, s.number)
	if n := s.dropped.Swap(0); n > 0 {
		text += fmt.Sprintf(" dropped=%d", n)
	}
	if s.conn == nil && !time.Now().Before(s.retryAt) {
		conn, err := s.dial()
		if err != nil {
			s.retryAt = time.Now().Add(syslogRetry)
			s.fallback.write(slog.LevelError, "syslog can't be reached: "+err.Error())
		} else {
			s.conn = conn
		}
	}
	if s.conn != nil {
		err := s.conn.WriteLevel(priority(l.level), []byte(text))
		if err == nil {
			return
		}
		s.conn.Close()
		s.conn = nil
		s.retryAt = time.Now().Add(syslogRetry)
		s.fallback.write(slog.LevelError, "syslog takes no more: "+err.Error())
	}
	s.fallback.write(l.level, text)
}

// priority is syslog's word for a level.
func priority(level slog.Level) gsyslog.Priority {
	switch {
	case level >= slog.LevelError:
		return gsyslog.LOG_ERR
	case level >= slog.LevelWarn:
		return gsyslog.LOG_WARNING
	case level >= slog.LevelInfo:
		return gsyslog.LOG_INFO
	}
	return gsyslog.LOG_DEBUG
}
