package scsi

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// TestUnitAgainstModel does random block commands on a unit and on a byte slice.
func TestUnitAgainstModel(t *testing.T) {
	const blocks, size = 64, 512
	rapid.Check(t, func(rt *rapid.T) {
		store := newMemory(blocks * size)
		store.caw = rapid.Bool().Draw(rt, "native COMPARE AND WRITE")
		tg, u, i := disk(t, store)
		must(t, u.Update("thin_provisioning=1"))
		if rapid.Bool().Draw(rt, "write cache off") {
			must(t, u.Update("mode_page=8:0:18:0x10"))
		}
		i.clear(1)
		model := make([]byte, blocks*size)

		fill := func() byte { return rapid.SampledFrom([]byte{0, 1, 0xa5}).Draw(rt, "fill") }
		extent := func() (lba, n int) {
			lba = rapid.IntRange(0, blocks-1).Draw(rt, "lba")
			return lba, rapid.IntRange(1, blocks-lba).Draw(rt, "blocks")
		}
		good := func(cdb []byte, in int, out []byte) []byte {
			r := i.do(1, cdb, in, out)
			if r.status != sam.Good {
				rt.Fatalf("% x: status %02x sense %06x", cdb, r.status, r.code())
			}
			return r.data
		}
		rt.Repeat(map[string]func(*rapid.T){
			"read": func(rt *rapid.T) {
				lba, n := extent()
				in := rapid.IntRange(1, n*size+100).Draw(rt, "expected")
				want := model[lba*size : lba*size+min(in, n*size)]
				if got := good(cdb10(0x28, 0, uint32(lba), uint16(n)), in, nil); !bytes.Equal(got, want) {
					rt.Fatalf("READ %d+%d differs", lba, n)
				}
			},
			"write": func(rt *rapid.T) {
				lba, n := extent()
				sent := rapid.IntRange(0, n*size).Draw(rt, "sent")
				out := bytes.Repeat([]byte{fill()}, sent)
				good(cdb16(0x8a, rapid.SampledFrom([]byte{0, 0x08, 0x10}).Draw(rt, "flags"), uint64(lba), uint32(n)), 0, out)
				copy(model[lba*size:], out[:sent/size*size])
			},
			"write and verify": func(rt *rapid.T) {
				lba, n := extent()
				out := bytes.Repeat([]byte{fill()}, n*size)
				good(cdb10(0x2e, rapid.SampledFrom([]byte{0, 0x02}).Draw(rt, "flags"), uint32(lba), uint16(n)), 0, out)
				copy(model[lba*size:], out)
			},
			"write same": func(rt *rapid.T) {
				lba, n := extent()
				out := bytes.Repeat([]byte{fill()}, size)
				flags := rapid.SampledFrom([]byte{0, sameUNMAP}).Draw(rt, "flags")
				good(cdb16(0x93, flags, uint64(lba), uint32(n)), 0, out)
				if flags&sameUNMAP != 0 {
					clear(out)
				}
				copy(model[lba*size:], bytes.Repeat(out, n))
			},
			"write same without data": func(rt *rapid.T) {
				lba, n := extent()
				good(cdb16(0x93, sameNDOB|rapid.SampledFrom([]byte{0, sameUNMAP}).Draw(rt, "flags"), uint64(lba), uint32(n)), 0, nil)
				clear(model[lba*size : (lba+n)*size])
			},
			"unmap": func(rt *rapid.T) {
				list := make([]byte, 8)
				for range rapid.IntRange(0, 4).Draw(rt, "descriptors") {
					lba, n := extent()
					list = binary.BigEndian.AppendUint64(list, uint64(lba))
					list = binary.BigEndian.AppendUint32(list, uint32(n))
					list = append(list, 0, 0, 0, 0)
					clear(model[lba*size : (lba+n)*size])
				}
				binary.BigEndian.PutUint16(list, uint16(len(list)-2))
				binary.BigEndian.PutUint16(list[2:], uint16(len(list)-8))
				good(cdb10(0x42, 0, 0, uint16(len(list))), 0, list)
			},
			"orwrite": func(rt *rapid.T) {
				lba, n := extent()
				out := bytes.Repeat([]byte{fill()}, n*size)
				good(cdb16(0x8b, 0, uint64(lba), uint32(n)), 0, out)
				for k, b := range out {
					model[lba*size+k] |= b
				}
			},
			"compare and write": func(rt *rapid.T) {
				lba, n := extent()
				old := bytes.Clone(model[lba*size : (lba+n)*size])
				differs := -1
				if rapid.Bool().Draw(rt, "differs") {
					differs = rapid.IntRange(0, len(old)-1).Draw(rt, "at")
					old[differs] ^= 0x40
				}
				next := bytes.Repeat([]byte{fill()}, n*size)
				r := i.do(1, cdbCompare(0, uint64(lba), byte(n)), 0, append(old, next...))
				switch {
				case differs < 0 && r.status == sam.Good:
					copy(model[lba*size:], next)
				case differs >= 0 && r.code() == miscompare && binary.BigEndian.Uint32(r.sense[3:]) == uint32(differs):
				default:
					rt.Fatalf("COMPARE AND WRITE: status %02x sense % x, first difference %d", r.status, r.sense, differs)
				}
			},
			"verify": func(rt *rapid.T) {
				lba, n := extent()
				out := bytes.Clone(model[lba*size : (lba+n)*size])
				good(cdb10(0x2f, 0x02, uint32(lba), uint16(n)), 0, out)
				at := rapid.IntRange(0, len(out)-1).Draw(rt, "at")
				out[at] ^= 1
				r := i.do(1, cdb10(0x2f, 0x02, uint32(lba), uint16(n)), 0, out)
				if r.code() != miscompare || binary.BigEndian.Uint32(r.sense[3:]) != uint32(at) {
					rt.Fatalf("VERIFY: status %02x sense % x, difference at %d", r.status, r.sense, at)
				}
			},
			"": func(rt *rapid.T) {
				store.mu.Lock()
				defer store.mu.Unlock()
				if !bytes.Equal(store.bytes, model) {
					rt.Fatal("medium and model differ")
				}
			},
		})
		i.detach()
		if n := tg.buffers.inUse.Load(); n != 0 {
			rt.Fatalf("%d bytes of buffers were not given back", n)
		}
		must(t, u.Close())
	})
}

// FuzzCommand sends arbitrary commands; whatever they are, they end, and give their buffers back.
func FuzzCommand(f *testing.F) {
	for _, row := range diskTable.rows {
		cdb := make([]byte, 16)
		copy(cdb, row.cdbUsage)
		f.Add(cdb, uint32(4096), make([]byte, 512), true)
		clear(cdb[1:])
		if row.service != none {
			cdb[1] = byte(row.service)
		}
		f.Add(cdb, uint32(255), bytes.Repeat([]byte{1}, 24), false)
	}
	f.Fuzz(func(t *testing.T, cdb []byte, in uint32, out []byte, thin bool) {
		if len(cdb) == 0 || len(cdb) > 260 {
			return
		}
		store := newMemory(1 << 16)
		tg, u, i := disk(t, store)
		if thin {
			must(t, u.Update("thin_provisioning=1,removable=1,sense_format=1"))
		}
		for lun := range uint64(3) {
			done := i.start(sam.Command{LUN: sam.LUN(lun), Attribute: sam.Simple}, cdb, int(in), out)
			<-done
			if len(done) != 0 {
				t.Fatal("Done was called twice")
			}
		}
		i.detach()
		if n := tg.buffers.inUse.Load(); n != 0 {
			t.Fatalf("%d bytes of buffers were not given back", n)
		}
		must(t, u.Close())
	})
}

// FuzzUpdate gives arbitrary parameter strings to a unit.
func FuzzUpdate(f *testing.F) {
	for _, s := range []string{"vendor_id=A,removable=1", "mode_page=8:0:18:0x10:0:0xff", "online=0,path=x", ",=,=1,lbppbe=-3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, params string) {
		_, u, i := disk(t, newMemory(1<<16))
		if err := u.Update(params); err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
		i.clear(1)
		i.do(1, []byte{0x5a, 0, 0x3f, 0xff, 0, 0, 0, 0xff, 0xff, 0}, 0xffff, nil)
		for _, page := range []byte{0, 0x80, 0x83, 0xb0, 0xb1, 0xb2} {
			i.good(1, []byte{0x12, 1, page, 0, 255, 0}, 255, nil)
		}
		i.detach()
		must(t, u.Close())
	})
}
