package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

func volumeCommand() *cli.Command {
	return &cli.Command{Name: "volume", Usage: "make, list, grow and delete volumes", HideHelpCommand: true, Action: unknown, Subcommands: []*cli.Command{
		command("list", "all volumes with their sizes", " ", listVolumes, console.JSONFlag()),
		command("show", "one volume", "VOLUME", showVolume, console.JSONFlag()),
		command("create", "make a thin volume; SIZE as in 1T", "VOLUME SIZE", createVolume),
		command("grow", "make a volume larger; initiators see it after a rescan", "VOLUME SIZE", growVolume),
		command("delete", "delete a volume and its data", "VOLUME", deleteVolume,
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "don't ask"}),
	}}
}

func treeCommand() *cli.Command {
	return command("tree", "folders, files and volumes of the cell", "[PATH]", tree, console.JSONFlag())
}

// withCell runs what needs a client of the cell.
func withCell(c *cli.Context, least, most int, do func(ctx context.Context, cell *pss.Cell) error) error {
	if err := arguments(c, least, most); err != nil {
		return err
	}
	conf, err := console.Conf(c)
	if err != nil {
		return err
	}
	ctx, cancel := console.Bound(c)
	defer cancel()
	client, err := pss.Open(conf, pss.Options{Software: "pssctl"})
	if err != nil {
		return err
	}
	err = do(ctx, client)
	client.Close() // whether the session could be closed in time does not change what was done
	return err
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
	return withCell(c, 0, 0, func(ctx context.Context, client *pss.Cell) error {
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
	return withCell(c, 1, 1, func(ctx context.Context, client *pss.Cell) error {
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

// size reads the size argument of a command.
func size(text string) (int64, error) {
	n, err := console.ParseSize(text)
	if err != nil {
		return 0, console.Usagef("%w", err)
	}
	return n, nil
}

func createVolume(c *cli.Context) error {
	return withCell(c, 2, 2, func(ctx context.Context, client *pss.Cell) error {
		n, err := size(c.Args().Get(1))
		if err != nil {
			return err
		}
		err = client.CreateVolume(ctx, c.Args().First(), n)
		var other *pss.SizeError
		if errors.As(err, &other) {
			return fmt.Errorf("volume %q exists with %s, not %s: %w", c.Args().First(),
				console.SizeText(other.Have), console.SizeText(other.Asked), pss.ErrExists)
		}
		return err
	})
}

func growVolume(c *cli.Context) error {
	return withCell(c, 2, 2, func(ctx context.Context, client *pss.Cell) error {
		n, err := size(c.Args().Get(1))
		if err != nil {
			return err
		}
		node, err := client.Stat(ctx, c.Args().First())
		if err != nil {
			return err
		}
		if node.Kind == op.KindVolume && int64(node.Bytes) > n {
			return fmt.Errorf("volume %q has %s: it can't become smaller", c.Args().First(), console.SizeText(int64(node.Bytes)))
		}
		return client.GrowVolume(ctx, c.Args().First(), n)
	})
}

func deleteVolume(c *cli.Context) error {
	return withCell(c, 1, 1, func(ctx context.Context, client *pss.Cell) error {
		name := c.Args().First()
		if !c.Bool("yes") {
			if err := confirm(c, fmt.Sprintf("This deletes the volume %s and all its data, on every server.", name)); err != nil {
				return err
			}
		}
		return client.DeleteVolume(ctx, name)
	})
}

// errNotConfirmed ends a command whose question was not answered with yes.
var errNotConfirmed = errors.New("not confirmed: nothing was done")

// confirm asks the operator. It is not bounded by --timeout but by the operator's patience.
func confirm(c *cli.Context, text string) error {
	fmt.Fprintf(c.App.Writer, "%s\nType \"yes\" to go on: ", text)
	var answer string
	if _, err := fmt.Fscanln(c.App.Reader, &answer); err != nil && !errors.Is(err, io.EOF) && answer != "" {
		return err
	}
	if answer != "yes" {
		return errNotConfirmed
	}
	return nil
}

func tree(c *cli.Context) error {
	return withCell(c, 0, 1, func(ctx context.Context, client *pss.Cell) error {
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
