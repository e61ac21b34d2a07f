// Package check verifies everything that a stopped server has in its root: the frames and entries of its log, its
// checkpoint, the index, the records and the bytes of every chunk, and that nothing is there that belongs to nothing.
//
// It opens the root as the server would, with the same code, on a shadow of the disk (disk.Shadow): a checkpoint that
// was cut short is completed, a torn tail of the log is cut, but only in memory. The root itself is only read. Tests
// use it as their oracle.
package check

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/replica"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
)

// Named limits.
const (
	// MaxFindings is how many findings are listed; more are counted.
	MaxFindings = 1000
	// entriesAtOnce is how many bytes of the log are read at once.
	entriesAtOnce = 1 << 20
)

// Finding is something that is not as it must be.
type Finding struct {
	File   string // in the root
	Offset int64  // in the file, in bytes; 0 if it is about the file as a whole
	What   string
	// Harmless: the server starts with it and loses nothing, because it heals or ignores it.
	Harmless bool
}

// String puts a finding into a line.
func (f Finding) String() string {
	s := fmt.Sprintf("%s: %s", f.File, f.What)
	if f.Harmless {
		s += " (harmless)"
	}
	return s
}

// Progress tells how far a check is.
type Progress struct {
	Part  string // log or data
	Bytes uint64 // verified so far
}

// Options are the choices of who has a root checked.
type Options struct {
	// Progress, unless nil, is called from time to time.
	Progress func(Progress)
	// Buffer, unless nil, is what blocks are read into: at least store.BlockSize bytes, better store.VerifyBuffer.
	Buffer []byte
}

// Result is what a check came to.
type Result struct {
	Findings    []Finding // MaxFindings at most
	Count       int       // of all findings
	Harmful     int       // of them, those that are not harmless
	Checkpoint  uint64    // index that the store stands at
	First, Last uint64    // entries of the log
	Objects     int
	Chunks      int // with a file
	Bytes       uint64
}

// OK says whether the server may start with this root and has lost nothing.
func (r *Result) OK() bool { return r.Harmful == 0 }

func (r *Result) add(f Finding) {
	r.Count++
	if !f.Harmless {
		r.Harmful++
	}
	if len(r.Findings) < MaxFindings {
		r.Findings = append(r.Findings, f)
	}
}

// addError adds what an error says about damage. It returns the error if it is about anything else.
func (r *Result) addError(err error, harmless bool) error {
	var inLog *log.DamageError
	var inStore *store.DamageError
	switch {
	case err == nil:
	case errors.As(err, &inLog):
		r.add(Finding{File: inLog.File, Offset: inLog.Offset, What: err.Error(), Harmless: harmless})
	case errors.As(err, &inStore):
		r.add(Finding{File: inStore.File, Offset: inStore.Offset, What: err.Error(), Harmless: harmless})
	default:
		return err
	}
	return nil
}

// Root checks the root of a stopped server. An error says that the check could not be carried out; what is wrong with
// the root is in the Result.
func Root(fsys disk.FS, o Options) (*Result, error) {
	c := &checker{fs: disk.Shadow(fsys), o: o, res: &Result{}}
	if c.o.Progress == nil {
		c.o.Progress = func(Progress) {}
	}
	if c.o.Buffer == nil {
		c.o.Buffer = make([]byte, store.VerifyBuffer)
	}
	superseded, err := store.Checkpointed(c.fs, ".")
	if err != nil {
		return c.res, c.res.addError(err, false)
	}
	l, err := log.Open(c.fs, "log", log.Options{Superseded: superseded})
	if err != nil {
		return c.res, c.res.addError(err, false)
	}
	err = c.withLog(l)
	return c.res, errors.Join(err, l.Close())
}

type checker struct {
	fs  disk.FS
	o   Options
	res *Result
}

func (c *checker) withLog(l *log.Log) error {
	if d := l.Healed(); d != nil {
		c.res.add(Finding{File: d.File, Offset: d.Offset, Harmless: true,
			What: d.Error() + ", and superseded by the checkpoint"})
	}
	if err := c.entries(l); err != nil {
		return err
	}
	st, at, err := replica.OpenStore(c.fs, l, 0)
	if err != nil {
		return c.res.addError(err, false)
	}
	c.res.Checkpoint = at.Index
	c.res.First, c.res.Last = l.First(), l.Last()
	if l.First() > at.Index+1 {
		c.res.add(Finding{File: "log",
			What: fmt.Sprintf("it begins at entry %d, and the checkpoint ends at %d", l.First(), at.Index)})
	}
	if err := replica.CheckMeta(at); err != nil {
		c.res.add(Finding{File: "checkpoint", What: err.Error()})
	}
	return errors.Join(c.data(st), st.Close())
}

// entries reads all entries of the log, and looks into them.
func (c *checker) entries(l *log.Log) error {
	var bytes uint64
	for next := l.First(); next <= l.Last(); {
		es, err := l.Entries(next, l.Last()+1, entriesAtOnce)
		if err != nil {
			return c.res.addError(err, false)
		}
		for _, e := range es {
			bytes += uint64(len(e.Data))
			if e.Kind != 0 || len(e.Data) == 0 { // a change of members, or a master's first entry
				continue
			}
			o, err := op.Parse(e.Data)
			if err == nil {
				err = o.Check()
			}
			if err != nil {
				c.res.add(Finding{File: "log", What: fmt.Sprintf("entry %d: %v", e.Index, err)})
			}
		}
		next = es[len(es)-1].Index + 1
		c.res.Bytes += bytes
		bytes = 0
		c.o.Progress(Progress{"log", c.res.Bytes})
	}
	return nil
}

// data verifies every chunk of every object.
func (c *checker) data(st *store.Store) error {
	for _, o := range st.Objects(store.Checkpoint) {
		c.res.Objects++
		var chunks []uint32
		err := st.Chunks(o.Number, 0, func(chunk uint32) bool { chunks = append(chunks, chunk); return true })
		if err != nil {
			return err
		}
		var img store.Image
		for _, chunk := range chunks {
			c.res.Chunks++
			bad, bytes, first, err := st.Verify(store.Checkpoint, o.Number, chunk, c.o.Buffer)
			if err != nil {
				return err
			}
			c.res.Bytes += uint64(bytes)
			c.o.Progress(Progress{"data", c.res.Bytes})
			if n := bad.Len(); n > 0 {
				c.res.add(Finding{File: first.File, Offset: first.Offset,
					What: fmt.Sprintf("%d damaged blocks: %v", n, first)})
				continue
			}
			if err := c.indexes(st, o.Number, chunk, &img); err != nil {
				return err
			}
		}
		if err := c.orphans(fmt.Sprintf("data/%016x-%s", o.Number, o.Label), chunks); err != nil {
			return err
		}
	}
	return nil
}

// indexes holds the records of a chunk against its index: no block changed after the chunk did.
func (c *checker) indexes(st *store.Store, object uint64, chunk uint32, img *store.Image) error {
	var none store.Blocks
	if err := st.Export(store.Checkpoint, object, chunk, &none, img); err != nil {
		return err
	}
	for i := range img.Records {
		if r := img.Records[i]; r.Index > img.Index || img.Index > c.res.Checkpoint {
			c.res.add(Finding{File: fmt.Sprintf("data/%016x", object), What: fmt.Sprintf(
				"block %d of chunk %d was changed by entry %d, the chunk by %d, and the checkpoint is of %d",
				i, chunk, r.Index, img.Index, c.res.Checkpoint)})
			return nil
		}
	}
	return nil
}

// orphans looks for files of chunks that the object's index does not have.
func (c *checker) orphans(folder string, chunks []uint32) error {
	var walk func(dir string, chunk uint32, depth int) error
	walk = func(dir string, chunk uint32, depth int) error {
		entries, err := c.fs.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			n, err := strconv.ParseUint(e.Name, 16, 8)
			name := path.Join(dir, e.Name)
			switch {
			case err == nil && len(e.Name) == 2 && e.Dir == (depth < 2):
				number := chunk<<8 | uint32(n)
				if e.Dir {
					if err := walk(name, number, depth+1); err != nil {
						return err
					}
				} else if _, filed := slices.BinarySearch(chunks, number); !filed {
					c.res.add(Finding{File: name, What: "a file of a chunk that is empty", Harmless: true})
				}
			case e.Name == "sums" && depth == 2 && !e.Dir, (e.Name == "index" || e.Name == "pages") && depth == 0 && !e.Dir:
			default:
				c.res.add(Finding{File: name, What: "it belongs to nothing", Harmless: true})
			}
		}
		return nil
	}
	err := walk(folder, 0, 0)
	if err != nil && len(chunks) == 0 { // an object without data has no folder
		return nil
	}
	return err
}
