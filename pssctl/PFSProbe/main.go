// Command PFSProbe shows what one server holds at this moment: its clients' sessions, what it keeps in memory
// for others, its open files (M23). Nothing is frozen meanwhile, and no raw memory is shown.
package main

import (
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
	app.UsageText = "PFSProbe [--conf FILE] [--timeout TIME] ID {accept|outbound|fd|meta|block}"
	app.Description = "accept    sessions of clients, and which of them are connected to this server\n" +
		"outbound  what it keeps in memory: entries for servers that are behind, blocks not yet in chunk files\n" +
		"          (outofband is the same)\n" +
		"fd        chunk files that are open\n" +
		"meta      files with checksums and indexes that are open\n" +
		"block     the cache of block records\n" +
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
		"outbound":  {admin.ProbeOutbound, printOutbound},
		"outofband": {admin.ProbeOutbound, printOutbound},
		"fd":        {admin.ProbeFd, printFd},
		"meta":      {admin.ProbeMeta, printMeta},
		"block":     {admin.ProbeBlock, printBlock},
	}
}

func probe(c *cli.Context) error {
	if c.NArg() != 2 {
		return console.Usagef("the id of a server and what to show are wanted")
	}
	conf, err := console.Conf(c)
	if err != nil {
		return err
	}
	s, err := console.ID(conf, c.Args().First())
	if err != nil {
		return err
	}
	kind, ok := kinds()[c.Args().Get(1)]
	if !ok {
		return console.Usagef("%q can't be shown", c.Args().Get(1))
	}
	ctx, cancel := console.Bound(c)
	defer cancel()
	conn, err := admin.Dial(ctx, conf, s.ID)
	if err != nil {
		return err
	}
	defer conn.Close()
	var p admin.Probe
	if err := conn.Call(ctx, admin.MethodProbe, admin.ProbeArgs{Kind: kind.ask}, &p); err != nil {
		return err
	}
	kind.print(c.App.Writer, &p, time.Now())
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
