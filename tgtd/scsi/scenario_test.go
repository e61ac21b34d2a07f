package scsi

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/null"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/rdwr"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/ssc"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// TestScenarios runs the files of testdata. Those named after a number repeat the transcripts of the
// reference target with that number; a remark names each line in which this one answers otherwise. A step
// is written as the transcripts' probe takes it.
//
//	file NAME size=N [fill=HEX]     a file in a scratch folder
//	tape NAME mb=N [kind=data|clean|worm]
//	new lun=N [file=NAME] [type=disk|cd|tape|changer|osd] [store=rdwr|null] [blocksize=N]
//	update lun=N                    the parameter string in the next line
//	delete lun=N
//	show lun=N [only=WORD]
//	isc [session=NAME] [name=IQN] [isid=HEX]   steps, one a line or several; a named session stays
//	close session=NAME
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		s := &scenario{t: t, target: NewTarget(1), dir: t.TempDir(), sessions: map[string]*initiator{}}
		datadriven.RunTest(t, path, s.run)
		for _, i := range s.sessions {
			i.detach()
		}
		for _, u := range s.target.Units() {
			if err := u.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

type scenario struct {
	t        *testing.T
	target   *Target
	dir      string
	sessions map[string]*initiator
	number   uint64
}

func (s *scenario) run(t *testing.T, d *datadriven.TestData) string {
	var lun uint64
	var name, only string
	d.MaybeScanArgs(t, "lun", &lun)
	d.MaybeScanArgs(t, "only", &only)
	switch d.Cmd {
	case "file":
		name = d.CmdArgs[0].Key
		var size int
		d.ScanArgs(t, "size", &size)
		content := make([]byte, size)
		var fill string
		if d.MaybeScanArgs(t, "fill", &fill); fill != "" {
			copy(content, strings.Repeat(string(unhex(fill)), size/(len(fill)/2)+1))
		}
		must(t, os.WriteFile(filepath.Join(s.dir, name), content, 0o644))
		return ""
	case "tape":
		name = d.CmdArgs[0].Key
		var megabytes int64
		kind := "data"
		d.ScanArgs(t, "mb", &megabytes)
		d.MaybeScanArgs(t, "kind", &kind)
		medium := map[string]ssc.Medium{"data": ssc.DataMedium, "clean": ssc.CleaningMedium, "worm": ssc.WORMMedium}[kind]
		image, err := ssc.Blank(name, medium, megabytes, time.Unix(1, 0))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(s.dir, name), image, 0o644))
		return ""
	case "new":
		return s.add(t, d, lun)
	case "update":
		params := strings.ReplaceAll(strings.TrimSuffix(d.Input, "\n"), "@DIR@", s.dir)
		return s.outcome(s.target.Unit(lun).Update(params))
	case "delete":
		u, err := s.target.RemoveUnit(lun)
		if err == nil {
			err = u.Close()
		}
		return s.outcome(err)
	case "show":
		return s.show(lun, only)
	case "isc":
		return s.isc(t, d)
	case "close":
		d.ScanArgs(t, "session", &name)
		s.sessions[name].detach()
		delete(s.sessions, name)
		return ""
	}
	d.Fatalf(t, "unknown command %s", d.Cmd)
	return ""
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *scenario) outcome(err error) string {
	if err == nil {
		return "ok\n"
	}
	return "error: " + strings.ReplaceAll(err.Error(), s.dir, "@DIR@") + "\n"
}

func (s *scenario) add(t *testing.T, d *datadriven.TestData, lun uint64) string {
	kinds := map[string]DeviceType{"disk": Disk, "cd": CD, "tape": Tape, "changer": Changer, "osd": OSD}
	kind := "disk"
	d.MaybeScanArgs(t, "type", &kind)
	o := UnitOptions{Type: kinds[kind], TID: 1, LUN: lun, StoreName: "rdwr"}
	o.Peer = func(_ int, lun uint64) *Unit { return s.target.Unit(lun) }
	d.MaybeScanArgs(t, "blocksize", &o.BlockSize)
	d.MaybeScanArgs(t, "store", &o.StoreName)
	if d.MaybeScanArgs(t, "file", &o.Path); o.Path != "" {
		o.Path = filepath.Join(s.dir, o.Path)
	}
	o.Open = func(path string) (backstore.Store, error) {
		options := backstore.Options{Path: path, BlockSize: o.BlockSize}
		if o.Type == Tape {
			return ssc.Open(options)
		}
		if o.StoreName == null.Name {
			return null.Open(options)
		}
		return rdwr.Open(options)
	}
	u, err := NewUnit(o)
	if err != nil {
		return s.outcome(err)
	}
	if err := s.target.AddUnit(lun, u); err != nil {
		must(t, u.Close())
		return s.outcome(err)
	}
	return "ok\n"
}

// show prints a unit as tgtadm does.
func (s *scenario) show(lun uint64, only string) string {
	i := s.target.Unit(lun).Show()
	yes := func(b bool) string { return map[bool]string{true: "Yes", false: "No"}[b] }
	size := uint64(i.Bytes)
	mb := (size/512 - ((size/512)/625 - 974)) / 1950
	path := "None"
	if i.Path != "" {
		path = strings.ReplaceAll(i.Path, s.dir, "@DIR@")
	}
	var b strings.Builder
	for _, line := range []string{
		fmt.Sprintf("LUN: %d", i.LUN), "Type: " + i.Type.String(), "SCSI ID: " + i.SCSIID,
		"SCSI SN: " + i.SCSISN, fmt.Sprintf("Size: %d MB, Block size: %d", mb, i.BlockSize),
		"Online: " + yes(i.Online), "Removable media: " + yes(i.Removable),
		"Prevent removal: " + yes(i.PreventRemoval), "Readonly: " + yes(i.ReadOnly), "SWP: " + yes(i.SWP),
		"Thin-provisioning: " + yes(i.Thin), "Backing store type: " + i.StoreName,
		"Backing store path: " + path, "Backing store flags:" + i.Flags,
	} {
		if only == "" || strings.HasPrefix(line, only) {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// isc runs steps of the transcripts' probe on a session.
func (s *scenario) isc(t *testing.T, d *datadriven.TestData) string {
	name, iqn, isid := "", "iqn.2000-01.probe:i", "800000000001"
	d.MaybeScanArgs(t, "session", &name)
	d.MaybeScanArgs(t, "name", &iqn)
	d.MaybeScanArgs(t, "isid", &isid)
	i := s.sessions[name]
	if i == nil {
		s.number++
		i = attachISID(t, s.target, s.number, iqn, [6]byte(unhex(isid)))
		if name != "" {
			s.sessions[name] = i
		} else {
			defer i.detach()
		}
	}
	var b strings.Builder
	for _, step := range strings.Fields(d.Input) {
		p := &probe{i: i, b: &b}
		p.step(step)
	}
	return b.String()
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// pattern is HEX or HEX*COUNT.
func pattern(s string) []byte {
	digits, count, repeated := strings.Cut(s, "*")
	if !repeated {
		return unhex(digits)
	}
	n, err := strconv.Atoi(count)
	if err != nil {
		panic(err)
	}
	return []byte(strings.Repeat(string(unhex(digits)), n))
}

// probe prints what the transcripts' probe prints.
type probe struct {
	i *initiator
	b *strings.Builder
}

func (p *probe) printf(format string, args ...any) { fmt.Fprintf(p.b, format, args...) }

func (p *probe) step(step string) {
	f := strings.Split(step, ":")
	var lun uint64
	if len(f) > 1 {
		n, err := strconv.ParseUint(f[1], 10, 64)
		must(p.i.t, err)
		lun = n
	}
	switch f[0] {
	case "vpd":
		r := p.i.do(lun, unhex("12010000ff00"), 255, nil)
		p.printf("%s -> %s\n  pages: % x\n", step, p.result(r, -1), r.data[4:])
		for _, page := range r.data[5:] {
			r := p.i.do(lun, []byte{0x12, 1, page, 0, 255, 0}, 255, nil)
			p.printf("  page %02x -> %s\n", page, p.result(r, -1))
			p.dump(r.data)
		}
	case "modes":
		for control := range byte(2) {
			r := p.i.do(lun, []byte{0x5a, 0, control<<6 | 0x3f, 0, 0, 0, 0, 4, 0, 0}, 1024, nil)
			p.printf("%s pc=%d -> %s\n", step, control, p.result(r, -1))
			if r.status == sam.Good {
				p.modes(r.data)
			}
		}
	case "sup":
		r := p.i.do(lun, unhex("a30c00000000000010000000"), 4096, nil)
		p.printf("%s -> %s\n", step, p.result(r, -1))
		for at := 4; at < len(r.data); at += 8 {
			c := r.data[at:]
			service := ""
			if c[5]&1 != 0 {
				service = fmt.Sprintf(" sa %02x%02x", c[2], c[3])
			}
			p.printf("  op %02x%s cdblen %d\n", c[0], service, int(c[6])<<8|int(c[7]))
		}
	case "ops":
		writes := unhex("04070a0b10112a2e3b3f4142555f898a8b8e8f939faaae152f35af91")
		for op := range 256 {
			in := 255
			if strings.IndexByte(string(writes), byte(op)) >= 0 {
				in = 0
			}
			if r := p.i.do(lun, []byte{byte(op)}, in, nil); r.code() != invalidOpcode {
				p.printf("op %02x -> %s\n", op, p.result(r, -1))
			}
		}
	case "tmf":
		n, err := strconv.Atoi(f[1])
		must(p.i.t, err)
		lun, err := strconv.ParseUint(f[2], 10, 64)
		must(p.i.t, err)
		answer := make(chan sam.Response, 2)
		p.i.target.Manage(p.i.nexus, sam.Function(n), sam.LUN(lun), 0xffffffff, func(r sam.Response) { answer <- r })
		p.printf("%s -> opcode=22 response=%d\n", step, <-answer)
	default:
		cdb, in, out := p.command(f)
		r := p.i.do(lun, cdb, in, out)
		p.printf("%s -> %s\n", step, p.result(r, max(in, len(out))))
		if r.status == sam.Good {
			p.dump(r.data)
		}
	}
}

// command builds the CDB of a step.
func (p *probe) command(f []string) (cdb []byte, in int, out []byte) {
	switch f[0] {
	case "cmd":
		for _, x := range f[3:] {
			if v, ok := strings.CutPrefix(x, "in="); ok {
				n, err := strconv.Atoi(v)
				must(p.i.t, err)
				in = n
			} else if v, ok := strings.CutPrefix(x, "out="); ok {
				out = pattern(v)
			}
		}
		return unhex(f[2]), in, out
	case "inq":
		if len(f) > 2 {
			return []byte{0x12, 1, unhex(f[2])[0], 0, 255, 0}, 255, nil
		}
		return unhex("12000000ff00"), 255, nil
	case "tur":
		return make([]byte, 6), 0, nil
	case "rs":
		return unhex("030000006000"), 96, nil
	case "luns":
		return unhex("a00000000000000004000000"), 1024, nil
	case "cap":
		return unhex("25000000000000000000"), 8, nil
	case "cap16":
		return unhex("9e100000000000000000000000200000"), 32, nil
	case "ms":
		page, sub := fmt.Sprintf("%02s", f[2]), "00"
		if len(f) > 3 {
			sub = fmt.Sprintf("%02s", f[3])
		}
		return unhex("5a00" + page + sub + "000000010000"), 256, nil
	}
	p.i.t.Fatalf("unknown step %v", f)
	return nil, 0, nil
}

// modes prints mode data page by page.
func (p *probe) modes(b []byte) {
	p.printf("  header %x\n", b[:8])
	at := 8 + (int(b[6])<<8 | int(b[7]))
	p.printf("  block descriptor %x\n", b[8:at])
	for at < len(b) {
		n := 2 + int(b[at+1])
		if b[at]&0x40 != 0 {
			n = 4 + (int(b[at+2])<<8 | int(b[at+3]))
		}
		p.printf("  page %x\n", b[at:at+n])
		at += n
	}
}

// result prints status, residual against what was expected (−1: not printed) and sense.
func (p *probe) result(r result, expected int) string {
	text, ok := map[sam.Status]string{
		sam.Good: "GOOD", sam.CheckCondition: "CHECK CONDITION", sam.ConditionMet: "CONDITION MET",
		sam.Busy: "BUSY", sam.ReservationConflict: "RESERVATION CONFLICT", sam.TaskSetFull: "TASK SET FULL",
	}[r.status]
	if !ok {
		text = fmt.Sprintf("%02x", byte(r.status))
	}
	switch {
	case expected < 0 || r.moved == uint64(expected):
	case r.moved < uint64(expected):
		text += fmt.Sprintf(" underflow=%d", uint64(expected)-r.moved)
	default:
		text += fmt.Sprintf(" overflow=%d", r.moved-uint64(expected))
	}
	if r.sense != nil {
		format := ""
		if r.sense[0]&0x7e == 0x72 {
			format = "(desc)"
		}
		c := r.code()
		text += fmt.Sprintf(" sense%s key=%x asc=%02x%02x raw=%x", format, c.key(), c.asc(), c.ascq(), r.sense)
	}
	return text
}

func (p *probe) dump(b []byte) {
	last, star := "", false
	for at := 0; at < len(b); at += 16 {
		c := string(b[at:min(at+16, len(b))])
		if c == last && at+16 < len(b) {
			if !star {
				p.printf("  *\n")
			}
			star = true
			continue
		}
		last, star = c, false
		text := []byte(c)
		for i, x := range text {
			if x < 32 || x > 126 {
				text[i] = '.'
			}
		}
		p.printf("  %04x %-48s %s\n", at, fmt.Sprintf("% x", c), text)
	}
}
