package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// TestScenarios runs the scripts in testdata/scenarios. Commands, offsets and lengths in blocks
// unless they end in b (bytes) or c (chunks):
//
//	apply                 one operation a line: create O, delete O, write O OFF N, add O OFF N,
//	                      zero O OFF N, keep O OFF N, truncate O OFF
//	flush                 freezes and flushes; prints the operations on the disk in their order
//	flush quiet           the same without printing
//	open                  closes the store and opens it; prints the operations on the disk
//	tree                  lists the files with their sizes
//	allocated O OFF N     asks for the allocation of a range until its end
//	chunks O              lists the chunks with files, and all changed ones
//	overlay               what the overlay counts
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		r := newRig(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			r.t = t
			var out strings.Builder
			switch d.Cmd {
			case "apply":
				for line := range strings.Lines(d.Input) {
					r.line(line)
				}
			case "flush":
				if d.HasArg("quiet") {
					r.flush()
					break
				}
				r.logOps(&out)
				r.flush()
				r.mem.SetHook(nil)
			case "open":
				if err := r.s.Close(); err != nil {
					t.Fatal(err)
				}
				r.logOps(&out)
				r.open()
				r.mem.SetHook(nil)
				fmt.Fprintf(&out, "at %d, term %d, %s\n", r.pos.Index, r.pos.Term, r.pos.Meta)
				r.replay()
			case "tree":
				r.tree(&out, r.s.o.Dir, "")
			case "allocated":
				r.allocated(&out, d.CmdArgs)
			case "chunks":
				r.chunks(&out, uint64(r.number(d.CmdArgs[0].Key, 1)))
			case "overlay":
				active, frozen := r.s.OverlayBytes()
				fmt.Fprintf(&out, "%d %d\n", active, frozen)
			default:
				t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
			}
			r.equal(r.now)
			return out.String()
		})
	})
}

// number reads a number in units of blocks, of chunks with c behind it, or of bytes with b.
func (r *rig) number(s string, unit int64) int64 {
	for suffix, u := range map[string]int64{"b": 1, "c": ChunkSize} {
		if rest, ok := strings.CutSuffix(s, suffix); ok {
			s, unit = rest, u
		}
	}
	var n int64
	if _, err := fmt.Sscan(s, &n); err != nil {
		r.t.Fatalf("not a number: %q", s)
	}
	return n * unit
}

func (r *rig) line(line string) {
	w := strings.Fields(line)
	if len(w) < 2 {
		r.t.Fatalf("not an operation: %q", line)
	}
	var arg [2]int64
	for i, s := range w[2:] {
		arg[i] = r.number(s, BlockSize)
	}
	r.do(w[0], uint64(r.number(w[1], 1)), arg[0], arg[1])
}

// logOps prints every operation on the disk from now on that changes something.
func (r *rig) logOps(out *strings.Builder) {
	dir := r.s.o.Dir + "/"
	r.mem.SetHook(func(op, name string) error {
		if op != disk.OpRead && op != disk.OpReadDir && op != disk.OpSize && op != disk.OpOpen {
			name = strings.TrimPrefix(name, dir)
			if name == r.s.o.Dir {
				name = "."
			}
			fmt.Fprintf(out, "%s %s\n", op, name)
		}
		return nil
	})
}

func (r *rig) tree(out *strings.Builder, dir, indent string) {
	list, err := r.mem.ReadDir(dir)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range list {
		if e.Dir {
			fmt.Fprintf(out, "%s%s/\n", indent, e.Name)
			r.tree(out, dir+"/"+e.Name, indent+"  ")
		} else {
			fmt.Fprintf(out, "%s%s %d\n", indent, e.Name, e.Bytes)
		}
	}
}

func (r *rig) allocated(out *strings.Builder, args []datadriven.CmdArg) {
	object := uint64(r.number(args[0].Key, 1))
	off, n := r.number(args[1].Key, BlockSize), r.number(args[2].Key, BlockSize)
	for n > 0 {
		mapped, length, err := r.s.Allocated(object, off, n)
		if err != nil {
			r.t.Fatal(err)
		}
		if length < 1 || length > n {
			r.t.Fatalf("%d bytes of %d", length, n)
		}
		fmt.Fprintf(out, "%d +%d %v\n", off, length, mapped)
		off, n = off+length, n-length
	}
}

func (r *rig) chunks(out *strings.Builder, object uint64) {
	err := errors.Join(
		r.s.Chunks(object, 0, func(chunk uint32) bool {
			fmt.Fprintf(out, "file %d\n", chunk)
			return true
		}),
		r.s.ChangedSince(Newest, object, 0, func(chunk uint32, changed uint64) bool {
			fmt.Fprintf(out, "changed %d at %d\n", chunk, changed)
			return true
		}))
	if err != nil {
		r.t.Fatal(err)
	}
}
