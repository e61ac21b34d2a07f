// Package volumes is the volumes of the PSS cell of this machine, for the shell: it opens a client when
// one is asked for, and closes it.
package volumes

import (
	"context"
	"fmt"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/shell"
)

// timeout is how long the cell is waited for.
const timeout = 10 * time.Second

// maxFolders bounds a listing: folders that are looked into.
const maxFolders = 10000

// Cell is the cell that a server.conf lists.
type Cell struct{ conf *cell.Config }

// Open reads the server.conf of this machine. It returns nil where there is none: the machine has no
// cell.
func Open() (*Cell, error) {
	file := cell.File("")
	if _, err := os.Stat(file); os.IsNotExist(err) {
		return nil, nil
	}
	conf, err := cell.Load(file)
	if err != nil {
		return nil, err
	}
	return &Cell{conf}, nil
}

var _ shell.Volumes = (*Cell)(nil)

// with calls do with a client.
func (c *Cell) with(ctx context.Context, do func(context.Context, *pss.Cell) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	client, err := pss.Open(c.conf, pss.Options{Software: "tgt-admin"})
	if err != nil {
		return fmt.Errorf("opening the cell: %w", err)
	}
	defer client.Close() // what was answered is done, whatever becomes of the session
	return do(ctx, client)
}

// List implements shell.Volumes: all volumes of the tree, by their paths without the first slash.
func (c *Cell) List(ctx context.Context) ([]shell.Volume, error) {
	var list []shell.Volume
	err := c.with(ctx, func(ctx context.Context, client *pss.Cell) error {
		folders := []string{"/"}
		for n := 0; len(folders) > 0; n++ {
			if n == maxFolders {
				return fmt.Errorf("there are more than %d folders", maxFolders)
			}
			folder := folders[0]
			folders = folders[1:]
			nodes, err := client.ReadDir(ctx, folder)
			if err != nil {
				return fmt.Errorf("listing %s: %w", folder, err)
			}
			for _, node := range nodes {
				path := strings.TrimSuffix(folder, "/") + "/" + node.Name
				switch node.Kind {
				case op.KindDir:
					folders = append(folders, path)
				case op.KindVolume:
					list = append(list, shell.Volume{Name: path[1:], Bytes: node.Bytes})
				}
			}
		}
		return nil
	})
	return list, err
}

// Create implements shell.Volumes.
func (c *Cell) Create(ctx context.Context, name, size string) error {
	bytes, err := parseSize(size)
	if err != nil {
		return err
	}
	return c.with(ctx, func(ctx context.Context, client *pss.Cell) error {
		return client.CreateVolume(ctx, name, bytes)
	})
}

// Delete implements shell.Volumes.
func (c *Cell) Delete(ctx context.Context, name string) error {
	return c.with(ctx, func(ctx context.Context, client *pss.Cell) error { return client.DeleteVolume(ctx, name) })
}

// parseSize reads a size as createISCSIVol takes it: a number and one of K, M, G, T.
func parseSize(text string) (int64, error) {
	shift := 0
	number := text
	if text != "" {
		number = text[:len(text)-1]
		shift = 10 * (strings.IndexByte("KMGT", text[len(text)-1]&^0x20) + 1)
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if shift == 0 || err != nil || n == 0 || strings.HasPrefix(number, "+") {
		return 0, fmt.Errorf("%q is no size: a number and one of K, M, G and T are wanted, as in 1T", text)
	}
	if bits.Len64(n)+shift > 63 || n<<shift > op.MaxVolume {
		return 0, fmt.Errorf("%q is too large for a volume", text)
	}
	return int64(n << shift), nil
}
