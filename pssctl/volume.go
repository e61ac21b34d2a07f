package main

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/volumes"
)

func volumeCommand() *cli.Command {
	return &cli.Command{Name: "volume", Usage: "make, list, grow and delete volumes", HideHelpCommand: true, Action: unknown, Subcommands: []*cli.Command{
		command("list", "all volumes with their sizes", " ", listVolumes, console.JSONFlag()),
		command("show", "one volume", "VOLUME", showVolume, console.JSONFlag()),
		command("create", "make a thin volume; SIZE as in 1T", "VOLUME SIZE", volumes.Create),
		command("grow", "make a volume larger; initiators see it after a rescan", "VOLUME SIZE", volumes.Extend),
		command("delete", "delete a volume and its data", "VOLUME", volumes.Delete, volumes.YesFlag()),
	}}
}

func treeCommand() *cli.Command {
	return command("tree", "folders, files and volumes of the cell", "[PATH]", tree, console.JSONFlag())
}

// entry is a node of the tree, for JSON.
type entry struct {
	Path     string    `json:"path"`
	Kind     string    `json:"kind"`
	Bytes    uint64    `json:"bytes"`
	Modified time.Time `json:"modified"`
}

func entryOf(folder string, n op.Node) entry {
	kind := map[op.NodeKind]string{op.KindDir: "folder", op.KindFile: "file", op.KindVolume: "volume"}[n.Kind]
	return entry{path.Join("/", folder, n.Name), kind, n.Bytes, time.Unix(0, int64(n.Modified)).UTC()}
}

// walk calls visit for all nodes below folder, each folder before what is in it. The folders inside a volume, which
// show its chunk files, are not walked.
func walk(ctx context.Context, client *pss.Cell, folder string, visit func(depth int, e entry) error) error {
	var descend func(folder string, depth int) error
	descend = func(folder string, depth int) error {
		nodes, err := client.ReadDir(ctx, folder)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			e := entryOf(folder, n)
			if err := visit(depth, e); err != nil {
				return err
			}
			if n.Kind == op.KindDir {
				if err := descend(e.Path, depth+1); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return descend(folder, 0)
}

func listVolumes(c *cli.Context) error {
	if err := arguments(c, 0, 0); err != nil {
		return err
	}
	return volumes.With(c, func(ctx context.Context, client *pss.Cell) error {
		volumes := []entry{}
		err := walk(ctx, client, "/", func(_ int, e entry) error {
			if e.Kind == "volume" {
				volumes = append(volumes, e)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return printVolumes(c, volumes)
	})
}

func showVolume(c *cli.Context) error {
	if err := arguments(c, 1, 1); err != nil {
		return err
	}
	return volumes.With(c, func(ctx context.Context, client *pss.Cell) error {
		name := c.Args().First()
		n, err := client.Stat(ctx, name)
		if err != nil {
			return err
		}
		if n.Kind != op.KindVolume {
			return fmt.Errorf("%q is no volume", name)
		}
		n.Name = path.Base(name)
		return printVolumes(c, []entry{entryOf(path.Dir(path.Join("/", name)), n)})
	})
}

func printVolumes(c *cli.Context, volumes []entry) error {
	if c.Bool("json") {
		return console.JSON(c.App.Writer, volumes)
	}
	var rows [][]string
	for _, v := range volumes {
		rows = append(rows, []string{strings.TrimPrefix(v.Path, "/"), console.Bytes(int64(v.Bytes)), fmt.Sprint(v.Bytes),
			v.Modified.Local().Format(time.DateTime)})
	}
	return console.Table(c.App.Writer, []string{"VOLUME", "SIZE", "BYTES", "CHANGED"}, rows, 1, 2)
}

func tree(c *cli.Context) error {
	if err := arguments(c, 0, 1); err != nil {
		return err
	}
	return volumes.With(c, func(ctx context.Context, client *pss.Cell) error {
		folder := path.Join("/", c.Args().First())
		all := []entry{}
		w := c.App.Writer
		if !c.Bool("json") {
			fmt.Fprintln(w, folder)
		}
		err := walk(ctx, client, folder, func(depth int, e entry) error {
			if c.Bool("json") {
				all = append(all, e)
				return nil
			}
			name := path.Base(e.Path)
			if e.Kind == "folder" {
				_, err := fmt.Fprintf(w, "%s%s/\n", strings.Repeat("  ", depth+1), name)
				return err
			}
			_, err := fmt.Fprintf(w, "%s%s  %s, %s\n", strings.Repeat("  ", depth+1), name, e.Kind, console.Bytes(int64(e.Bytes)))
			return err
		})
		if err == nil && c.Bool("json") {
			err = console.JSON(w, all)
		}
		return err
	})
}
