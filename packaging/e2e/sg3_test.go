package e2e

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/packaging/rig"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
)

var rewriteSG3 = flag.Bool("rewrite-sg3", false, "write testdata/sg3 from what sg3_utils says")

// sg3Version is the release of sg3_utils whose words are in testdata/sg3. Another one puts things otherwise: with it
// the tools still have to understand everything, but their words are not compared.
const sg3Version = "1.46"

// sg3Units are the units whose answers sg3_utils reads.
var sg3Units = []struct{ name, kind, params string }{
	{"rdwr", "rdwr", ""},
	{"thin", "rdwr", "thin_provisioning=1,removable=1,lbppbe=3"},
	{"pss", "pss", ""},
}

// TestSG3 has the programs of sg3_utils that read hexadecimal read what our units answer: INQUIRY, every VPD and log
// page there is, GET LBA STATUS, and sense data. The other programs only open a SCSI device node, which an initiator in
// the kernel would have to make.
func TestSG3(t *testing.T) {
	dir := tempDir(t)
	programs := map[string]string{}
	for _, name := range []string{"sg_inq", "sg_vpd", "sg_logs", "sg_get_lba_status", "sg_decode_sense"} {
		programs[name] = tool(t, name, "sg3-utils")
	}
	cell, err := rig.NewCell(dir, suite.programs, rig.Servers(3, 0))
	must(t, err)
	t.Cleanup(cell.Close)
	must(t, cell.StartAll(limit(t)))
	must(t, cell.CreateVolume(limit(t), "disk", "64M"))
	target, err := rig.NewTarget(rig.TargetOptions{Dir: dir, Programs: suite.programs, Conf: cell.Conf})
	must(t, err)
	t.Cleanup(target.Close)
	must(t, target.Start(limit(t)))
	for i, u := range sg3Units {
		t.Run(u.name, func(t *testing.T) {
			name, path := "iqn.2001-03.jp.tritech:"+u.name, "disk"
			if u.kind != "pss" {
				path = filepath.Join(dir, u.name)
				must(t, os.WriteFile(path, nil, 0o600))
				must(t, os.Truncate(path, unitBytes))
			}
			must(t, target.AddUnit(limit(t), i+1, name, 1, u.kind, path, u.params))
			session, err := initiator.Login(limit(t), initiator.Options{Portal: target.Portal, Target: name, Initiator: initiatorName})
			must(t, err)
			defer session.Close()
			r := &sg3Reader{t: t, session: session, programs: programs}
			r.readAll()
			r.compare(filepath.Join("testdata", "sg3", u.name))
		})
	}
}

// sg3Reader collects what the decoders say of one unit.
type sg3Reader struct {
	t        *testing.T
	session  *initiator.Session
	programs map[string]string
	text     strings.Builder
}

func (r *sg3Reader) readAll() {
	r.sense("the first command of a session", []byte{0}, nil)
	r.ready()
	r.decode("INQUIRY", r.in(255, 0x12, 0, 0, 0, 255), "sg_inq", "--inhex=-")
	pages := r.in(255, 0x12, 1, 0, 0, 255)
	for _, page := range pages[4:] {
		r.decode(fmt.Sprintf("VPD page %02x", page), r.in(4096, 0x12, 1, page, 0x10, 0), "sg_vpd", "--inhex=-", "--long")
	}
	logs := r.in(255, 0x4d, 0, 0, 0, 0, 0, 0, 0, 255)
	for _, page := range logs[4:] {
		r.decode(fmt.Sprintf("log page %02x", page), r.in(255, 0x4d, 0, 0x40|page, 0, 0, 0, 0, 0, 255), "sg_logs", "--in=-")
	}
	// One block at the start is written, and the rest is as it was.
	task := initiator.Task{LUN: 1}
	task.SetWrite(0, 8, make([]byte, 4096))
	must(r.t, r.session.Do(&task))
	r.decode("GET LBA STATUS", r.in(1024, 0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0), "sg_get_lba_status", "--inhex=-", "--maxlen=1024")
	r.sense("a read beyond the end", []byte{0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0}, make([]byte, 512))
	r.sense("a command that is not there", []byte{0x24, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil)
	r.sense("a bad field", []byte{0x12, 1, 0x7f, 0, 255, 0}, make([]byte, 255))
}

// ready takes the unit attentions away.
func (r *sg3Reader) ready() {
	r.t.Helper()
	must(r.t, r.session.Ready(1))
}

// in carries a command out that has to end well, and returns its data.
func (r *sg3Reader) in(room int, cdb ...byte) []byte {
	r.t.Helper()
	task := initiator.Task{LUN: 1, In: make([]byte, room)}
	copy(task.CDB[:], cdb)
	if err := r.session.Do(&task); err != nil {
		r.t.Fatalf("% x: %v", cdb, err)
	}
	if len(cdb) > 0 && cdb[0] == 0x12 && cdb[1] == 1 && task.Moved != 4+int(binary.BigEndian.Uint16(task.In[2:])) {
		r.t.Errorf("VPD page %02x: %d bytes", cdb[2], task.Moved)
	}
	return task.In[:task.Moved]
}

// sense carries a command out that has to fail, and has its sense data read.
func (r *sg3Reader) sense(what string, cdb, in []byte) {
	r.t.Helper()
	task := initiator.Task{LUN: 1, In: in}
	copy(task.CDB[:], cdb)
	err := r.session.Do(&task)
	var status *initiator.StatusError
	if !errors.As(err, &status) || len(status.Sense) == 0 {
		r.t.Errorf("%s: %v, no sense data", what, err)
		return
	}
	r.decode("sense of "+what, status.Sense, "sg_decode_sense", "--file=-")
}

// decode has a program read an answer, and notes what it says.
func (r *sg3Reader) decode(what string, answer []byte, program string, args ...string) {
	r.t.Helper()
	var text strings.Builder
	for at := 0; at < len(answer); at += 16 {
		line := hex.EncodeToString(answer[at:min(at+16, len(answer))])
		for i := 0; i < len(line); i += 2 {
			text.WriteString(line[i:i+2] + " ")
		}
		text.WriteString("\n")
	}
	cmd := exec.CommandContext(limit(r.t), r.programs[program], args...)
	cmd.Stdin = strings.NewReader(text.String())
	said, err := cmd.CombinedOutput()
	out := string(said)
	if err != nil {
		r.t.Errorf("%s, %s: %v\n%s\n%s", what, program, err, out, text.String())
	}
	for _, complaint := range []string{"too short", "truncated", "malformed", "unable to decode", "not supported yet", "unexpected"} {
		if strings.Contains(strings.ToLower(out), complaint) {
			r.t.Errorf("%s, %s %s: complains\n%s%s", what, program, strings.Join(args, " "), out, text.String())
		}
	}
	fmt.Fprintf(&r.text, "== %s: %s %s\n%s\n", what, program, strings.Join(args, " "), strings.TrimRight(out, "\n"))
}

// compare holds what was said against the file.
func (r *sg3Reader) compare(file string) {
	r.t.Helper()
	have, err := rig.Run(limit(r.t), nil, "dpkg-query", "-W", "-f", "${Version}", "sg3-utils")
	if err != nil || !strings.HasPrefix(have, sg3Version) {
		leaveOut(r.t, fmt.Sprintf("sg3_utils %s is not %s: its words are not compared", strings.TrimSpace(have), sg3Version))
	}
	if *rewriteSG3 {
		must(r.t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(r.t, os.WriteFile(file, []byte(r.text.String()), 0o644))
		return
	}
	want, err := os.ReadFile(file)
	must(r.t, err)
	if got := r.text.String(); got != string(want) {
		wrong, wanted := firstDifference(got, string(want))
		r.t.Errorf("%s says %q, now sg3_utils says %q; -rewrite-sg3 writes it", file, wanted, wrong)
	}
}

// firstDifference gives the first lines that differ.
func firstDifference(a, b string) (string, string) {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range la {
		if i >= len(lb) || la[i] != lb[i] {
			return la[i], strings.Join(lb[min(i, len(lb)):min(i+1, len(lb))], "")
		}
	}
	return "", lb[len(la)]
}
