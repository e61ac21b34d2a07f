// Command PFSProbe shows what one server holds at this moment: its clients' sessions, what it keeps in memory
// for others, its open files (M23). Nothing is frozen meanwhile, and no raw memory is shown.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

func main() { os.Exit(console.Main(newApp(os.Stdout, os.Stderr), os.Args)) }

func newApp(stdout, stderr io.Writer) *cli.App {
	app := console.NewApp("PFSProbe", "show what a server holds", stdout, stderr)
	app.UsageText = "PFSProbe [--conf FILE] [--timeout TIME] ID {accept|path|lock|queue|outbound|meta|fd|block|ras}"
	app.Description = "accept    sessions of clients, and which of them are connected to this server\n" +
		"path      folders that are watched, and files that end with a session\n" +
		"lock      locks: who holds them, waits for them and watches them\n" +
		"queue     queues: their messages, who waits for one and who watches\n" +
		"outbound  what it keeps in memory: entries for servers that are behind, blocks not yet in chunk files\n" +
		"          (outofband is the same)\n" +
		"fd        chunk files that are open\n" +
		"meta      files with checksums and indexes that are open\n" +
		"block     the cache of block records\n" +
		"ras       refused: servers register with no monitoring cell\n" +
		console.ExitText
	app.Flags = console.Flags()
	app.Action = probe
	return app
}

// kinds are what can be asked for, and how it is printed.
func kinds() map[string]struct {
	ask   string
	print func(w io.Writer, p *admin.Probe, now time.Time)
} {
	type kind = struct {
		ask   string
		print func(w io.Writer, p *admin.Probe, now time.Time)
	}
	return map[string]kind{
		"accept":    {admin.ProbeAccept, printAccept},
		"path":      {admin.ProbePath, printPath},
		"lock":      {admin.ProbeLock, printLock},
		"queue":     {admin.ProbeQueue, printQueue},
		"outbound":  {admin.ProbeOutbound, printOutbound},
		"outofband": {admin.ProbeOutbound, printOutbound},
		"fd":        {admin.ProbeFd, printFd},
		"meta":      {admin.ProbeMeta, printMeta},
		"block":     {admin.ProbeBlock, printBlock},
	}
}

// noRAS is the answer to ras: what it asked for, whether a server has registered with a cell that watches it, is
// never so here. 255 is what scripts take for that.
var noRAS = console.Status{Code: console.ExitUnreachable,
	Text: "servers register with no monitoring cell: pssctl status and the servers' metrics watch them"}

func probe(c *cli.Context) error {
	if c.NArg() != 2 {
		return console.Usagef("the id of a server and what to show are wanted")
	}
	if c.Args().Get(1) == "ras" {
		return noRAS
	}
	kind, ok := kinds()[c.Args().Get(1)]
	if !ok {
		return console.Usagef("%q can't be shown", c.Args().Get(1))
	}
	return console.OnServer(c, func(ctx context.Context, conn *admin.Conn) error {
		var p admin.Probe
		err := conn.Stream(ctx, admin.MethodProbe, admin.ProbeArgs{Kind: kind.ask}, func(item json.RawMessage) error {
			return add(&p, item)
		})
		if err == nil {
			kind.print(c.App.Writer, &p, time.Now())
		}
		return err
	})
}

// add takes one part of the answer: all of what is short, or one of many.
func add(p *admin.Probe, item json.RawMessage) error {
	var one admin.Probe
	if err := json.Unmarshal(item, &one); err != nil {
		return err
	}
	paths, locks, queues := append(p.Paths, one.Paths...), append(p.Locks, one.Locks...), append(p.Queues, one.Queues...)
	*p = one
	p.Paths, p.Locks, p.Queues = paths, locks, queues
	return nil
}

// printAccept shows sessions. Where the original printed a client's address and process, a session has a number of
// its own; Reuse counts how often it was opened.
func printAccept(w io.Writer, p *admin.Probe, _ time.Time) {
	fmt.Fprintln(w, "### Accept ###")
	for _, s := range p.Sessions {
		remote := s.Remote
		if remote == "" {
			remote = "nil" // connected to another server, or to none
		}
		fmt.Fprintf(w, "ClientId [%s] Session=%016x Seq=%d Reuse=%d\n", remote, s.Session, s.Last, s.Epoch)
		fmt.Fprintf(w, "Cnt=%d Opened=%d Start=%d End=%d Reply=%d Bytes=%d Software=%s\n", s.Waiting, opened(s.Remote), s.Last+uint64(s.Waiting),
			s.Last, s.Acked-1, s.Bytes, s.Software)
	}
	fmt.Fprintln(w, "=== Accept(END) ===")
}

// opened is the original's word for the state of a connection: 0 none, 2 open.
func opened(remote string) int {
	if remote == "" {
		return 0
	}
	return 2
}

func printOutbound(w io.Writer, p *admin.Probe, _ time.Time) {
	o := p.Outbound
	fmt.Fprintf(w, "### OUT_OF_BAND Cnt=%d Mem=%d(%d) ###\n", o.Tail, o.TailBytes, o.TailLimit)
	fmt.Fprintf(w, "=== Overlay Mem=%d(%d) ===\n", o.OverlayBytes, o.OverlayLimit)
	fmt.Fprintln(w, "=== OUT_OF_BAND(END) ===")
}

func printFd(w io.Writer, p *admin.Probe, _ time.Time)   { printFiles(w, "FdCache", p.Files) }
func printMeta(w io.Writer, p *admin.Probe, _ time.Time) { printFiles(w, "FdMetaCache", p.Files) }

func printFiles(w io.Writer, title string, f *admin.Files) {
	fmt.Fprintf(w, "### %s Cnt=%d FdMax=%d ###\n", title, len(f.Open), f.Limit)
	for _, o := range f.Open {
		fmt.Fprintf(w, "e_Cnt=%d Name[%s] Path[%s] Object=%d\n", o.Users, o.Label, o.Name, o.Object)
	}
	fmt.Fprintf(w, "=== %s(END) ===\n", title)
}

func printBlock(w io.Writer, p *admin.Probe, _ time.Time) {
	c := p.Cache
	fmt.Fprintf(w, "### BlockCache Cnt=%d Max=%d SegSize=%d bCksum=1 ###\n", c.Pages, c.Limit, c.PageBytes)
	fmt.Fprintln(w, "=== BlockCache(END) ===")
}
