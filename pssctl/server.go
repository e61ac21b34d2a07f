package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

func masterCommand() *cli.Command {
	return command("master", "say who is master, or hand the mastership to another server", "[ID]", master, console.JSONFlag())
}

func shutdownCommand() *cli.Command {
	return command("shutdown", "stop a server; a master hands the mastership over first", "ID", shutdown,
		&cli.BoolFlag{Name: "abort", Usage: "at once, as a crash would; nothing is lost"},
		&cli.StringFlag{Name: "comment", Usage: "`TEXT` for the server's log"})
}

func checkpointCommand() *cli.Command {
	return command("checkpoint", "have a server bring everything to its chunk files now", "ID", checkpoint, console.JSONFlag())
}

func logCommand() *cli.Command {
	return command("log", "the last lines of a server's log", "ID", showLog, console.JSONFlag(),
		&cli.IntFlag{Name: "lines", Aliases: []string{"n"}, Value: 50, Usage: "how many, `N`"},
		&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what comes, until interrupted"})
}

func master(c *cli.Context) error {
	if err := arguments(c, 0, 1); err != nil {
		return err
	}
	if c.NArg() == 0 {
		var st admin.Status
		if err := callMaster(c, 0, admin.MethodStatus, nil, &st); err != nil {
			return err
		}
		return tellMaster(c, st.Master)
	}
	_, s, err := console.Server(c)
	if err != nil {
		return err
	}
	var reply admin.HandOverReply
	if err := callMaster(c, 1, admin.MethodHandOver, admin.HandOverArgs{ID: &s.ID}, &reply); err != nil {
		return err
	}
	return tellMaster(c, &reply.Master)
}

func tellMaster(c *cli.Context, id *cell.ID) error {
	if c.Bool("json") {
		return console.JSON(c.App.Writer, struct {
			Master *cell.ID `json:"master"`
		}{id})
	}
	if id == nil {
		return console.Status{Code: console.ExitUnreachable, Text: "there is no master"}
	}
	_, err := fmt.Fprintln(c.App.Writer, *id)
	return err
}

func shutdown(c *cli.Context) error {
	if err := arguments(c, 1, 1); err != nil {
		return err
	}
	return console.OnServer(c, func(ctx context.Context, conn *admin.Conn) error {
		return conn.Call(ctx, admin.MethodShutdown, admin.ShutdownArgs{Abort: c.Bool("abort"), Comment: c.String("comment")}, nil)
	})
}

func checkpoint(c *cli.Context) error {
	if err := arguments(c, 1, 1); err != nil {
		return err
	}
	return console.OnServer(c, func(ctx context.Context, conn *admin.Conn) error {
		var reply admin.CheckpointReply
		if err := conn.Call(ctx, admin.MethodCheckpoint, nil, &reply); err != nil {
			return err
		}
		if c.Bool("json") {
			return console.JSON(c.App.Writer, reply)
		}
		_, err := fmt.Fprintf(c.App.Writer, "checkpoint at %d\n", reply.Index)
		return err
	})
}

func showLog(c *cli.Context) error {
	if err := arguments(c, 1, 1); err != nil {
		return err
	}
	return console.OnServer(c, func(ctx context.Context, conn *admin.Conn) error {
		if c.Bool("follow") {
			ctx = c.Context // until the operator has seen enough
		}
		args := admin.LogArgs{Last: c.Int("lines"), Follow: c.Bool("follow")}
		err := conn.Stream(ctx, admin.MethodLog, args, func(item json.RawMessage) error {
			var line admin.LogLine
			if err := json.Unmarshal(item, &line); err != nil || line.Text == "" { // the last part is empty
				return err
			}
			if c.Bool("json") {
				_, err := fmt.Fprintf(c.App.Writer, "%s\n", item)
				return err
			}
			at := time.Unix(0, line.UnixNano).Format("2006-01-02 15:04:05.000")
			_, err := fmt.Fprintf(c.App.Writer, "%s pssd_%d %s %s\n", at, conn.ID, strings.ToLower(line.Level), line.Text)
			return err
		})
		if c.Bool("follow") && c.Context.Err() != nil {
			return nil
		}
		return err
	})
}
