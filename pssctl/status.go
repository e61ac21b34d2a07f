package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/survey"
)

func statusCommand() *cli.Command {
	return command("status", "every server on one screen", " ", status, console.JSONFlag())
}

func explainCommand() *cli.Command {
	return command("explain", "what is not well, why, and what to do about it", " ", explain, console.JSONFlag())
}

// takeSurvey is what status, explain and top look at.
func takeSurvey(c *cli.Context) (*survey.Cell, error) {
	if err := arguments(c, 0, 0); err != nil {
		return nil, err
	}
	conf, err := console.Conf(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := console.Bound(c)
	defer cancel()
	return survey.Take(ctx, conf), nil
}

// verdict is the exit status of a command that looks: 255 when nobody answers, 1 when there is no majority
// or no master, else 0.
func verdict(s *survey.Cell) error {
	for _, server := range s.Servers {
		if server.Status != nil {
			if s.Majority && s.Master != nil {
				return nil
			}
			return console.Status{Code: console.ExitFailed}
		}
	}
	return console.Status{Code: console.ExitUnreachable}
}

func status(c *cli.Context) error {
	s, err := takeSurvey(c)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = console.JSON(c.App.Writer, s)
	} else {
		err = printStatus(c.App.Writer, s)
	}
	return cmp.Or(err, verdict(s))
}

func printStatus(w io.Writer, s *survey.Cell) error {
	fmt.Fprintf(w, "%s: %s\n", s.File, s.Health())
	fmt.Fprintf(w, "%d of %d votes up", s.Alive, s.Voters)
	if s.Master != nil {
		fmt.Fprintf(w, ", master is %d", *s.Master)
	}
	fmt.Fprintf(w, "\n\n")
	var rows [][]string
	for _, server := range s.Servers {
		rows = append(rows, statusRow(s, &server))
	}
	head := []string{"ID", "HOST", "ROLE", "STATE", "BEHIND", "FREE", "LOG", "MEMORY", "CLIENTS", "UP", "AUTH", "VERSION", "HEALTH"}
	return console.Table(w, head, rows, 4, 5, 6, 7, 8, 9)
}

func statusRow(s *survey.Cell, server *survey.Server) []string {
	st := server.Status
	if st == nil {
		return []string{fmt.Sprint(server.ID), server.Host, server.Role, "down", "-", "-", "-", "-", "-", "-", "-", "-", "does not answer"}
	}
	return []string{
		fmt.Sprint(server.ID), server.Host, server.Role, st.State,
		fmt.Sprint(s.Behind(st)), console.Bytes(st.Space.Free), console.Bytes(st.LogBytes), console.Bytes(st.OverlaySize), fmt.Sprint(st.Clients),
		console.Span(time.Duration(st.UptimeSecs * float64(time.Second))), st.Auth.Mode, st.Version, health(st),
	}
}

func health(st *admin.Status) string {
	switch {
	case st.CatchUp != nil:
		return fmt.Sprintf("catching up from %d", st.CatchUp.From)
	case len(st.Health) > 0:
		return strings.Join(st.Health, "; ")
	case len(st.WaitsFor) > 0:
		return "waits for " + strings.Join(st.WaitsFor, ", ")
	}
	return "ok"
}

func explain(c *cli.Context) error {
	s, err := takeSurvey(c)
	if err != nil {
		return err
	}
	w := c.App.Writer
	if c.Bool("json") {
		return cmp.Or(console.JSON(w, s.Problems), verdict(s))
	}
	if len(s.Problems) == 0 {
		fmt.Fprintf(w, "All is well: %d of %d votes up, master is %d.\n", s.Alive, s.Voters, *s.Master)
		return nil
	}
	for i, p := range s.Problems {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s\n  cause  %s\n  risk   %s\n  next   %s\n", p.What, p.Cause, p.Risk, p.Next)
	}
	return verdict(s)
}
