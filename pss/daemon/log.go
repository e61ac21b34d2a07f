package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	gsyslog "github.com/hashicorp/go-syslog"
)

// Sink takes the finished lines of a log, without tag and newline. Its methods may be called from everywhere at
// once.
type Sink interface {
	// Log takes one line.
	Log(level slog.Level, line string)
	// Close writes what is still to be written; later lines are lost. It is called once.
	Close()
}

// Stderr writes each line at once, behind its tag: who logs waits for it.
type Stderr struct {
	mu  sync.Mutex
	w   io.Writer
	tag string
}

// NewStderr returns a sink that writes to w, which is the standard error or stands in for it.
func NewStderr(w io.Writer, tag string) *Stderr { return &Stderr{w: w, tag: tag} }

// Log implements Sink.
func (s *Stderr) Log(_ slog.Level, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.w, "%s: %s\n", s.tag, line) // an error here has nowhere to go
}

// Close implements Sink; there is nothing to do.
func (s *Stderr) Close() {}

// Limits of Syslog.
const (
	// maxQueuedLines wait for syslogd; more are dropped and counted, so that a stalled syslogd stalls nobody.
	maxQueuedLines = 1024
	// retryInterval is how long a syslogd that can't be reached is left alone.
	retryInterval = 10 * time.Second
	// flushLimit is how long the last lines may take when the daemon ends.
	flushLimit = 2 * time.Second
)

// Facility is syslog's word for the kind of program that logs.
type Facility string

// The facilities of the house.
const (
	FacilityUser   Facility = "USER"
	FacilityDaemon Facility = "DAEMON"
)

// SyslogOptions are a daemon's ways with syslog. All are needed but Notice.
type SyslogOptions struct {
	Tag      string
	Facility Facility
	// Notice makes slog's Info syslog's notice, which more configurations of syslogd keep, instead of its info.
	Notice bool
	// Stamp adds to a line its number, and how many lines were dropped before it if that isn't 0. The numbers
	// are there since the clock of syslog has whole seconds.
	Stamp func(line string, number, dropped uint64) string
	// Fallback takes what syslogd does not take, and word of that. Syslog closes it.
	Fallback Sink
}

// queued is a line on its way.
type queued struct {
	level   slog.Level
	line    string
	dropped uint64 // lines that came before it and found no place
}

// Syslog hands lines to syslogd from a goroutine of its own; Log never waits.
type Syslog struct {
	options SyslogOptions
	dial    func() (gsyslog.Syslogger, error)
	lines   chan queued
	dropped atomic.Uint64 // since the last line that found a place
	closing chan struct{}
	writer  sync.WaitGroup

	// Used by the writer only.
	conn    gsyslog.Syslogger
	retryAt time.Time
	number  uint64
}

// NewSyslog returns a sink for the syslogd of this machine, and starts the goroutine that Close ends. It needs no
// syslogd to be there yet.
func NewSyslog(o SyslogOptions) *Syslog { return newSyslog(o, dialer(o, "", "")) }

// dialer returns what reaches the syslogd at an address, or the one of this machine if that is "".
func dialer(o SyslogOptions, network, address string) func() (gsyslog.Syslogger, error) {
	return func() (gsyslog.Syslogger, error) {
		return gsyslog.DialLogger(network, address, gsyslog.LOG_INFO, string(o.Facility), o.Tag)
	}
}

func newSyslog(o SyslogOptions, dial func() (gsyslog.Syslogger, error)) *Syslog {
	s := &Syslog{options: o, dial: dial, lines: make(chan queued, maxQueuedLines), closing: make(chan struct{})}
	s.writer.Go(s.run)
	return s
}

// Log implements Sink.
func (s *Syslog) Log(level slog.Level, line string) {
	dropped := s.dropped.Swap(0)
	select {
	case s.lines <- queued{level, line, dropped}:
	default:
		s.dropped.Add(dropped + 1)
	}
}

// Close implements Sink. It takes little more than flushLimit, whatever syslogd does.
func (s *Syslog) Close() {
	close(s.closing)
	s.writer.Wait()
	s.options.Fallback.Close()
}

// run hands lines over until the sink is closed.
func (s *Syslog) run() {
	for !s.closed() {
		select {
		case l := <-s.lines:
			s.hand(l)
		case <-s.closing:
		}
	}
	s.flush()
	if s.conn != nil {
		s.conn.Close()
	}
}

// closed is asked before each line: a select alone would choose lines as often as the end, without a limit.
func (s *Syslog) closed() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// flush hands over the lines that are left, or as many as there is time for and the number of the others.
func (s *Syslog) flush() {
	end := time.Now().Add(flushLimit)
	for len(s.lines) > 0 && time.Now().Before(end) {
		s.hand(<-s.lines)
	}
	lost := s.dropped.Swap(0)
	for len(s.lines) > 0 {
		l := <-s.lines
		lost += l.dropped + 1
	}
	if lost > 0 {
		s.hand(queued{slog.LevelWarn, "the log ends", lost})
	}
}

// hand gives one line to syslogd, or to the fallback.
func (s *Syslog) hand(l queued) {
	s.number++
	line := s.options.Stamp(l.line, s.number, l.dropped)
	if s.conn == nil && !time.Now().Before(s.retryAt) {
		conn, err := s.dial()
		if err != nil {
			s.leave("syslog can't be reached", err)
		} else {
			s.conn = conn
		}
	}
	if s.conn != nil {
		err := s.conn.WriteLevel(priority(l.level, s.options.Notice), []byte(line))
		if err == nil {
			return
		}
		s.conn.Close()
		s.conn = nil
		s.leave("syslog takes no more", err)
	}
	s.options.Fallback.Log(l.level, line)
}

// leave leaves syslogd alone for a while.
func (s *Syslog) leave(what string, why error) {
	s.retryAt = time.Now().Add(retryInterval)
	s.options.Fallback.Log(slog.LevelError, what+": "+why.Error())
}

// priority is syslog's word for a level.
func priority(level slog.Level, notice bool) gsyslog.Priority {
	switch {
	case level >= slog.LevelError:
		return gsyslog.LOG_ERR
	case level >= slog.LevelWarn:
		return gsyslog.LOG_WARNING
	case level >= slog.LevelInfo && notice:
		return gsyslog.LOG_NOTICE
	case level >= slog.LevelInfo:
		return gsyslog.LOG_INFO
	}
	return gsyslog.LOG_DEBUG
}
