// Package volumes makes volumes, makes them larger and deletes them: what pssctl volume and the commands with the old
// names have in common.
package volumes

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

// With runs what needs a client of the cell, within the command's --timeout.
func With(c *cli.Context, do func(ctx context.Context, client *pss.Cell) error) error {
	conf, err := console.Conf(c)
	if err != nil {
		return err
	}
	ctx, cancel := console.Bound(c)
	defer cancel()
	client, err := pss.Open(conf, pss.Options{Software: c.App.Name})
	if err != nil {
		return err
	}
	err = do(ctx, client)
	// Whether the session could be closed in time does not change what was done.
	client.Close()
	return err
}

// nameAndSize are the arguments of Create and Extend.
func nameAndSize(c *cli.Context) (name string, bytes int64, err error) {
	if c.NArg() != 2 {
		return "", 0, console.Usagef("a volume and its size are wanted, not %d arguments", c.NArg())
	}
	name = c.Args().First()
	if err := checkName(name); err != nil {
		return "", 0, err
	}
	if bytes, err = console.ParseSize(c.Args().Get(1)); err != nil {
		return "", 0, console.Usagef("%w", err)
	}
	return name, bytes, nil
}

// Create is the action of a command that makes a volume: VOLUME SIZE. A volume that is there with that size is success.
func Create(c *cli.Context) error {
	name, size, err := nameAndSize(c)
	if err != nil {
		return err
	}
	return With(c, func(ctx context.Context, client *pss.Cell) error {
		err := client.CreateVolume(ctx, name, size)
		var other *pss.SizeError
		if errors.As(err, &other) {
			return fmt.Errorf("volume %q exists with %s, not %s: %w",
				name, console.SizeText(other.Have), console.SizeText(other.Asked), pss.ErrExists)
		}
		return err
	})
}

// Extend is the action of a command that makes a volume larger: VOLUME SIZE.
func Extend(c *cli.Context) error {
	name, size, err := nameAndSize(c)
	if err != nil {
		return err
	}
	return With(c, func(ctx context.Context, client *pss.Cell) error {
		err := client.GrowVolume(ctx, name, size)
		if !errors.Is(err, op.Invalid) {
			return err
		}
		if n, statErr := client.Stat(ctx, name); statErr == nil && n.Kind == op.KindVolume && int64(n.Bytes) > size {
			return fmt.Errorf("volume %q has %s, and %s would be less: %w", name,
				console.SizeText(int64(n.Bytes)), console.SizeText(size), err)
		}
		return err
	})
}

// YesFlag is the option of Delete that answers its question.
func YesFlag() cli.Flag {
	return &cli.BoolFlag{Name: "y", Aliases: []string{"yes"}, Usage: "do not ask"}
}

// maxAnswer is how many bytes of an answer are read.
const maxAnswer = 1024

// errKept says that the answer was not yes.
var errKept = errors.New("nothing was removed")

// Delete is the action of a command that deletes a volume and its data: VOLUME. It asks first, unless YesFlag is set.
func Delete(c *cli.Context) error {
	if c.NArg() != 1 {
		return console.Usagef("a volume is wanted, not %d arguments", c.NArg())
	}
	name := c.Args().First()
	if err := checkName(name); err != nil {
		return err
	}
	if _, err := console.Conf(c); err != nil {
		return err
	}
	if !c.Bool("y") {
		fmt.Fprintf(c.App.Writer, "Remove volume %s and all data on it? [yes/no] ", name)
		line, err := bufio.NewReader(io.LimitReader(c.App.Reader, maxAnswer)).ReadString('\n')
		if err != nil && err != io.EOF {
			return fmt.Errorf("read the answer: %w", err)
		}
		if strings.TrimSpace(line) != "yes" {
			return errKept
		}
	}
	return With(c, func(ctx context.Context, client *pss.Cell) error { return client.DeleteVolume(ctx, name) })
}

// checkName refuses what can't be the name of a volume.
func checkName(name string) error {
	for element := range strings.SplitSeq(strings.TrimPrefix(name, "/"), "/") {
		if element == "" || element == "." || element == ".." ||
			len(element) > op.MaxName || strings.ContainsRune(element, 0) {
			return console.Usagef("%q is no name for a volume", name)
		}
	}
	if len(name) > op.MaxPath {
		return console.Usagef("a volume's name has at most %d bytes, not %d", op.MaxPath, len(name))
	}
	return nil
}
