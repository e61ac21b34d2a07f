package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/check"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/survey"
)

func checkCommand() *cli.Command {
	return command("check", "verify all that a stopped server has on its disk (ROOT is its folder PFS-ID), or a running cell", "[ROOT]", checkRoot,
		console.JSONFlag(),
		&cli.BoolFlag{Name: "cell", Usage: "have all servers of the running cell verify their data and compare it, and wait until they are done"})
}

func scrubCommand() *cli.Command {
	act := func(method string) cli.ActionFunc {
		return func(c *cli.Context) error {
			if err := arguments(c, 1, 1); err != nil {
				return err
			}
			return console.OnServer(c, func(ctx context.Context, conn *admin.Conn) error {
				return conn.Call(ctx, method, nil, nil)
			})
		}
	}
	return &cli.Command{Name: "scrub", Usage: "verification that servers do by themselves, beside their work", HideHelpCommand: true, Action: unknown,
		Subcommands: []*cli.Command{
			command("status", "how far it is on each server, and what it found", " ", scrubStatus, console.JSONFlag()),
			command("start", "begin one now on a server", "ID", act(admin.MethodScrubStart)),
			command("stop", "interrupt it; the next one goes on from there", "ID", act(admin.MethodScrubStop)),
		}}
}

// finding is a check.Finding for JSON.
type finding struct {
	File     string `json:"file"`
	Offset   int64  `json:"offset"`
	What     string `json:"what"`
	Harmless bool   `json:"harmless"`
}

func checkRoot(c *cli.Context) error {
	if c.Bool("cell") {
		return checkCell(c)
	}
	if err := arguments(c, 1, 1); err != nil {
		return err
	}
	root := c.Args().First()
	dir, err := disk.Dir(root)
	if err != nil {
		return err
	}
	lock, err := disk.Lock(root)
	if errors.Is(err, disk.ErrLocked) {
		return fmt.Errorf("%w: stop the server first, or use --cell", err)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	p := newProgress(c.App.ErrWriter)
	res, err := check.Root(dir, check.Options{Progress: func(at check.Progress) { p.show(at.Part, int64(at.Bytes)) }})
	p.end()
	if err != nil {
		return fmt.Errorf("check %s: %w", root, err)
	}
	if c.Bool("json") {
		list := []finding{}
		for _, f := range res.Findings {
			list = append(list, finding{f.File, f.Offset, f.What, f.Harmless})
		}
		err = console.JSON(c.App.Writer, struct {
			OK         bool      `json:"ok"`
			Checkpoint uint64    `json:"checkpoint_index"`
			First      uint64    `json:"log_first_index"`
			Last       uint64    `json:"log_last_index"`
			Objects    int       `json:"objects"`
			Chunks     int       `json:"chunks"`
			Bytes      uint64    `json:"bytes"`
			Count      int       `json:"findings_count"`
			Findings   []finding `json:"findings"`
		}{res.OK(), res.Checkpoint, res.First, res.Last, res.Objects, res.Chunks, res.Bytes, res.Count, list})
	} else {
		err = printCheck(c.App.Writer, root, res)
	}
	if err == nil && !res.OK() {
		err = console.Status{Code: console.ExitFailed}
	}
	return err
}

func printCheck(w io.Writer, root string, res *check.Result) error {
	for _, f := range res.Findings {
		fmt.Fprintln(w, f)
	}
	if more := res.Count - len(res.Findings); more > 0 {
		fmt.Fprintf(w, "and %d more\n", more)
	}
	verdict := "clean"
	if !res.OK() {
		verdict = fmt.Sprintf("DAMAGED in %d places", res.Harmful)
	}
	_, err := fmt.Fprintf(w, "%s: %s: checkpoint at %d, log %d to %d, %d objects, %d chunks, %s of data\n", root, verdict,
		res.Checkpoint, res.First, res.Last, res.Objects, res.Chunks, console.Bytes(int64(res.Bytes)))
	return err
}

// pollEvery is how often a running cell is looked at.
const pollEvery = time.Second

// cellCheck is what a server's part in the check of a cell came to.
type cellCheck struct {
	Server cell.ID     `json:"server"`
	Done   bool        `json:"done"`
	Error  string      `json:"error,omitempty"`
	Scrub  admin.Scrub `json:"scrub"`
	since  time.Time
}

// checkCell has every server verify what it holds and compare it with the others, and waits for them, for as long as
// it takes.
func checkCell(c *cli.Context) error {
	if err := arguments(c, 0, 0); err != nil {
		return err
	}
	conf, err := console.Conf(c)
	if err != nil {
		return err
	}
	conf = admin.Follow(c.Context, conf)
	checks := make([]cellCheck, len(conf.Servers))
	for i, s := range conf.Servers {
		checks[i] = cellCheck{Server: s.ID}
		if err := checks[i].begin(c.Context, conf); err != nil {
			checks[i].Error = err.Error()
		}
	}
	p := newProgress(c.App.ErrWriter)
	for waiting := true; waiting; {
		waiting = false
		var bytes int64
		for i := range checks {
			k := &checks[i]
			if k.Error == "" && !k.Done {
				k.look(c.Context, conf)
				waiting = waiting || k.Error == "" && !k.Done
			}
			bytes += int64(k.Scrub.CheckedBytes)
		}
		p.show("cell", bytes)
		if waiting {
			select {
			case <-c.Context.Done():
				return c.Context.Err()
			case <-time.After(pollEvery):
			}
		}
	}
	p.end()
	return reportCell(c, checks)
}

// begin starts a scrub on the server, and notes which one was the last before.
func (k *cellCheck) begin(ctx context.Context, conf *cell.Config) error {
	ctx, cancel := context.WithTimeout(ctx, survey.AnswerTimeout)
	defer cancel()
	return admin.With(ctx, conf, k.Server, func(conn *admin.Conn) error {
		var st admin.Status
		if err := conn.Call(ctx, admin.MethodStatus, nil, &st); err != nil {
			return err
		}
		k.since = st.Scrub.Finished
		return conn.Call(ctx, admin.MethodScrubStart, nil, nil)
	})
}

func (k *cellCheck) look(ctx context.Context, conf *cell.Config) {
	ctx, cancel := context.WithTimeout(ctx, survey.AnswerTimeout)
	defer cancel()
	var st admin.Status
	if err := admin.CallServer(ctx, conf, k.Server, admin.MethodStatus, nil, &st); err != nil {
		k.Error = err.Error()
		return
	}
	k.Scrub = st.Scrub
	k.Done = !st.Scrub.Running && st.Scrub.Finished.After(k.since)
}

func reportCell(c *cli.Context, checks []cellCheck) error {
	bad, silent := 0, 0
	var rows [][]string
	for _, k := range checks {
		verdict := "clean"
		switch {
		case k.Error != "":
			verdict = "not checked: " + k.Error
			silent++
		case k.Scrub.Unrepaired > 0 || k.Scrub.Different > k.Scrub.Replaced:
			verdict = "DAMAGED, and not repaired"
			bad++
		case k.Scrub.Damaged > 0 || k.Scrub.Replaced > 0:
			verdict = "was damaged; repaired"
		}
		rows = append(rows, []string{fmt.Sprint(k.Server), console.Bytes(int64(k.Scrub.CheckedBytes)), fmt.Sprint(k.Scrub.Damaged),
			fmt.Sprint(k.Scrub.Different), fmt.Sprint(k.Scrub.Replaced), verdict})
	}
	var err error
	if c.Bool("json") {
		err = console.JSON(c.App.Writer, checks)
	} else {
		err = console.Table(c.App.Writer, []string{"ID", "CHECKED", "DAMAGED", "DIFFERENT", "REPLACED", "VERDICT"}, rows, 1, 2, 3, 4)
	}
	switch {
	case err != nil:
		return err
	case silent == len(checks):
		return console.Status{Code: console.ExitUnreachable}
	case bad+silent > 0:
		return console.Status{Code: console.ExitFailed}
	}
	return nil
}

func scrubStatus(c *cli.Context) error {
	s, err := takeSurvey(c)
	if err != nil {
		return err
	}
	found := map[string]admin.Scrub{}
	var rows [][]string
	for _, server := range s.Servers {
		if server.Status == nil {
			rows = append(rows, []string{fmt.Sprint(server.ID), "down", "-", "-", "-", "-", "-"})
			continue
		}
		k := server.Status.Scrub
		found[fmt.Sprint(server.ID)] = k
		state := "waits"
		if k.Running {
			state = "runs"
		}
		last := "never"
		if !k.Finished.IsZero() {
			last = k.Finished.Local().Format(time.DateTime)
		}
		rows = append(rows, []string{fmt.Sprint(server.ID), state, last, console.Bytes(int64(k.CheckedBytes)), fmt.Sprint(k.Damaged),
			fmt.Sprint(k.Unrepaired), console.Bytes(k.RateLimit) + "/s"})
	}
	if c.Bool("json") {
		return console.JSON(c.App.Writer, found)
	}
	return console.Table(c.App.Writer, []string{"ID", "STATE", "LAST FINISHED", "CHECKED", "DAMAGED", "UNREPAIRED", "LIMIT"}, rows, 3, 4, 5, 6)
}
