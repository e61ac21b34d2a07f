package log

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// scenario is the state of a file in testdata: a disk, the log on it, and what the disk saw.
//
//	open [segment=bytes] [bodies= superseded=] open the log
//	append [first= n= term= size=] [state=(term,vote,commit)] [chunk= block=]
//	                                           with a chunk, each entry's whole blocks have their home there, one
//	                                           behind the other
//	sync, prepare, close                       the calls
//	recycle up-to=, reset index= term=         the calls
//	supersede up-to=, spare name=              the calls; the file is made
//	where index=                               where the end of an entry lies
//	scribble file= at=                         write into a file and sync it
//	entries lo= hi= [max=]                     read entries
//	state                                      all that the log tells of itself
//	files                                      names and the frames in them
//	dump file= [from= to=]                     bytes in hexadecimal, without rows of zeros
//	flip file= at=                             flip a bit
//	fail op=                                   the next such operation of the disk fails
//	kill, crash                                end the process; cut the power, losing all that may be lost
//
// Calls print the operations of the disk, those that only read left out.
type scenario struct {
	mem   *disk.Mem
	log   *Log
	ops   strings.Builder
	fail  string
	quiet bool
}

func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, file string) {
		s := &scenario{mem: disk.NewMem()}
		s.mem.SetHook(s.see)
		datadriven.RunTest(t, file, func(t *testing.T, d *datadriven.TestData) string {
			err := s.run(t, d)
			out := s.ops.String()
			if s.ops.Reset(); err != nil {
				out += "error: " + err.Error() + "\n"
			}
			return out
		})
	})
}

var errScenario = errors.New("the disk failed")

func (s *scenario) see(op, name string) error {
	if s.quiet || op == disk.OpRead || op == disk.OpReadDir || op == disk.OpSize {
		return nil
	}
	if op == s.fail {
		s.fail = ""
		fmt.Fprintf(&s.ops, "%s %s fails\n", op, name)
		return errScenario
	}
	fmt.Fprintf(&s.ops, "%s %s\n", op, name)
	return nil
}

func (s *scenario) run(t *testing.T, d *datadriven.TestData) (err error) {
	switch d.Cmd {
	case "open":
		o := small()
		d.MaybeScanArgs(t, "segment", &o.SegmentBytes)
		d.MaybeScanArgs(t, "bodies", &o.Bodies)
		d.MaybeScanArgs(t, "superseded", &o.Superseded)
		s.log, err = Open(s.mem, "log", o)
		return err
	case "append":
		return s.append(t, d)
	case "sync":
		return s.log.Sync()
	case "prepare":
		return s.log.Prepare(nil)
	case "close":
		return s.log.Close()
	case "recycle":
		var upTo uint64
		d.ScanArgs(t, "up-to", &upTo)
		return s.log.Recycle(upTo)
	case "reset":
		var index, term uint64
		d.ScanArgs(t, "index", &index)
		d.ScanArgs(t, "term", &term)
		return s.log.Reset(index, term)
	case "supersede":
		var upTo uint64
		d.ScanArgs(t, "up-to", &upTo)
		s.log.Supersede(upTo)
	case "spare":
		var name string
		d.ScanArgs(t, "name", &name)
		s.still(func() {
			f := must(s.mem.Open(name, disk.Create))(t)
			ok(t, errors.Join(f.Allocate(0, BodyBytes), f.Sync(), f.Close(), s.mem.SyncDir(".")))
		})
		fmt.Fprintf(&s.ops, "taken: %v\n", s.log.Spare(name))
	case "where":
		var index uint64
		d.ScanArgs(t, "index", &index)
		b, there := s.log.Body(index)
		fmt.Fprintf(&s.ops, "%v %+v\n", there, b)
	case "scribble":
		var name string
		var at int64
		d.ScanArgs(t, "file", &name)
		d.ScanArgs(t, "at", &at)
		s.still(func() {
			f := must(s.mem.Open(path.Join("log", name), 0))(t)
			must(f.WriteAt([]byte{0xff, 0, 0xff}, at))(t)
			ok(t, errors.Join(f.Sync(), f.Close()))
		})
	case "entries":
		return s.entries(t, d)
	case "state":
		stats := s.log.Stats()
		fmt.Fprintf(&s.ops, "[%d, %d] %+v\n%+v\n", s.log.First(), s.log.Last(), s.log.HardState(), stats)
	case "files":
		s.frames(t)
	case "dump":
		s.dump(t, d)
	case "flip":
		var name string
		var at int
		d.ScanArgs(t, "file", &name)
		d.ScanArgs(t, "at", &at)
		s.still(func() { put(t, s.mem, name, []byte{contents(t, s.mem)[name][at] ^ 1}, int64(at)) })
	case "fail":
		d.ScanArgs(t, "op", &s.fail)
	case "kill":
		s.mem.KillProcess()
	case "crash":
		s.mem.Crash(nil)
	default:
		d.Fatalf(t, "unknown command")
	}
	return nil
}

// still does something without printing its operations.
func (s *scenario) still(f func()) {
	s.quiet = true
	defer func() { s.quiet = false }()
	f()
}

func (s *scenario) append(t *testing.T, d *datadriven.TestData) error {
	var hs *HardState
	if d.HasArg("state") {
		hs = &HardState{}
		d.ScanArgs(t, "state", &hs.Term, &hs.Vote, &hs.Commit)
	}
	first, n, term, size := s.log.Last()+1, uint64(0), uint64(1), 100
	d.MaybeScanArgs(t, "first", &first)
	d.MaybeScanArgs(t, "n", &n)
	d.MaybeScanArgs(t, "term", &term)
	d.MaybeScanArgs(t, "size", &size)
	entries := made(first, first+n, term, size)
	if d.HasArg("chunk") {
		home := Home{Object: 1, Blocks: uint16(size / blockSize)}
		d.ScanArgs(t, "chunk", &home.Chunk)
		d.MaybeScanArgs(t, "block", &home.Block)
		for i := range entries {
			entries[i].Home = home
			home.Block += home.Blocks
		}
	}
	return s.log.Append(hs, entries)
}

func (s *scenario) entries(t *testing.T, d *datadriven.TestData) error {
	var lo, hi, limit uint64
	d.ScanArgs(t, "lo", &lo)
	d.ScanArgs(t, "hi", &hi)
	limit = 1 << 60
	d.MaybeScanArgs(t, "max", &limit)
	entries, err := s.log.Entries(lo, hi, limit)
	for _, e := range entries {
		fmt.Fprintln(&s.ops, describe(e))
	}
	return err
}

// frames lists what is in the files, whether it is in use or not.
func (s *scenario) frames(t *testing.T) {
	var entries []disk.Entry
	var files map[string][]byte
	s.still(func() {
		files = contents(t, s.mem)
		entries = must(s.mem.ReadDir("log"))(t)
	})
	for _, e := range entries {
		b := files[e.Name]
		fmt.Fprintf(&s.ops, "%s: %d bytes\n", e.Name, len(b))
		if _, isBody := parseBodyName(e.Name); isBody {
			continue
		}
		for at := 0; at < len(b); at += blockSize {
			var h header
			if h.decode(b[at:]) {
				fmt.Fprintf(&s.ops, "  %5d: segment %d offset %d synced %d epoch %d flags %d, %d bytes, %d entries after %d/%d, %+v\n",
					at, h.segment, h.offset, h.synced, h.epoch, h.flags, h.size, h.count, h.prevIndex, h.prevTerm, h.hard)
			}
		}
	}
}

func (s *scenario) dump(t *testing.T, d *datadriven.TestData) {
	var name string
	d.ScanArgs(t, "file", &name)
	var b []byte
	s.still(func() { b = contents(t, s.mem)[name] })
	from, to := 0, len(b)
	d.MaybeScanArgs(t, "from", &from)
	d.MaybeScanArgs(t, "to", &to)
	for at := from; at < to; at += 16 {
		row := b[at : at+16]
		if binary.LittleEndian.Uint64(row)|binary.LittleEndian.Uint64(row[8:]) != 0 {
			fmt.Fprintf(&s.ops, "%05x  %s %s\n", at, hex.EncodeToString(row[:8]), hex.EncodeToString(row[8:]))
		}
	}
	fmt.Fprintf(&s.ops, "%05x  end of %s\n", to, path.Base(name))
}
