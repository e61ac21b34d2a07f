package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/replica"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

const usage = "PFSserver [OPTION...] ID [ROOT] [start | restart | autonomic [SOURCE] | found]"

// mode is how a server is started (M26 to M29). All of them are safe at any time and in any order: a server
// resumes what its root holds, or joins the cell that there is; agreement finds the newest state.
type mode string

const (
	modeAny       mode = ""          // resume, or begin if the root is empty
	modeStart     mode = "start"     // begin: the root must be empty
	modeRestart   mode = "restart"   // resume: the root must not be empty
	modeAutonomic mode = "autonomic" // resume if the cell can't do without it, else take everything from the others
	modeFound     mode = "found"     // found the cell again on this root, after the loss of a majority
)

// parseMode takes what follows the id on the command line.
func (s *settings) parseMode(args []string) error {
	word := func() string {
		if len(args) == 0 {
			return ""
		}
		return args[0]
	}
	switch mode(word()) {
	case modeAny, modeStart, modeRestart, modeAutonomic, modeFound:
	default:
		root, err := filepath.Abs(args[0])
		if err != nil {
			return err
		}
		s.root, args = root, args[1:]
	}
	if s.mode = mode(word()); len(args) > 0 {
		args = args[1:]
	}
	switch s.mode {
	case modeRestart:
		if mode(word()) == modeAutonomic { // as the manual says it
			s.mode, args = modeAutonomic, args[1:]
		}
	case modeAny, modeStart, modeAutonomic, modeFound:
	default:
		return usageError{fmt.Errorf("%q is no way to start a server: want %s", s.mode, usage)}
	}
	if s.mode == modeAutonomic && len(args) > 0 {
		id, err := cell.ParseID(args[0])
		if err != nil {
			return usageError{err}
		}
		if id == s.server.ID {
			return usageError{fmt.Errorf("server %d can't be its own source", id)}
		}
		s.source, args = &id, args[1:]
	}
	if len(args) > 0 {
		return usageError{fmt.Errorf("%d arguments too many: want %s", len(args), usage)}
	}
	return nil
}

// What a LAN takes, and how many heartbeats fit into a silence.
var (
	lanHeartbeat = agreement.LAN.Tick * time.Duration(agreement.LAN.Heartbeat)
	lanElection  = agreement.LAN.Tick * time.Duration(agreement.LAN.Election)
)

// Bounds of the timing.
const (
	minHeartbeat = 20 * time.Millisecond
	maxElection  = 60 * time.Second
	minBeats     = 4 // heartbeats in the silence before an election
)

// timingOf is the timing for a heartbeat and an election time-out: a tick is half a heartbeat.
func timingOf(heartbeat, election time.Duration) (agreement.Timing, error) {
	switch {
	case heartbeat < minHeartbeat:
		return agreement.Timing{}, fmt.Errorf("--heartbeat %v: at least %v", heartbeat, minHeartbeat)
	case election < minBeats*heartbeat:
		return agreement.Timing{}, fmt.Errorf("--election %v: at least %d heartbeats of %v, or a lost one ends a mastership",
			election, minBeats, heartbeat)
	case election > maxElection:
		return agreement.Timing{}, fmt.Errorf("--election %v: at most %v", election, maxElection)
	}
	tick := heartbeat / 2
	return agreement.Timing{Tick: tick, Heartbeat: 2, Election: int((election + tick - 1) / tick)}, nil
}

// prepare does what a mode asks for before the server runs.
func prepare(s settings, logger *slog.Logger) error {
	dir, err := disk.Dir(s.root)
	if err != nil {
		return err
	}
	used, err := replica.HasData(dir)
	if err != nil {
		return err
	}
	switch {
	case s.mode == modeStart && used:
		return fmt.Errorf("%s holds data, and start is for empty roots: use restart", s.root)
	case s.mode == modeRestart && !used:
		return fmt.Errorf("%s is empty, and restart is for roots with data: use start", s.root)
	case s.mode == modeAutonomic:
		return autonomic(s, dir, used, logger)
	}
	return nil
}

// statusOf asks a server how it is.
func statusOf(conf *cell.Config, id cell.ID) (admin.Status, error) {
	return replica.StatusOf(context.Background(), conf, id)
}

// autonomic makes a root ready to take everything from the others, if they can do without what it has promised:
// the source is there, and a majority of the voters without this server follows a master. Else the root keeps its
// place, and its server takes what it has missed as any other does; so the cell is never worse off for it.
func autonomic(s settings, dir disk.FS, used bool, logger *slog.Logger) error {
	source, err := findSource(s)
	if err != nil {
		return err
	}
	var into wire.CellID
	if b, err := hex.DecodeString(source.Cell); err != nil || len(b) != len(into) {
		return fmt.Errorf("server %d does not belong to a cell: it is %s", source.ID, source.State)
	} else {
		copy(into[:], b)
	}
	if !used {
		return nil // it has nothing to give up
	}
	own, err := replica.ReadIdentity(dir)
	if err == nil && own.Number == 0 {
		return nil // it has given it up
	}
	if why := dispensable(s, source); why != nil {
		if err == nil && own.Cell != into {
			return fmt.Errorf("this root is of cell %v and server %d of %v, which can't take it in: %w", own.Cell, source.ID, into, why)
		}
		logger.Warn("the server keeps its log and its vote, which the cell needs", "because", why)
		return nil
	}
	logger.Info("the server gives its place up to take everything from the others", "source", source.ID)
	return replica.GiveUp(s.root, s.server.ID, into, rand.Reader)
}

// findSource asks the server to take everything from: the one that was named, else the master.
func findSource(s settings) (admin.Status, error) {
	if s.source != nil {
		st, err := statusOf(s.conf, *s.source)
		if err != nil {
			return st, fmt.Errorf("the source can't be asked: %w", err)
		}
		return st, nil
	}
	var errs []error
	for _, other := range s.conf.Servers {
		if other.ID == s.server.ID {
			continue
		}
		st, err := statusOf(s.conf, other.ID)
		if err == nil && st.Master != nil && *st.Master != s.server.ID {
			if st, err = statusOf(s.conf, *st.Master); err == nil && st.IsMaster {
				return st, nil
			}
		}
		errs = append(errs, err)
	}
	return admin.Status{}, errors.Join(errors.New("no server knows a master to take the state from: name a source, or use restart"),
		errors.Join(errs...))
}

// dispensable says why the cell needs this server's vote, or nothing.
func dispensable(s settings, source admin.Status) error {
	master := source
	if !master.IsMaster {
		if source.Master == nil || *source.Master == s.server.ID {
			return errors.New("the cell has no master")
		}
		var err error
		if master, err = statusOf(s.conf, *source.Master); err != nil {
			return err
		}
	}
	return replica.CanSpare(&master, s.server.ID)
}

// found has the cell founded again on this root when its server is started next.
func found(s settings, in io.Reader, out io.Writer) error {
	look, err := replica.Look(s.root, s.server.ID)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Server %d holds the log up to entry %d (term %d); up to %d it is known to have been agreed on.\n",
		s.server.ID, look.Last, look.Term, look.Commit)
	newest := look.Last
	for _, other := range s.conf.Servers {
		if other.ID == s.server.ID {
			continue
		}
		st, err := statusOf(s.conf, other.ID)
		switch {
		case err != nil:
			fmt.Fprintf(out, "Server %d can't be asked; what it has beyond that is lost.\n", other.ID)
		case st.Master != nil:
			return fmt.Errorf("server %d knows a master, server %d: the cell has its majority, and nothing needs to be founded again",
				other.ID, *st.Master)
		case st.Cell != look.Identity.Cell.String():
			fmt.Fprintf(out, "Server %d is %s and holds nothing of this cell.\n", other.ID, st.State)
		default:
			fmt.Fprintf(out, "Server %d holds the log up to entry %d.\n", other.ID, st.Last)
			newest = max(newest, st.Last)
		}
	}
	if newest > look.Last {
		fmt.Fprintf(out, "Entries %d to %d are LOST if the cell is founded on this server. Use the server that has them.\n", look.Last+1, newest)
	}
	fmt.Fprintf(out, "The cell will begin anew with this server alone, under a new identity. All other servers have to join it\n"+
		"with \"PFSserver ID ROOT autonomic\", and give up what they hold. What only they have acknowledged is lost.\n")
	if !s.yes {
		fmt.Fprint(out, "Type the word found to go on: ")
		line, err := bufio.NewReader(io.LimitReader(in, 64)).ReadString('\n')
		if err != nil && line == "" || strings.TrimSpace(line) != "found" {
			return cmp.Or(err, errors.New("nothing was changed"))
		}
	}
	c, err := replica.Refound(s.root, s.server.ID, rand.Reader)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "The cell is %v from now on. Start the server: PFSserver %d %s restart\n", c, s.server.ID, s.root)
	return nil
}
