package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/survey"
)

// control prints the original's layout. Its words stand for: round and epoch, the term; elected and vote, the
// master as this server knows it; birth, when the process started; NextSeq and NextDecide, the next index to
// be agreed on; BackPage, the page of the oldest entry in the log; load, connected clients; status bits, 1
// configured, 2 connected from here.
func control(s *session) error {
	st, err := s.status()
	if err != nil {
		return err
	}
	var peers []admin.Peer
	if err := s.conn.Call(s.ctx, admin.MethodPeers, nil, &peers); err != nil {
		return err
	}
	// What the others say of themselves: this server does not know all of it.
	all := survey.Take(s.ctx, s.conf)
	now := time.Now()
	fmt.Fprintf(s.w, "MyId[%d] IamMaster[%d] MyRnd[%d] epoch[%d]\n", st.ID, flag(st.IsMaster), flag(st.IsMaster), st.Term)
	fmt.Fprintf(s.w, " Elected[%s] Reader[%s] Vote[%s] Birth[%d]  Suppress[0]\n", masterText(st.Master), masterText(st.Master),
		masterText(st.Master), born(&st, now))
	fmt.Fprintf(s.w, "NextSeq[%d]\n", st.Commit+1)
	for _, server := range s.conf.Servers {
		i := slices.IndexFunc(peers, func(p admin.Peer) bool { return p.ID == server.ID })
		bits, heard := 1, int64(0)
		host, port := server.Host, server.UDPPort
		switch {
		case server.ID == st.ID:
			bits = 3
		case i >= 0:
			host, port, heard = peers[i].Host, peers[i].UDPPort, peers[i].HeardNano
			if peers[i].Connected {
				bits = 3
			}
		}
		s.member(server.ID, fmt.Sprintf("%s:%d", host, port), bits, heard, all, now)
	}
	return nil
}

func (s *session) member(id cell.ID, address string, bits int, heard int64, all *survey.Cell, now time.Time) {
	leader, epoch, birth, load, next, page := "-1", uint64(0), int64(0), 0, uint64(0), uint64(0)
	for _, o := range all.Servers {
		if o.ID == id && o.Status != nil {
			st := o.Status
			leader, epoch, birth, load = masterText(st.Master), st.Term, born(st, now), st.Clients
			next, page = st.Commit+1, st.LogFirst/pageSize
		}
	}
	fmt.Fprintf(s.w, "%d:[%s] 0x%x Leader[%s] Epoch[%d] Birth[%d] Load[%d]\n", id, address, bits, leader, epoch, birth, load)
	fmt.Fprintf(s.w, "  NextDecide[%d] BackPage[%d] Auto[0]\n", next, page)
	alive := "00 00 00"
	if heard != 0 {
		alive = time.Unix(0, heard).Format("15 04 05")
	}
	fmt.Fprintf(s.w, "  Alive[%s]\n", alive)
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func masterText(id *cell.ID) string {
	if id == nil {
		return "-1"
	}
	return fmt.Sprint(*id)
}

func born(st *admin.Status, now time.Time) int64 {
	return now.Add(-time.Duration(st.UptimeSecs * float64(time.Second))).Unix()
}

// pageSize is how many instances a page shows.
const pageSize = 10

// paxos prints the newest entries of the agreed log, or those of an older page, in pages of ten as the original
// grouped its instances. Mode 6 is decided; the flag behind it, applied here.
func paxos(s *session) error {
	st, err := s.status()
	if err != nil {
		return err
	}
	var p admin.Probe
	if err := s.conn.Call(s.ctx, admin.MethodProbe, admin.ProbeArgs{Kind: admin.ProbePaxos}, &p); err != nil {
		return err
	}
	page := st.Last / pageSize
	if len(s.args) == 1 {
		if page, err = strconv.ParseUint(s.args[0], 10, 64); err != nil {
			return console.Usagef("%q is no number of a page", s.args[0])
		}
	}
	var oldest uint64
	if len(p.Entries) > 0 {
		oldest = p.Entries[0].Index / pageSize
	}
	if page < oldest || page > st.Last/pageSize {
		return fmt.Errorf("page %d is not shown: pages %d to %d are", page, oldest, st.Last/pageSize)
	}
	mode := 0
	if st.IsMaster {
		mode = 4
	}
	fmt.Fprintf(s.w, "IamMaster[%d] MyRnd[%d] Mode[%d] Cur[%s %d] Inf[0x%x]\n", flag(st.IsMaster), flag(st.IsMaster), mode,
		masterText(st.Master), st.Term, active(&st))
	fmt.Fprintf(s.w, "Page[%d(%d-%d)%d] NextK[%d] NextSeq[%d]\n", st.Last/pageSize, st.Last/pageSize, oldest, oldest,
		(st.Commit+1)%pageSize, st.Commit+1)
	fmt.Fprintf(s.w, "SuccessCount[%d] Now[%d]\n", st.Applied, time.Now().Unix())
	fmt.Fprintf(s.w, "=== Page %d ===\n", page)
	for _, e := range p.Entries {
		if e.Index/pageSize != page {
			continue
		}
		state := 2
		if e.Decided {
			state = 6
		}
		fmt.Fprintf(s.w, "%d: %d Mode[%d-%d] Ballot[%d] Len[%d] Op[%s]\n", e.Index%pageSize, e.Index, state, flag(e.Applied), e.Term, e.Bytes, e.What)
	}
	return nil
}

// active has a bit for each member that answers the master.
func active(st *admin.Status) int {
	bits := 0
	for _, m := range st.Members {
		if m.Active {
			bits |= 1 << m.ID
		}
	}
	return bits
}

// logLines is how much of the log is shown.
const logLines = 200

func showLog(s *session) error {
	return s.conn.Stream(s.ctx, admin.MethodLog, admin.LogArgs{Last: logLines}, func(item json.RawMessage) error {
		var l admin.LogLine
		if err := json.Unmarshal(item, &l); err != nil || l.Text == "" {
			return err
		}
		_, err := fmt.Fprintf(s.w, "%s %s %s\n", time.Unix(0, l.UnixNano).Format(time.DateTime), strings.ToLower(l.Level), l.Text)
		return err
	})
}
