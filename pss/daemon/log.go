package daemon

import (
	"io"
	"log/slog"
	"sync"
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

// Stderr writes each line at once, behind its tag if there is one: who logs waits for it, unless a Queue stands in
// between.
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
	if s.tag != "" {
		line = s.tag + ": " + line
	}
	_, _ = io.WriteString(s.w, line+"\n") // an error here has nowhere to go
}

// Close implements Sink; there is nothing to do.
func (s *Stderr) Close() {}

// retryInterval is how long a syslogd that can't be reached is left alone.
const retryInterval = 10 * time.Second

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

// Syslog hands lines to syslogd from a goroutine of its own; Log never waits.
type Syslog struct {
	options SyslogOptions
	dial    func() (gsyslog.Syslogger, error)
	queue

	// Used by the queue's goroutine only.
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
	s := &Syslog{options: o, dial: dial, queue: newQueue()}
	s.writer.Go(func() {
		s.run(s.hand)
		if s.conn != nil {
			s.conn.Close()
		}
	})
	return s
}

// Close implements Sink. It takes little more than flushLimit, whatever syslogd does.
func (s *Syslog) Close() {
	close(s.closing)
	s.writer.Wait()
	s.options.Fallback.Close()
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
