package replica

import (
	"bytes"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// watchedDisk counts what is read of the log, and notices when that is done by whoever has the server's lock.
type watchedDisk struct {
	disk.FS
	locked atomic.Int64 // reads under the lock
	bytes  atomic.Int64 // of all reads
}

type watchedLog struct {
	disk.File
	d *watchedDisk
}

func (d *watchedDisk) Open(name string, flags disk.Flags) (disk.File, error) {
	f, err := d.FS.Open(name, flags)
	if err != nil || !strings.HasPrefix(name, "log/") {
		return f, err
	}
	return &watchedLog{f, d}, nil
}

func (f *watchedLog) ReadAt(b []byte, off int64) (int, error) {
	f.d.bytes.Add(int64(len(b)))
	stack := make([]byte, 64<<10)
	if bytes.Contains(stack[:runtime.Stack(stack, false)], []byte("replica.(*Replica).step(")) {
		f.d.locked.Add(1)
	}
	return f.File.ReadAt(b, off)
}

// TestLaggingServerIsFedWithoutTheLock: a server that lags by much more than what the master has of the log in memory
// gets it from the disk, and comes level, while clients write. Nobody reads the disk under the lock that clients wait for.
func TestLaggingServerIsFedWithoutTheLock(t *testing.T) {
	t.Parallel()
	const (
		lagBytes   = 110 << 20
		writeBytes = 1 << 20
	)
	var disks [3]*watchedDisk
	h := newHouse(t, func(o *Options) {
		o.CheckpointEvery, o.SegmentBytes = time.Hour, 16<<20
		check(t, os.MkdirAll(o.Root, 0o750))
		base, err := disk.Dir(o.Root)
		check(t, err)
		disks[o.ID] = &watchedDisk{FS: base}
		o.Disk = disks[o.ID]
	})
	v := h.volume(h.client(), 4<<20)
	v.write(5)
	h.level(v.object)
	late := (h.master() + 1) % 3
	h.stop(late)
	for at := 0; at < lagBytes; at += writeBytes {
		off := at % len(v.want)
		for i := off; i < off+writeBytes; i += 512 {
			v.want[i] = byte(at>>20) + 1
		}
		check(t, v.writeAt(v.want[off:off+writeBytes], int64(off)))
	}
	m := h.master()
	read := func() (sum int64) { // by all but the one that lags, whoever is master
		for i, d := range disks {
			if i != late {
				sum += d.bytes.Load()
			}
		}
		return sum
	}
	before := read()
	h.start(late)
	written := 0
	block := v.want[:4096]
	eventually(t, "level while clients write", func() bool {
		block[0]++
		check(t, v.writeAt(block, 0))
		written++
		return h.servers[late].report().Applied >= h.servers[m].report().Applied-1
	})
	h.level(v.object)
	v.verify()
	fed := read() - before
	t.Logf("%d MiB of log were read for the server that lagged, during %d writes", fed>>20, written)
	if fed < lagBytes-agreement.TailBytes-16<<20 || fed > 2*lagBytes {
		t.Fatalf("%d bytes of log were read to feed a server that lagged by %d", fed, lagBytes)
	}
	if first := h.servers[late].log.First(); first != 1 {
		t.Fatalf("its log begins at %d: it was not fed from the log", first)
	}
	for i, d := range disks {
		if n := d.locked.Load(); n > 0 {
			t.Errorf("server %d read its log %d times under the lock", i, n)
		}
	}
}
