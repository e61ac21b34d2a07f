package iscsi

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// TestTransfers writes and reads under many agreements and compares with a byte slice. Which way data takes -
// immediate, unsolicited, R2T, in pieces of what size - is up to the agreement.
func TestTransfers(t *testing.T) {
	for _, keys := range []string{
		"",
		"ImmediateData=No",
		"InitialR2T=No",
		"InitialR2T=No ImmediateData=No",
		"InitialR2T=No FirstBurstLength=1024 MaxBurstLength=2048 MaxRecvDataSegmentLength=512",
		"MaxBurstLength=1536 MaxOutstandingR2T=4",
		"MaxBurstLength=1024 MaxOutstandingR2T=100 MaxRecvDataSegmentLength=512",
		"HeaderDigest=CRC32C",
		"DataDigest=CRC32C",
		"HeaderDigest=CRC32C DataDigest=CRC32C InitialR2T=No MaxRecvDataSegmentLength=1536",
		"MaxRecvDataSegmentLength=262144 MaxBurstLength=1048576 FirstBurstLength=262144 InitialR2T=No",
		"DataPDUInOrder=No MaxRecvDataSegmentLength=512",
	} {
		for _, async := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/async=%v", keys, async), func(t *testing.T) {
				t.Parallel()
				d, target, disk := oneTarget()
				disk.async = async
				target.set(t, strings.Fields(keys)...)
				target.set(t, "MaxXmitDataSegmentLength=8192")
				_, p := testServer(t, d, nil)
				// What the target proposes is answered by itself; the segment length is the initiator's too.
				var own []string
				for _, kv := range strings.Fields(keys) {
					if strings.HasPrefix(kv, "MaxRecvDataSegmentLength") {
						own = append(own, kv)
					}
				}
				c := newClient(t, p, own...).ready()
				model := make([]byte, len(disk.bytes))
				random := rand.New(rand.NewPCG(1, 2))
				for _, count := range []int{1, 2, 3, 4, 7, 8, 16, 17, 64, 130, 512, 1024} {
					block := random.IntN(len(model)/512 - count)
					data := make([]byte, count*512)
					for i := range data {
						data[i] = byte(random.Uint32())
					}
					if r := c.run(write10(block, count), data); r.status != 0 || r.residual != (pdu.Residual{}) {
						t.Fatalf("write of %d blocks: status %02x, residual %v", count, r.status, r.residual)
					}
					copy(model[block*512:], data)
					r := c.run(read10(block, count), nil)
					if r.status != 0 || !bytes.Equal(r.data, data) {
						t.Fatalf("read of %d blocks: status %02x, %d bytes differ", count, r.status, len(r.data))
					}
				}
				if !disk.equals(model) {
					t.Error("the disk differs from the model")
				}
				c.quiet()
			})
		}
	}
}

// TestPipelined keeps many commands under way at once: property test against a byte slice. Commands that
// overlap are not under way together.
func TestPipelined(t *testing.T) {
	d, target, disk := oneTarget()
	disk.async = true
	target.set(t, "InitialR2T=No", "MaxOutstandingR2T=4", "MaxBurstLength=4096", "FirstBurstLength=2048")
	_, p := testServer(t, d, nil)
	c := newClient(t, p).ready()
	model := make([]byte, len(disk.bytes))
	rapid.Check(t, func(rt *rapid.T) {
		type op struct {
			write       bool
			block, size int
			data        []byte
		}
		under := map[uint32]op{}
		n := rapid.IntRange(1, 24).Draw(rt, "commands")
		block := 0
		for range n {
			o := op{write: rapid.Bool().Draw(rt, "write"), size: rapid.IntRange(1, 20).Draw(rt, "blocks")}
			o.block = block
			block += o.size
			if o.write {
				o.data = bytes.Repeat([]byte{rapid.Byte().Draw(rt, "fill")}, o.size*512)
				under[c.start(write10(o.block, o.size), o.data)] = o
				copy(model[o.block*512:], o.data)
			} else {
				under[c.start(read10(o.block, o.size), nil)] = o
			}
		}
		got := map[uint32][]byte{}
		for len(under) > 0 {
			u, err := c.recv()
			c.must(err)
			tag := u.Header.InitiatorTag()
			o, there := under[tag]
			if !there {
				rt.Fatalf("answer for tag %d, which is not under way", tag)
			}
			switch u.Header.Opcode() {
			case pdu.OpR2T:
				var r pdu.R2T
				r.Decode(&u.Header)
				c.must(c.sendBurst(&r, o.data, c.segment))
				continue
			case pdu.OpDataIn:
				got[tag] = append(got[tag], u.Data...)
				if u.Header[1]&1 == 0 {
					continue
				}
				if want := model[o.block*512 : (o.block+o.size)*512]; !bytes.Equal(got[tag], want) {
					rt.Fatalf("read of block %d differs", o.block)
				}
			case pdu.OpSCSIResponse:
				if u.Header[3] != 0 {
					rt.Fatalf("status %02x", u.Header[3])
				}
			}
			delete(under, tag)
		}
	})
	if !disk.equals(model) {
		t.Error("the disk differs from the model")
	}
}

// TestDataInShape: pieces of the initiator's size, F at the end of each burst, status in the last.
func TestDataInShape(t *testing.T) {
	d, target, _ := oneTarget()
	target.set(t, "MaxBurstLength=3072")
	_, p := testServer(t, d, nil)
	c := newClient(t, p, "MaxRecvDataSegmentLength=1024", "MaxBurstLength=3072").ready()
	r := c.run(read10(0, 9), nil)
	var shape []string
	for i, p := range r.dataIns {
		shape = append(shape, fmt.Sprintf("%d+%d F%d S%d", p.Offset, r.lengths[i], b2i(p.Final), b2i(p.HasStatus)))
	}
	want := "0+1024 F0 S0, 1024+1024 F0 S0, 2048+1024 F1 S0, 3072+1024 F0 S0, 4096+512 F1 S1"
	if got := strings.Join(shape, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestR2TShape: bursts of MaxBurstLength after what came unasked, as many outstanding as agreed on.
func TestR2TShape(t *testing.T) {
	d, target, _ := oneTarget()
	target.set(t, "MaxBurstLength=2048", "MaxOutstandingR2T=2", "FirstBurstLength=1024", "InitialR2T=No", "ImmediateData=No")
	_, p := testServer(t, d, nil)
	c := newClient(t, p).ready()
	out := make([]byte, 7*1024)
	tag := c.start(write10(0, 14), out)
	var r2ts []pdu.R2T
	for range 2 {
		u, err := c.recv()
		c.must(err)
		var r pdu.R2T
		r.Decode(&u.Header)
		r2ts = append(r2ts, r)
	}
	c.quiet() // no third one before one of these is answered
	for i, want := range []string{"0 1024+2048", "1 3072+2048"} {
		r := &r2ts[i]
		if got := fmt.Sprintf("%d %d+%d", r.R2TSN, r.Offset, r.Length); got != want || r.InitiatorTag != tag {
			t.Errorf("R2T %d: %s, want %s", i, got, want)
		}
		c.must(c.sendBurst(r, out, 512))
	}
	c.earlier = len(r2ts)
	if r := c.finish(tag, out); r.status != 0 || len(r.r2ts) != 1 || r.r2ts[0].Offset != 5120 || r.r2ts[0].Length != 2048 {
		t.Errorf("third R2T: %+v, status %02x", r.r2ts, r.status)
	}
}

func TestResiduals(t *testing.T) {
	d, _, _ := oneTarget()
	_, p := testServer(t, d, nil)
	c := newClient(t, p).ready()
	for _, x := range []struct {
		req  pdu.SCSICommand
		edtl uint32
		want pdu.Residual
		data int
	}{
		{read10(0, 1), 0, pdu.Residual{Overflow: true, Count: 512}, 0},
		{read10(0, 1), 200, pdu.Residual{Overflow: true, Count: 312}, 200},
		{read10(0, 1), 10000, pdu.Residual{Underflow: true, Count: 9488}, 512},
		{read10(0, 2), 1024, pdu.Residual{}, 1024},
		{read10(99999999, 1), 512, pdu.Residual{Underflow: true, Count: 512}, 0},
		{write10(0, 1), 0, pdu.Residual{Overflow: true, Count: 512}, 0},
		{write10(0, 1), 1024, pdu.Residual{Underflow: true, Count: 512}, 0},
		{write10(0, 2), 512, pdu.Residual{Overflow: true, Count: 512}, 0},
	} {
		x.req.ExpectedLength = x.edtl
		var out []byte
		if x.req.Write {
			out = make([]byte, x.edtl)
		}
		r := c.run(x.req, out)
		if r.residual != x.want || len(r.data) != x.data {
			t.Errorf("%02x, %d bytes expected: residual %+v, %d bytes of data; want %+v, %d",
				x.req.CDB[0], x.edtl, r.residual, len(r.data), x.want, x.data)
		}
	}
}

// TestDataOutErrors: each of these ends the connection, after a Reject.
func TestDataOutErrors(t *testing.T) {
	for _, x := range []struct {
		what   string
		change func(*pdu.DataOut, *pdu.PDU)
	}{
		{"offset below the burst", func(d *pdu.DataOut, _ *pdu.PDU) { d.Offset = 0 }},
		{"offset beyond", func(d *pdu.DataOut, _ *pdu.PDU) { d.Offset = 0xffffff00 }},
		{"hole", func(d *pdu.DataOut, _ *pdu.PDU) { d.Offset += 512 }},
		{"transfer tag", func(d *pdu.DataOut, _ *pdu.PDU) { d.TargetTag ^= 0x55 }},
		{"unsolicited", func(d *pdu.DataOut, _ *pdu.PDU) { d.TargetTag = pdu.NoTag }},
		{"too much", func(_ *pdu.DataOut, u *pdu.PDU) { u.Data = make([]byte, 4096) }},
		{"F too early", func(d *pdu.DataOut, u *pdu.PDU) { u.Data = u.Data[:512]; d.Final = true }},
		{"longer than a segment may be", func(_ *pdu.DataOut, u *pdu.PDU) { u.Data = make([]byte, 8196) }},
	} {
		t.Run(x.what, func(t *testing.T) {
			d, target, disk := oneTarget()
			target.set(t, "FirstBurstLength=512")
			_, p := testServer(t, d, nil)
			c := newClient(t, p).ready()
			arrived := disk.watch(1)
			c.start(write10(0, 4), make([]byte, 2048))
			u, err := c.recv()
			c.must(err)
			var r pdu.R2T
			r.Decode(&u.Header)
			out := pdu.DataOut{Final: true, InitiatorTag: r.InitiatorTag, TargetTag: r.TargetTag, Offset: r.Offset}
			piece := pdu.PDU{Data: make([]byte, r.Length)}
			x.change(&out, &piece)
			out.Encode(&piece.Header)
			c.must(c.send(&piece))
			before := c.ended()
			if len(before) != 1 || before[0].Header.Opcode() != pdu.OpReject ||
				!bytes.Equal(before[0].Data, piece.Header[:]) {
				t.Errorf("before the end: %v", before)
			}
			if len(arrived) > 0 {
				t.Error("the write was executed")
			}
		})
	}
}

// TestDataOutOfSequence: a command whose Data-Out PDUs are not numbered in order fails, when all have come,
// and the connection goes on.
func TestDataOutOfSequence(t *testing.T) {
	for _, keys := range []string{"ImmediateData=No", "ImmediateData=No InitialR2T=No"} {
		for _, numbers := range [][]uint32{{0, 0, 0}, {27, 28, 29}, {0, 1, 0xffffffff}, {2, 1, 0}, {1, 2, 3}} {
			d, target, disk := oneTarget()
			target.set(t, strings.Fields(keys)...)
			_, p := testServer(t, d, nil)
			c := newClient(t, p).ready()
			arrived := disk.watch(1)
			req := write10(0, 3)
			req.Final, req.InitiatorTag, req.CmdSN = c.r2t, 5, c.cmdSN
			c.cmdSN++
			var u pdu.PDU
			req.Encode(&u.Header)
			c.must(c.send(&u))
			r2t := pdu.R2T{TargetTag: pdu.NoTag}
			if c.r2t {
				a, err := c.recv()
				c.must(err)
				r2t.Decode(&a.Header)
			}
			for i, sn := range numbers {
				c.quiet() // no status before the last one
				out := pdu.DataOut{Final: i == 2, InitiatorTag: 5, TargetTag: r2t.TargetTag, DataSN: sn, Offset: uint32(i * 512)}
				u := pdu.PDU{Data: make([]byte, 512)}
				out.Encode(&u.Header)
				c.must(c.send(&u))
			}
			c.earlier = b2i(c.r2t)
			if r := c.finish(5, nil); r.status != 2 || r.sense[2] != 0x0b || r.sense[12] != 0x47 || r.sense[13] != 5 {
				t.Errorf("%s, DataSN %v: status %02x, sense %x", keys, numbers, r.status, r.sense)
			}
			if len(arrived) > 0 {
				t.Error("the write was executed")
			}
			c.earlier = 0
			if r := c.run(tur(), nil); r.status != 0 {
				t.Errorf("afterwards: status %02x", r.status)
			}
		}
	}
}

// TestRefusedData: data that was not agreed on, or that is too much, is passed over and the command gets
// the sense of RFC 7143 11.4.7.2 or a status to try again. The connection goes on.
func TestRefusedData(t *testing.T) {
	d, target, disk := oneTarget()
	target.set(t, "ImmediateData=No")
	_, p := testServer(t, d, func(o *Options) { o.MaxTransfer, o.MaxSessionBytes = 64<<10, 64<<10 })
	c := newClient(t, p).ready()
	c.immediate = true // against the agreement
	if r := c.run(write10(0, 1), make([]byte, 512)); r.status != 2 || r.sense[2] != 0x0b || r.sense[12] != 0x0c || r.sense[13] != 0x0c {
		t.Errorf("immediate data: status %02x, sense %x", r.status, r.sense)
	}
	c.immediate, c.r2t = false, false // unsolicited Data-Out against InitialR2T=Yes
	if r := c.run(write10(0, 8), make([]byte, 4096)); r.status != 2 || r.sense[12] != 0x0c {
		t.Errorf("unsolicited data: status %02x, sense %x", r.status, r.sense)
	}
	c.r2t = true
	if r := c.run(read10(0, 256), nil); r.status != 2 || r.sense[2] != 5 || r.sense[12] != 0x55 || r.sense[13] != 3 {
		t.Errorf("a read of 128 KiB: status %02x, sense %x", r.status, r.sense)
	}
	disk.mu.Lock()
	disk.hold = func(*sam.Command) bool { return true }
	disk.mu.Unlock()
	first := c.start(read10(0, 100), nil)
	eventually(t, "the read arrives", func() bool { return disk.held() == 1 })
	if r := c.run(read10(0, 100), nil); r.status != byte(sam.TaskSetFull) {
		t.Errorf("beyond the session's memory: status %02x", r.status)
	}
	disk.letGo()
	if r := c.finish(first, nil); r.status != 0 {
		t.Errorf("the first read: status %02x", r.status)
	}
	if r := c.run(read10(0, 100), nil); r.status != 0 {
		t.Errorf("after it: status %02x", r.status)
	}
}

// TestMalformedCommands: each of these ends the connection, after a Reject, and nothing is executed.
func TestMalformedCommands(t *testing.T) {
	for _, x := range []struct {
		what   string
		change func(*pdu.SCSICommand, *pdu.PDU)
	}{
		{"more data than expected", func(_ *pdu.SCSICommand, u *pdu.PDU) { u.Data = make([]byte, 1024) }},
		{"data for a read", func(c *pdu.SCSICommand, _ *pdu.PDU) { c.Read, c.Write = true, false }},
		{"unknown additional header", func(_ *pdu.SCSICommand, u *pdu.PDU) { u.AHS = []byte{0, 1, 9, 0} }},
		{"additional header cut short", func(_ *pdu.SCSICommand, u *pdu.PDU) { u.AHS = []byte{0, 9, 1, 0} }},
		{"segment too long", func(_ *pdu.SCSICommand, u *pdu.PDU) { u.Data = make([]byte, 8193) }},
	} {
		d, _, disk := oneTarget()
		_, p := testServer(t, d, nil)
		c := newClient(t, p).ready()
		arrived := disk.watch(1)
		req, u := write10(0, 1), pdu.PDU{Data: make([]byte, 512)}
		req.Final, req.InitiatorTag, req.CmdSN = true, 5, c.cmdSN
		x.change(&req, &u)
		req.Encode(&u.Header)
		c.must(c.send(&u))
		if before := c.ended(); len(before) != 1 || before[0].Header.Opcode() != pdu.OpReject {
			t.Errorf("%s: before the end: %v", x.what, before)
		}
		if len(arrived) > 0 {
			t.Errorf("%s: executed", x.what)
		}
	}
}

// TestLateDataIsPassedOver: Data-Out for a command that has ended does no harm.
func TestLateDataIsPassedOver(t *testing.T) {
	d, _, _ := oneTarget()
	_, p := testServer(t, d, nil)
	c := newClient(t, p).ready()
	late := pdu.DataOut{Final: true, InitiatorTag: 4711, TargetTag: 5}
	u := pdu.PDU{Data: make([]byte, 1001)}
	late.Encode(&u.Header)
	c.must(c.send(&u))
	c.ping()
}

// TestDigestErrors: a PDU that was damaged on the way ends the connection.
func TestDigestErrors(t *testing.T) {
	for at, what := range map[int]string{20: "header", 60: "data"} {
		t.Run(what, func(t *testing.T) {
			d, target, disk := oneTarget()
			target.set(t, "HeaderDigest=CRC32C", "DataDigest=CRC32C")
			_, p := testServer(t, d, nil)
			c := newClient(t, p).ready()
			arrived := disk.watch(1)
			req := write10(0, 1)
			req.Final, req.CmdSN = true, c.cmdSN
			u := pdu.PDU{Data: make([]byte, 512)}
			req.Encode(&u.Header)
			b := u.Append(nil, c.digests)
			b[at] ^= 1
			_, err := c.nc.Write(b)
			c.must(err)
			if before := c.ended(); len(before) != 0 {
				t.Errorf("before the end: %v", before)
			}
			if len(arrived) > 0 {
				t.Error("the write was executed")
			}
		})
	}
}

// TestExtendedCDB: additional header segments reach the command.
func TestExtendedCDB(t *testing.T) {
	d, _, disk := oneTarget()
	_, p := testServer(t, d, nil)
	c := newClient(t, p).ready()
	var cdb []byte
	var in, out uint32
	disk.mu.Lock()
	disk.hold = func(c *sam.Command) bool {
		cdb, in, out = append([]byte(nil), c.CDB...), c.InBytes, c.OutBytes
		return false
	}
	disk.mu.Unlock()
	req := pdu.SCSICommand{Final: true, Read: true, Write: true, LUN: lun1(), InitiatorTag: 99, ExpectedLength: 8, CmdSN: c.cmdSN}
	req.CDB[0] = 0x7f
	u := pdu.PDU{AHS: pdu.AppendAHS(nil, bytes.Repeat([]byte{7}, 17), 4096, true), Data: make([]byte, 8)}
	req.Encode(&u.Header)
	c.cmdSN++
	c.must(c.send(&u))
	if r := c.finish(99, nil); r.status != 2 {
		t.Errorf("status %02x", r.status)
	}
	disk.mu.Lock()
	defer disk.mu.Unlock()
	if len(cdb) != 33 || cdb[0] != 0x7f || cdb[32] != 7 || in != 4096 || out != 8 {
		t.Errorf("CDB % x, in %d, out %d", cdb, in, out)
	}
}

// TestSlowReader: an initiator that does not read for a while gets everything in the end, and until then
// nobody waits for it.
func TestSlowReader(t *testing.T) {
	d, target, disk := oneTarget()
	disk.async = true
	target.set(t, "MaxBurstLength=1048576")
	srv, p := testServer(t, d, nil)
	c := newClient(t, p, "MaxRecvDataSegmentLength=262144", "MaxBurstLength=1048576").ready()
	for i := range disk.bytes {
		disk.bytes[i] = byte(i / 512)
	}
	var tags []uint32
	for range 60 {
		tags = append(tags, c.start(read10(0, 2000), nil))
	}
	// Another session is served meanwhile.
	other := newClient(t, p, "--isid 800000000002").ready()
	if r := other.run(read10(0, 8), nil); r.status != 0 {
		t.Fatalf("other session: status %02x", r.status)
	}
	got := map[uint32][]byte{}
	for done := 0; done < len(tags); {
		u, err := c.recv()
		c.must(err)
		tag := u.Header.InitiatorTag()
		got[tag] = append(got[tag], u.Data...)
		done += int(u.Header[1] & 1)
	}
	for _, tag := range tags {
		if !bytes.Equal(got[tag], disk.bytes[:2000*512]) {
			t.Fatalf("command %d: %d bytes that differ", tag, len(got[tag]))
		}
	}
	if n := len(srv.Sessions(-1)); n != 2 {
		t.Errorf("%d sessions", n)
	}
}

// TestNoAllocationPerCommand measures reads and writes of 4 KiB over a socket, without error recovery, with it, and in
// a session that may have several connections.
func TestNoAllocationPerCommand(t *testing.T) {
	for _, keys := range []string{"", "ErrorRecoveryLevel=1", "MaxConnections=2"} {
		t.Run(keys, func(t *testing.T) { measureAllocations(t, strings.Fields(keys)) })
	}
}

func measureAllocations(t *testing.T, keys []string) {
	d := &fakeDirectory{}
	target := d.add(testTarget)
	target.disk = &nullDisk{data: make([]byte, 4096)}
	target.set(t, keys...)
	_, p := testServer(t, d, nil)
	c := newClient(t, p, keys...)
	recovery := slices.Contains(keys, "ErrorRecoveryLevel=1")
	answer := make([]byte, 4096+2*pdu.HeaderSize)
	for _, x := range []struct {
		what string
		req  pdu.SCSICommand
		data int
		back int
	}{
		{"read", read10(0, 8), 0, 4096 + pdu.HeaderSize},
		{"write", write10(0, 8), 4096, pdu.HeaderSize},
		{"error", tur(), 0, pdu.HeaderSize + 20},
	} {
		u := pdu.PDU{Data: make([]byte, x.data)}
		if recovery && x.what == "read" {
			x.back += pdu.HeaderSize // the status comes by itself
		}
		x.req.Final, x.req.Attribute, x.req.InitiatorTag = true, 1, 7
		buf := make([]byte, 0, 8192)
		round := func() {
			x.req.CmdSN = c.cmdSN
			c.cmdSN++
			x.req.ExpStatSN = c.expStat
			c.expStat++
			x.req.Encode(&u.Header)
			buf = u.Append(buf[:0], pdu.Digests{})
			if _, err := c.nc.Write(buf); err != nil {
				t.Fatal(err)
			}
			for n := 0; n < x.back; {
				k, err := c.nc.Read(answer[n:x.back])
				if err != nil {
					t.Fatal(err)
				}
				n += k
			}
		}
		for range 100 {
			round()
		}
		// The rest is the garbage collector emptying pools.
		if n := testing.AllocsPerRun(2000, round); n >= 0.5 {
			t.Errorf("%s: %v allocations", x.what, n)
		}
	}
}

// nullDisk answers at once and allocates nothing.
type nullDisk struct{ data []byte }

var notReady = fixedSense(2, 4, 1)

func (n *nullDisk) Attach(*sam.Nexus) {}
func (n *nullDisk) Detach(*sam.Nexus) {}
func (n *nullDisk) Execute(c *sam.Command) {
	switch c.CDB[0] {
	case 0:
		c.Status, c.Sense = sam.CheckCondition, notReady
	case 0x28:
		c.DataIn, c.Moved = n.data[:c.InBytes], uint64(c.InBytes)
	case 0x2a:
		c.Moved = uint64(len(c.DataOut))
	}
	c.Done(c)
}
func (n *nullDisk) Manage(_ *sam.Nexus, _ sam.Function, _ sam.LUN, _ uint32, done func(sam.Response)) {
	done(sam.NotSupported)
}
