package target

import (
	"fmt"
	"slices"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/scsi"
)

// Heads of the statistics, as tgt prints them.
const (
	unitStatHead = "tgt lun sid rd_subm(bytes,cmds) rd_done(bytes,cmds) " +
		"wr_subm(bytes,cmds) wr_done(bytes,cmds) errs\n"
	connStatHead = "sid cid rxdata_octets txdata_octets dataout_pdus datain_pdus cmd_pdus rsp_pdus\n"
)

// statUnit writes the counters of one session on one unit.
func statUnit(b *strings.Builder, tid int, u *scsi.Unit, sid uint64) {
	s := u.Stats(sid)
	fmt.Fprintf(b, "%3d %3d %3d %12d %6d %12d %6d %12d %6d %12d %6d %4d\n", tid, u.LUN(), sid,
		s.ReadSubmittedBytes, s.ReadSubmitted, s.ReadDoneBytes, s.ReadDone,
		s.WriteSubmittedBytes, s.WriteSubmitted, s.WriteDoneBytes, s.WriteDone, s.Errors)
}

// statTarget writes a line for each unit and each session.
func (m *Model) statTarget(b *strings.Builder, t *target) {
	sessions := m.transport.Sessions(t.tid)
	for _, u := range t.device.Units() {
		for _, s := range sessions {
			statUnit(b, t.tid, u, s.SID)
		}
	}
}

// StatSystem is the text of `tgtadm --op stat --mode sys`.
func (m *Model) StatSystem() string {
	var b strings.Builder
	b.WriteString(unitStatHead)
	for _, t := range m.inOrder() {
		m.statTarget(&b, t)
	}
	return b.String()
}

// StatTarget is the text of `tgtadm --op stat --mode target --tid N`. It returns mgmt.ErrNoTarget.
func (m *Model) StatTarget(tid int) (string, error) {
	m.mu.RLock()
	t, err := m.find(tid)
	m.mu.RUnlock()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(unitStatHead)
	m.statTarget(&b, t)
	return b.String(), nil
}

// StatUnit is the text of `tgtadm --op stat --mode lu --tid N --lun L`: of all sessions, or of one when sid is
// not 0. It returns mgmt.ErrNoTarget, mgmt.ErrNoUnit or mgmt.ErrNoSession.
func (m *Model) StatUnit(tid int, lun, sid uint64) (string, error) {
	u, err := m.unit(tid, lun)
	if err != nil {
		return "", err
	}
	sessions := m.transport.Sessions(tid)
	if sid != 0 {
		sessions = slices.DeleteFunc(slices.Clone(sessions), func(s iscsi.SessionInfo) bool { return s.SID != sid })
		if len(sessions) == 0 {
			return "", fmt.Errorf("target %d: session %d: %w", tid, sid, mgmt.ErrNoSession)
		}
	}
	var b strings.Builder
	b.WriteString(unitStatHead)
	for _, s := range sessions {
		statUnit(&b, tid, u, s.SID)
	}
	return b.String(), nil
}

// statConnection writes the counters of one connection. tgt never counts data-in and response PDUs, and scripts
// know the columns as 0.
func statConnection(b *strings.Builder, sid uint64, c iscsi.ConnInfo) {
	s := c.Stats
	fmt.Fprintf(b, "%3d %3d %13d %13d %12d %11d %8d %8d\n", sid, c.CID, s.RxOctets, s.TxOctets, s.DataOutPDUs, 0,
		s.CommandPDUs, 0)
}

// session finds a session among all targets: numbers count per daemon.
func (m *Model) session(sid uint64) (*target, iscsi.SessionInfo, error) {
	for _, t := range m.inOrder() {
		for _, s := range m.transport.Sessions(t.tid) {
			if s.SID == sid {
				return t, s, nil
			}
		}
	}
	return nil, iscsi.SessionInfo{}, fmt.Errorf("session %d: %w", sid, mgmt.ErrNoSession)
}

// StatSession is the text of `tgtadm --op stat --mode session --sid S`: its units from the highest number
// down, then its connections, newest first. It returns mgmt.ErrNoSession.
func (m *Model) StatSession(sid uint64) (string, error) {
	t, s, err := m.session(sid)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(unitStatHead)
	for _, u := range slices.Backward(t.device.Units()) {
		statUnit(&b, t.tid, u, sid)
	}
	b.WriteString("\n" + connStatHead)
	for _, c := range slices.Backward(s.Connections) {
		statConnection(&b, sid, c)
	}
	return b.String(), nil
}

// StatConnection is the text of `tgtadm --op stat --mode conn --sid S --cid C`. It returns mgmt.ErrNoSession or
// mgmt.ErrNoConnection.
func (m *Model) StatConnection(sid uint64, cid uint32) (string, error) {
	_, s, err := m.session(sid)
	if err != nil {
		return "", err
	}
	for _, c := range s.Connections {
		if c.CID == cid {
			var b strings.Builder
			b.WriteString(connStatHead)
			statConnection(&b, sid, c)
			return b.String(), nil
		}
	}
	return "", fmt.Errorf("session %d: connection %d: %w", sid, cid, mgmt.ErrNoConnection)
}

// CloseConnection closes one connection of a session. It returns mgmt.ErrNoTarget, mgmt.ErrNoSession or
// mgmt.ErrNoConnection.
func (m *Model) CloseConnection(tid int, sid uint64, cid uint32) error {
	if _, err := m.device(tid); err != nil {
		return err
	}
	sessions := m.transport.Sessions(tid)
	i := slices.IndexFunc(sessions, func(s iscsi.SessionInfo) bool { return s.SID == sid })
	if i < 0 {
		return fmt.Errorf("target %d: session %d: %w", tid, sid, mgmt.ErrNoSession)
	}
	known := slices.ContainsFunc(sessions[i].Connections, func(c iscsi.ConnInfo) bool { return c.CID == cid })
	if !known {
		return fmt.Errorf("target %d: session %d: connection %d: %w", tid, sid, cid, mgmt.ErrNoConnection)
	}
	if err := m.transport.CloseConnection(tid, sid, cid); err != nil {
		return fmt.Errorf("target %d: %w", tid, mgmt.ErrNoConnection.With(err))
	}
	return nil
}
