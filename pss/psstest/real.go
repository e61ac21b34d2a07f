package psstest

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/replica"
)

// RealCell is a cell of servers as they are, in this process, on loopback and in folders of the test.
type RealCell struct {
	Conf     *cell.Config
	ConfFile string // describes the cell

	servers []*replica.Replica // nil for those that were stopped
}

// Stop stops server i, as a crash would.
func (c *RealCell) Stop(i int) error {
	r := c.servers[i]
	if c.servers[i] = nil; r == nil {
		return nil
	}
	return r.Close()
}

// Real starts a cell of n servers. It ends with the test.
func Real(t testing.TB, n int) *RealCell {
	t.Helper()
	var text strings.Builder
	for i := range n {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		udp, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%d 127.0.0.1 %d %d /pss\n", i, udp.LocalAddr().(*net.UDPAddr).Port, tcp.Addr().(*net.TCPAddr).Port)
		tcp.Close()
		udp.Close()
	}
	c := &RealCell{ConfFile: filepath.Join(t.TempDir(), "server.conf")}
	err := os.WriteFile(c.ConfFile, []byte(text.String()), 0o644)
	if err == nil {
		c.Conf, err = cell.Load(c.ConfFile)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		r, err := replica.Open(replica.Options{Cell: c.Conf, ID: cell.ID(i), Root: t.TempDir(),
			Timing: agreement.LAN, Logger: slog.New(slog.DiscardHandler), SegmentBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Stop(i); err != nil {
				t.Error(err)
			}
		})
		c.servers = append(c.servers, r)
	}
	return c
}
