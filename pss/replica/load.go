package replica

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/metrics"
)

// maxCounted is how many objects a server counts the work on; what is done to more is counted for the client only.
const maxCounted = 4096

// counts is work done since the server started. Any goroutine may add to it.
type counts struct {
	reads, readBytes, readNanos    atomic.Uint64
	writes, writeBytes, writeNanos atomic.Uint64
}

// read counts a read of some bytes that took so long here.
func (c *counts) read(bytes int, d time.Duration) {
	c.reads.Add(1)
	c.readBytes.Add(uint64(bytes))
	c.readNanos.Add(uint64(max(0, d)))
}

// write counts an operation of some bytes, header included, that took so long from its arrival to its answer.
func (c *counts) write(bytes int, d time.Duration) {
	c.writes.Add(1)
	c.writeBytes.Add(uint64(bytes))
	c.writeNanos.Add(uint64(max(0, d)))
}

func (c *counts) snapshot() admin.Counts {
	return admin.Counts{
		Reads: c.reads.Load(), ReadBytes: c.readBytes.Load(), ReadNanos: c.readNanos.Load(),
		Writes: c.writes.Load(), WriteBytes: c.writeBytes.Load(), WriteNanos: c.writeNanos.Load(),
	}
}

// loads has the counts of each object that something was done to, and how long everything took.
type loads struct {
	reads  metrics.Histogram
	writes metrics.Histogram

	mu       sync.RWMutex
	byObject map[uint64]*counts // maxCounted at most
}

// of is where to count what is done to an object; nil when there are too many.
func (l *loads) of(object uint64) *counts {
	l.mu.RLock()
	c := l.byObject[object]
	l.mu.RUnlock()
	if c != nil {
		return c
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c = l.byObject[object]; c == nil && len(l.byObject) < maxCounted {
		if l.byObject == nil {
			l.byObject = make(map[uint64]*counts)
		}
		c = new(counts)
		l.byObject[object] = c
	}
	return c
}

// countRead counts a read that began at some time and is answered now.
func (c *client) countRead(object uint64, bytes int, since time.Duration) {
	d := c.r.now() - since
	c.load.read(bytes, d)
	c.r.loads.reads.Add(d)
	if o := c.r.loads.of(object); o != nil {
		o.read(bytes, d)
	}
}

// countWrite counts an operation that is answered now.
func (c *client) countWrite(reply *Reply) {
	d := c.r.now() - reply.Since
	c.load.write(reply.Bytes, d)
	c.r.loads.writes.Add(d)
	if reply.Object == 0 {
		return // sessions and names
	}
	if o := c.r.loads.of(reply.Object); o != nil {
		o.write(reply.Bytes, d)
	}
}

func adminLoad(_ context.Context, r *Replica, _ json.RawMessage, _ func(any) error) (any, error) {
	l := admin.Load{UptimeSecs: r.now().Seconds(), Volumes: []admin.VolumeLoad{}, Clients: []admin.ClientLoad{}}
	r.loads.mu.RLock()
	for object, c := range r.loads.byObject {
		l.Volumes = append(l.Volumes, admin.VolumeLoad{Object: object, Counts: c.snapshot()})
	}
	r.loads.mu.RUnlock()
	r.clients.Lock()
	defer r.clients.Unlock()
	for c := range r.clients.all {
		l.Clients = append(l.Clients, admin.ClientLoad{Remote: c.conn.RemoteAddr().String(), Software: c.software,
			Session: c.session, Counts: c.load.snapshot()})
	}
	return l, nil
}
