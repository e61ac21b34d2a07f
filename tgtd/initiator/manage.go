package initiator

import (
	"errors"
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// Function is a task management function, numbered as in RFC 7143 11.5.1.
type Function byte

// The task management functions that Manage carries out.
const (
	AbortTask        Function = 1
	AbortTaskSet     Function = 2
	ClearTaskSet     Function = 4
	LogicalUnitReset Function = 5
	TargetWarmReset  Function = 6
	TargetColdReset  Function = 7
)

// ManageError is a task management function that the target did not carry out: the response of RFC 7143
// 11.6.1.
type ManageError struct{ Response byte }

// Error implements error.
func (e *ManageError) Error() string {
	names := [...]string{1: "task does not exist", 2: "LUN does not exist", 3: "task still allegiant",
		4: "task allegiance reassignment not supported", 5: "function not supported", 6: "not authorised"}
	if int(e.Response) < len(names) && names[e.Response] != "" {
		return "task management: " + names[e.Response]
	}
	return fmt.Sprintf("task management: response %d", e.Response)
}

// errNoConnection is what a task management function gets while the session logs in again: the commands it
// is about have ended at the target already.
var errNoConnection = errors.New("task management: there is no connection")

// manageTag is the initiator task tag of task management functions, beyond those of commands.
const manageTag = MaxDepth

// management is a task management function under way.
type management struct {
	f        Function
	lun      uint64
	conn     *conn  // that it goes by
	task     *Task  // of AbortTask
	last     uint64 // the newest submission it is about
	done     chan struct{}
	response byte
	err      error
}

func (m *management) finish(response byte, err error) {
	m.response, m.err = response, err
	close(m.done)
}

// covers says whether the function ends a command.
func (m *management) covers(t *Task) bool {
	switch {
	case t.conn == nil || t.seq > m.last: // one that a lost connection carried is over at the target, and comes again
		return false
	case m.f == AbortTask:
		return t == m.task
	case m.f == TargetWarmReset || m.f == TargetColdReset:
		return true
	}
	return t.LUN == m.lun
}

// Manage carries out a task management function (RFC 7143 11.5) on a unit, or for AbortTask on a task that
// was submitted; t is nil for the others. The commands it ended fail with ErrAborted before Manage returns. It
// returns a *ManageError when the target answers anything but FUNCTION COMPLETE, as it does for a task that
// was done already. One function is under way at a time; others wait.
func (s *Session) Manage(f Function, lun uint64, t *Task) error {
	s.managing.Lock()
	defer s.managing.Unlock()
	raw, ok := pdu.EncodeLUN(lun)
	if !ok {
		return fmt.Errorf("task management: no LUN has the number %d", lun)
	}
	req := pdu.TaskRequest{Immediate: true, Function: byte(f), LUN: raw, InitiatorTag: manageTag, ReferencedTag: pdu.NoTag}
	s.mu.Lock()
	c := s.someConn()
	switch {
	case s.closed:
		defer s.mu.Unlock()
		return s.why()
	case c == nil:
		s.mu.Unlock()
		return errNoConnection
	}
	m := &management{f: f, lun: lun, task: t, last: s.seq, done: make(chan struct{})}
	if f == AbortTask {
		if s.slots[t.tag] != t || t.conn == nil {
			s.mu.Unlock()
			return &ManageError{1}
		}
		req.ReferencedTag, req.RefCmdSN = t.itt, t.sn
		c = t.conn
	}
	m.conn = c
	req.CmdSN = s.cmdSN
	s.managed = m
	c.manage(&req)
	s.mu.Unlock()
	c.flush()
	<-m.done
	switch {
	case m.err != nil:
		return m.err
	case m.response != 0:
		return &ManageError{m.response}
	}
	return nil
}

// takeTask takes the answer to a task management function.
func (s *Session) takeTask(c *conn, h *pdu.Header) error {
	var r pdu.TaskResponse
	r.Decode(h)
	s.window(c, &r.Status, true)
	s.mu.Lock()
	m := s.managed
	if m == nil || r.InitiatorTag != manageTag {
		s.mu.Unlock()
		return fmt.Errorf("%w: an answer to no task management function", ErrProtocol)
	}
	s.managed = nil
	var ended []*Task
	for _, t := range s.slots {
		if r.Response == 0 && t != nil && m.covers(t) {
			s.retire(t)
			ended = append(ended, t)
		}
	}
	s.mu.Unlock()
	for _, t := range ended {
		t.Err = ErrAborted
		if !c.late(t) {
			s.complete(t)
		}
	}
	m.finish(r.Response, nil)
	return nil
}
