package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/watch"
)

func topCommand() *cli.Command {
	return command("top", "what the cell is doing now: IOPS, throughput and latency of each volume and client", " ", top, console.JSONFlag(),
		&cli.DurationFlag{Name: "interval", Aliases: []string{"d"}, Value: 2 * time.Second, Usage: "between two looks, `TIME`"},
		&cli.IntFlag{Name: "count", Aliases: []string{"n"}, Usage: "how many looks, `N`; until interrupted by default"})
}

// leastInterval keeps looking from being a load of its own.
const leastInterval = 200 * time.Millisecond

func top(c *cli.Context) error {
	if err := arguments(c, 0, 0); err != nil {
		return err
	}
	conf, err := console.Conf(c)
	if err != nil {
		return err
	}
	interval := c.Duration("interval")
	if interval < leastInterval {
		return console.Usagef("--interval %v: %v at least", interval, leastInterval)
	}
	w, err := watch.New(conf, "pssctl top")
	if err != nil {
		return err
	}
	defer w.Close()
	w.Look(c.Context)
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	clear := isTerminal(c.App.Writer) && !c.Bool("json")
	for n := 0; c.Int("count") == 0 || n < c.Int("count"); n++ {
		select {
		case <-c.Context.Done():
			return nil
		case <-ticks.C:
		}
		v := w.Look(c.Context)
		if c.Context.Err() != nil {
			return nil // what was seen last is half a picture
		}
		if c.Bool("json") {
			err = console.JSON(c.App.Writer, v)
		} else {
			err = printView(c.App.Writer, &v, clear)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func printView(w io.Writer, v *watch.View, clear bool) error {
	if clear {
		fmt.Fprint(w, "\x1b[H\x1b[2J")
	}
	fmt.Fprintf(w, "%s  %s; %d of %d votes up", v.At.Format(time.TimeOnly), v.Health, v.Cell.Alive, v.Cell.Voters)
	if v.Cell.Master != nil {
		fmt.Fprintf(w, ", master is %d", *v.Cell.Master)
	}
	fmt.Fprint(w, "\n\n")
	if err := printFlows(w, "VOLUME", v.Flows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := printFlows(w, "CLIENT", v.Clients); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

func printFlows(w io.Writer, what string, list []watch.Flow) error {
	var rows [][]string
	for _, f := range list {
		rows = append(rows, []string{f.Name,
			fmt.Sprintf("%.0f", f.ReadIOPS), fmt.Sprintf("%.1f", f.ReadMBs), fmt.Sprintf("%.2f", f.ReadMS),
			fmt.Sprintf("%.0f", f.WriteIOPS), fmt.Sprintf("%.1f", f.WriteMBs), fmt.Sprintf("%.2f", f.WriteMS)})
	}
	return console.Table(w, []string{what, "READ/S", "MB/S", "MS", "WRITE/S", "MB/S", "MS"}, rows, 1, 2, 3, 4, 5, 6)
}

// isTerminal says whether w is one.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
