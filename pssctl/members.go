package main

import (
	"fmt"
	"net"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

func membersCommand() *cli.Command {
	ports := []cli.Flag{
		&cli.IntFlag{Name: "udp", Usage: "UDP `PORT`; 4000+ID by default"},
		&cli.IntFlag{Name: "tcp", Usage: "TCP `PORT`; 4010+ID by default"},
	}
	return &cli.Command{Name: "members", Usage: "who belongs to the cell, and changing that while it works", HideHelpCommand: true, Action: unknown,
		Subcommands: []*cli.Command{
			command("list", "the members as the cell has agreed on them", " ", listMembers, console.JSONFlag()),
			command("add", "let a further server join; put it into every server.conf, too", "ID HOST", placeMember(admin.MethodAdd), ports...),
			command("remove", "take a server out of the cell", "ID", changeMember(admin.MethodRemove)),
			command("replace", "take a dead server out, so that a fresh one may join under its id", "ID", changeMember(admin.MethodReplace)),
			command("move", "tell the cell that a server has another address", "ID HOST", placeMember(admin.MethodMove), ports...),
			command("promote", "give a core server that is level its vote", "ID", changeMember(admin.MethodPromote)),
			command("demote", "take a core server's vote", "ID", changeMember(admin.MethodDemote)),
		}}
}

func listMembers(c *cli.Context) error {
	var list []admin.MemberRecord
	if err := callMaster(c, 0, admin.MethodMembers, nil, &list); err != nil {
		return err
	}
	if c.Bool("json") {
		return console.JSON(c.App.Writer, list)
	}
	var rows [][]string
	for _, m := range list {
		where := "-"
		if m.Host != "" {
			where = fmt.Sprintf("%s udp %d tcp %d", m.Host, m.UDPPort, m.TCPPort)
		}
		identity := m.Identity
		if len(identity) > 8 {
			identity = identity[:8]
		}
		rows = append(rows, []string{fmt.Sprint(m.ID), m.Role, m.State, fmt.Sprint(m.Member), identity, where})
	}
	return console.Table(c.App.Writer, []string{"ID", "ROLE", "STATE", "MEMBER", "ROOT", "ADDRESS"}, rows)
}

// callMaster calls a method of the master.
func callMaster(c *cli.Context, args int, method string, in, out any) error {
	if err := arguments(c, args, args); err != nil {
		return err
	}
	conf, err := console.Conf(c)
	if err != nil {
		return err
	}
	ctx, cancel := console.Bound(c)
	defer cancel()
	return admin.CallMaster(ctx, conf, method, in, out)
}

// changeMember is the action of a command that names a server.
func changeMember(method string) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := arguments(c, 1, 1); err != nil {
			return err
		}
		_, s, err := console.Server(c)
		if err != nil {
			return err
		}
		return callMaster(c, 1, method, admin.MemberArgs{ID: s.ID}, nil)
	}
}

// placeMember is the action of a command that names a server and its address.
func placeMember(method string) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := arguments(c, 2, 2); err != nil {
			return err
		}
		_, s, err := console.Server(c)
		if err != nil {
			return err
		}
		host := c.Args().Get(1)
		if h, p, err := net.SplitHostPort(host); err == nil {
			return console.Usagef("%s:%s: a host is wanted; ports go with --udp and --tcp", h, p)
		}
		for _, port := range []string{"udp", "tcp"} {
			if n := c.Int(port); n < 0 || n > 65535 {
				return console.Usagef("--%s %s is no port", port, strconv.Itoa(n))
			}
		}
		return callMaster(c, 2, method, admin.AddArgs{ID: s.ID, Host: host, UDPPort: c.Int("udp"), TCPPort: c.Int("tcp")}, nil)
	}
}
