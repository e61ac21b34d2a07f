package main

import (
	"fmt"
	"io"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
)

// Flags of a path, as the original prints them.
const flagEphemeral = 1

// printPath shows watched folders and files that end with a session. (The original counted the events of each, which
// nobody keeps here: events are numbered for each session.)
func printPath(w io.Writer, p *admin.Probe, _ time.Time) {
	fmt.Fprintln(w, "### Path ###")
	for _, i := range p.Paths {
		flags, owners := 0, 0
		if i.Owner != 0 {
			flags, owners = flagEphemeral, 1
		}
		fmt.Fprintf(w, "=== Path[%s] Flags=0x%x RefCnt=%d ===\n", i.Path, flags, owners)
		if i.Owner != 0 {
			fmt.Fprintf(w, "->Owner\nSession=%016x\n", i.Owner)
		}
		printWatchers(w, i.Watchers)
	}
	fmt.Fprintln(w, "=== Path(END) ===")
}

// printLock shows locks. Cnt is the original's: -1 for a writer, else how many readers.
func printLock(w io.Writer, p *admin.Probe, _ time.Time) {
	fmt.Fprintln(w, "### Lock ###")
	for _, i := range p.Locks {
		count := len(i.Holders)
		if count == 1 && i.Holders[0].Write {
			count = -1
		}
		fmt.Fprintf(w, "=== LOCK [%s] Cnt=%d Ver=%d ===\n", i.Name, count, i.Version)
		printParties(w, "Holders", i.Holders)
		printParties(w, "Waiters", i.Waiters)
		printWatchers(w, i.Watchers)
	}
	fmt.Fprintln(w, "=== Lock(END) ===")
}

// printQueue shows queues. Peek is how many messages readers have reserved.
func printQueue(w io.Writer, p *admin.Probe, _ time.Time) {
	fmt.Fprintln(w, "### Queue ###")
	for _, i := range p.Queues {
		peek := 0
		for _, g := range i.Messages {
			if g.Taken != nil {
				peek++
			}
		}
		fmt.Fprintf(w, "=== QUEUE [%s] Cnt=%d Peek=%d===\n->Data\n", i.Name, len(i.Messages), peek)
		for n, g := range i.Messages {
			fmt.Fprintf(w, "[%d] %d: v_Len=%d", n, g.Number, g.Bytes)
			if g.Taken != nil {
				fmt.Fprintf(w, " Session=%016x Handle=%d", g.Taken.Session, g.Taken.Handle)
			}
			fmt.Fprintln(w)
		}
		printParties(w, "Waiters", i.Waiters)
		printWatchers(w, i.Watchers)
	}
	fmt.Fprintln(w, "=== Queue(END) ===")
}

func printParties(w io.Writer, title string, list []admin.Party) {
	fmt.Fprintf(w, "->%s\n", title)
	for _, p := range list {
		fmt.Fprintf(w, "Session=%016x Handle=%d", p.Session, p.Handle)
		if p.Write {
			fmt.Fprint(w, " W")
		}
		fmt.Fprintln(w)
	}
}

func printWatchers(w io.Writer, sessions []uint64) {
	fmt.Fprintln(w, "->Event Waiters")
	for _, s := range sessions {
		fmt.Fprintf(w, "Session=%016x\n", s)
	}
}
