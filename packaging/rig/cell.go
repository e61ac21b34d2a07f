package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/ask"
	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// askEvery is the time between two looks at a condition that nobody announces.
const askEvery = 20 * time.Millisecond

// statusTimeout is how long a server may take to answer a status query.
const statusTimeout = 250 * time.Millisecond

// AllServers are the eight servers of the manual: five core servers and three replicas (M12, M13).
func AllServers() []cell.ID { return Servers(cell.CoreIDs, cell.MaxServers-cell.CoreIDs) }

// Servers are the ids of a cell with so many core servers and replicas.
func Servers(core, replicas int) []cell.ID {
	var ids []cell.ID
	for i := range core {
		ids = append(ids, cell.ID(i))
	}
	for i := range replicas {
		ids = append(ids, cell.ID(cell.CoreIDs+i))
	}
	return ids
}

// Cell is a cell of PFSserver processes on this machine.
type Cell struct {
	Conf     string // the server.conf
	Config   *cell.Config
	programs Programs
	servers  map[cell.ID]*Process
}

// NewCell writes DIR/server.conf and makes a folder for each server and a key for the cell, which keep what they are from
// earlier runs. Nothing is started.
func NewCell(dir string, p Programs, ids []cell.ID) (*Cell, error) {
	if _, err := auth.Generate(filepath.Join(dir, auth.FileName)); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make a cell: %w", err)
	}
	return NewOpenCell(dir, p, ids)
}

// NewOpenCell is NewCell without making a key: the cell is open, unless the folder has one.
func NewOpenCell(dir string, p Programs, ids []cell.ID) (*Cell, error) {
	udp, tcp, err := cellPorts(ids)
	if err != nil {
		return nil, err
	}
	var places []Place
	for _, id := range ids {
		path := filepath.Join(dir, "server-"+strconv.Itoa(int(id)))
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, fmt.Errorf("make a cell: %w", err)
		}
		places = append(places, Place{ID: id, Host: Host, UDPPort: udp + int(id), TCPPort: tcp + int(id), Path: path})
	}
	return NewCellAt(dir, p, places)
}

// Place is where a server runs.
type Place struct {
	ID               cell.ID
	Host             string
	UDPPort, TCPPort int
	Path             string   // the folder of its record, which has to be there
	Namespace        string   // its network namespace; empty: the rig's own
	Args             []string // further options
}

// NewCellAt writes DIR/server.conf for a cell whose servers run at these places. Nothing is started. A key that is in
// the folder is the cell's.
func NewCellAt(dir string, p Programs, places []Place) (*Cell, error) {
	c := &Cell{Conf: filepath.Join(dir, "server.conf"), programs: p, servers: make(map[cell.ID]*Process)}
	var b strings.Builder
	fmt.Fprintf(&b, "# id server udp_port tcp_port path\n")
	for _, at := range places {
		id := strconv.Itoa(int(at.ID))
		fmt.Fprintf(&b, "%s %s %d %d %s\n", id, at.Host, at.UDPPort, at.TCPPort, at.Path)
		c.servers[at.ID] = NewProcess(Command{
			Name: "server " + id, Program: p.PFSserver, Namespace: at.Namespace, Log: filepath.Join(dir, "server-"+id+".log"),
			Args: append(append([]string{"--foreground", "--metrics", "off", "--conf", c.Conf}, at.Args...), id),
		})
	}
	if err := os.WriteFile(c.Conf, []byte(b.String()), 0o644); err != nil {
		return nil, fmt.Errorf("make a cell: %w", err)
	}
	var err error
	if c.Config, err = cell.Load(c.Conf); err != nil {
		return nil, fmt.Errorf("make a cell: %w", err)
	}
	return c, nil
}

// IDs are the servers of the cell, in order.
func (c *Cell) IDs() []cell.ID {
	var ids []cell.ID
	for _, s := range c.Config.Servers {
		ids = append(ids, s.ID)
	}
	return ids
}

// Server is the process of a server. It panics for an id that the cell does not have.
func (c *Cell) Server(id cell.ID) *Process {
	p := c.servers[id]
	if p == nil {
		panic(fmt.Sprintf("rig: the cell has no server %d", id))
	}
	return p
}

// Processes are the processes of all servers, in order of their ids.
func (c *Cell) Processes() []*Process {
	var all []*Process
	for _, id := range c.IDs() {
		all = append(all, c.servers[id])
	}
	return all
}

// Start starts servers, in this order, and waits until each answers.
func (c *Cell) Start(ctx context.Context, ids ...cell.ID) error {
	for _, id := range ids {
		if err := c.Server(id).Start(); err != nil {
			return err
		}
	}
	for _, id := range ids {
		err := c.Await(ctx, fmt.Sprintf("server %d answers", id), func(s []Status) bool {
			return slices.ContainsFunc(s, func(s Status) bool { return s.ID == id })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// StartAll starts all servers and waits until the cell has a master.
func (c *Cell) StartAll(ctx context.Context) error {
	if err := c.Start(ctx, c.IDs()...); err != nil {
		return err
	}
	_, err := c.Master(ctx)
	return err
}

// Close kills all servers.
func (c *Cell) Close() {
	for _, p := range c.servers {
		p.Close()
	}
}

// Status is what a server tells of itself.
type Status struct {
	ID       cell.ID  `json:"id"`
	Term     uint64   `json:"term"`
	Master   *cell.ID `json:"master"` // nil while none is known
	IsMaster bool     `json:"is_master"`
	Commit   uint64   `json:"commit_index"`
	Applied  uint64   `json:"applied_index"`
	Last     uint64   `json:"last_index"`
}

// Status asks a server for its status, by a datagram to its UDP port.
func (c *Cell) Status(id cell.ID) (Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	b, err := ask.Status(ctx, c.Config, id)
	if err != nil {
		return Status{}, err
	}
	var st Status
	if err := json.Unmarshal(b, &st); err != nil {
		return Status{}, fmt.Errorf("status of server %d: %q: %w", id, b, err)
	}
	return st, nil
}

// Statuses are the statuses of all servers that run, are not frozen, and answer.
func (c *Cell) Statuses() []Status {
	var all []Status
	for _, id := range c.IDs() {
		if !c.Server(id).Responsive() {
			continue
		}
		if st, err := c.Status(id); err == nil {
			all = append(all, st)
		}
	}
	return all
}

// Master waits until the cell has a master and returns it: a running server that calls itself master, of the
// highest term that any server knows of.
func (c *Cell) Master(ctx context.Context) (cell.ID, error) {
	var master cell.ID
	err := c.Await(ctx, "the cell has a master", func(all []Status) bool {
		var term uint64
		found := false
		for _, s := range all {
			if s.Term > term {
				term, found = s.Term, false
			}
			if s.Term == term && s.IsMaster {
				master, found = s.ID, true
			}
		}
		return found
	})
	return master, err
}

// Level waits until all servers that run have applied what the cell has agreed on up to now.
func (c *Cell) Level(ctx context.Context) error {
	var goal uint64
	for _, s := range c.Statuses() {
		goal = max(goal, s.Commit)
	}
	err := c.Await(ctx, "all servers are level", func(all []Status) bool {
		running := 0
		for _, id := range c.IDs() {
			if c.Server(id).Responsive() {
				running++
			}
		}
		return len(all) == running && !slices.ContainsFunc(all, func(s Status) bool { return s.Applied < goal })
	})
	return err
}

// Await asks the servers until what they say is good. what completes "waiting until …" in errors. The error
// of a wait that is over says what they said last, and of a server that has ended by itself shows the log.
func (c *Cell) Await(ctx context.Context, what string, good func([]Status) bool) error {
	for {
		all := c.Statuses()
		if good(all) {
			return nil
		}
		for _, id := range c.IDs() {
			p := c.Server(id)
			if p.PID() != 0 && !p.Killed() {
				if err := p.Failed(); err != nil {
					return fmt.Errorf("waiting until %s: %w", what, err)
				}
			}
		}
		select {
		case <-ctx.Done():
			said, err := json.Marshal(all)
			if err != nil {
				return err
			}
			return fmt.Errorf("waiting until %s: %w; %d servers answer: %s", what, ctx.Err(), len(all), said)
		case <-time.After(askEvery):
		}
	}
}

// CreateVolume runs createISCSIVol.
func (c *Cell) CreateVolume(ctx context.Context, name, size string) error {
	_, err := Run(ctx, []string{cell.EnvFile + "=" + c.Conf}, c.programs.CreateISCSIVol, name, size)
	return err
}
