package main

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/machine"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/survey"
)

func processesCommand() *cli.Command {
	return command("processes", "a line for each living server, in the form of ps; pss_lookup-server.sh", " ", processes, console.JSONFlag())
}

func socketsCommand() *cli.Command {
	return command("sockets", "the sockets of the servers' ports, in the form of netstat; pss_lookup_port.sh", "[ID]", showSockets, console.JSONFlag())
}

// askEach calls a method of several servers at the same time. What a server does not answer has an error.
func askEach[T any](ctx context.Context, conf *cell.Config, servers []cell.Server, method string) ([]T, []error) {
	replies, errs := make([]T, len(servers)), make([]error, len(servers))
	var asking sync.WaitGroup
	for i, s := range servers {
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, survey.AnswerTimeout)
			defer cancel()
			errs[i] = admin.CallServer(ctx, conf, s.ID, method, nil, &replies[i])
		})
	}
	asking.Wait()
	return replies, errs
}

func processes(c *cli.Context) error {
	if err := arguments(c, 0, 0); err != nil {
		return err
	}
	conf, err := console.Conf(c)
	if err != nil {
		return err
	}
	ctx, cancel := console.Bound(c)
	defer cancel()
	conf = admin.Follow(ctx, conf)
	all, errs := askEach[admin.Process](ctx, conf, conf.Servers, admin.MethodProcess)
	living := []admin.Process{}
	for i, p := range all {
		if errs[i] == nil {
			living = append(living, p)
		}
	}
	if c.Bool("json") {
		if err := console.JSON(c.App.Writer, living); err != nil {
			return err
		}
	} else {
		for _, p := range living {
			fmt.Fprintln(c.App.Writer, processLine(p))
		}
	}
	if len(living) == 0 {
		return console.Status{Code: console.ExitUnreachable, Text: "no server answers"}
	}
	return nil
}

// processLine is a line as `ps ax` prints it.
func processLine(p admin.Process) string {
	return fmt.Sprintf("%5d %-8s %-6s %3d:%02d %s", p.PID, p.TTY, p.State, p.CPUSecs/60, p.CPUSecs%60, p.Command)
}

func showSockets(c *cli.Context) error {
	if err := arguments(c, 0, 1); err != nil {
		return err
	}
	conf, err := console.Conf(c)
	if err != nil {
		return err
	}
	ctx, cancel := console.Bound(c)
	defer cancel()
	conf = admin.Follow(ctx, conf)
	servers := conf.Servers
	if c.NArg() == 1 {
		s, err := console.ID(conf, c.Args().First())
		if err != nil {
			return err
		}
		servers = []cell.Server{s}
	}
	all, errs := askEach[[]admin.Socket](ctx, conf, servers, admin.MethodSockets)
	found, silent := map[string][]admin.Socket{}, 0
	local, _, localErr := conf.Local(ctx, cell.Netlink{}, net.DefaultResolver)
	for i, s := range servers {
		if errs[i] != nil {
			// A dead server on this machine: whoever holds its ports can be seen in the machine's own tables.
			if localErr == nil && lives(local, s.ID) {
				all[i], errs[i] = machine.Sockets(s.TCPPort, s.UDPPort)
			}
			if errs[i] != nil {
				silent++
				fmt.Fprintf(c.App.ErrWriter, "pssctl: %v\n", errs[i])
				continue
			}
		}
		found[fmt.Sprint(s.ID)] = all[i]
		if !c.Bool("json") {
			for _, k := range all[i] {
				fmt.Fprintln(c.App.Writer, socketLine(k))
			}
		}
	}
	if c.Bool("json") {
		if err := console.JSON(c.App.Writer, found); err != nil {
			return err
		}
	}
	if silent == len(servers) {
		return console.Status{Code: console.ExitUnreachable}
	}
	return nil
}

func lives(local []cell.Server, id cell.ID) bool {
	for _, s := range local {
		if s.ID == id {
			return true
		}
	}
	return false
}

// socketLine is a line as netstat prints it.
func socketLine(k admin.Socket) string {
	return fmt.Sprintf("%-5s %6d %6d %-23s %-23s %s", k.Proto, k.RecvQ, k.SendQ, k.Local, k.Remote, k.State)
}
