package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/ssc"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/initiator"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// deviceRig is a daemon in this process with a target, and a session on it.
type deviceRig struct {
	t    *testing.T
	dir  string
	path string // of the management socket
	s    *initiator.Session
}

// newDeviceRig starts a daemon with a target that has no units yet.
func newDeviceRig(t *testing.T) *deviceRig {
	t.Helper()
	r := &deviceRig{t: t, dir: t.TempDir()}
	base := filepath.Join(t.TempDir(), "s")
	t.Setenv(mgmt.BaseEnv, base)
	var complaints bytes.Buffer
	o := options{foreground: true, controlPort: 6, threads: 2, iscsi: driverOptions{portals: []string{"127.0.0.1:0"}}}
	status := make(chan int)
	go func() { status <- run(o, &complaints, nil) }()
	r.path = base + ".6"
	if !until(func() bool { _, err := os.Stat(r.path); return err == nil }) {
		t.Fatal("no management socket")
	}
	t.Cleanup(func() {
		if r.s != nil {
			r.s.Close()
		}
		r.ask(mgmt.Request{Mode: mgmt.ModeTarget, Op: mgmt.OpDelete, TID: 1, Force: true})
		r.ask(mgmt.Request{Mode: mgmt.ModeSystem, Op: mgmt.OpDelete})
		if got := <-status; got != 0 {
			t.Errorf("the daemon ended with %d\n%s", got, complaints.String())
		}
	})
	r.ask(mgmt.Request{Mode: mgmt.ModeTarget, Op: mgmt.OpNew, TID: 1, Params: "targetname=iqn.x:a"})
	r.ask(mgmt.Request{Mode: mgmt.ModeTarget, Op: mgmt.OpBind, TID: 1, Params: "initiator-address=ALL"})
	return r
}

// ask makes a management request that must succeed.
func (r *deviceRig) ask(q mgmt.Request) string {
	r.t.Helper()
	a, err := mgmt.Call(context.Background(), r.path, q)
	if err != nil || a.Err != mgmt.Success {
		r.t.Fatalf("%v %v %s: %v, %v", q.Op, q.Mode, q.Params, err, a.Err)
	}
	return a.Text
}

func (r *deviceRig) login() {
	r.t.Helper()
	text := r.ask(mgmt.Request{Mode: mgmt.ModePortal, Op: mgmt.OpShow})
	portal, _, _ := strings.Cut(strings.TrimPrefix(text, "Portal: "), ",")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := initiator.Login(ctx, initiator.Options{Portal: portal, Target: "iqn.x:a", Initiator: "iqn.x:i"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.s = s
}

// do sends a command and returns its sense code, 0 for GOOD, and what came.
func (r *deviceRig) do(lun uint64, cdb []byte, out []byte, room int) (int, []byte) {
	r.t.Helper()
	t := &initiator.Task{LUN: lun, Out: out, In: make([]byte, room)}
	copy(t.CDB[:], cdb)
	err := r.s.Do(t)
	var status *initiator.StatusError
	if errors.As(err, &status) {
		return status.Key() | int(status.Sense[2]&0xf0)<<20, t.In[:t.Moved]
	}
	if err != nil {
		r.t.Fatalf("% x: %v", cdb, err)
	}
	return 0, t.In[:t.Moved]
}

// good is do for a command that must succeed.
func (r *deviceRig) good(lun uint64, cdb []byte, out []byte, room int) []byte {
	r.t.Helper()
	code, in := r.do(lun, cdb, out, room)
	if code != 0 {
		r.t.Fatalf("LUN %d, % x: sense %07x", lun, cdb, code)
	}
	return in
}

func (r *deviceRig) write(name string, content []byte) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), content, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *deviceRig) tape(name string) {
	r.t.Helper()
	b, err := ssc.Blank(name, ssc.DataMedium, 64, time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	r.write(name, b)
}

func (r *deviceRig) newUnit(lun uint64, device mgmt.DeviceType, params string) {
	r.t.Helper()
	r.ask(mgmt.Request{Mode: mgmt.ModeUnit, Op: mgmt.OpNew, TID: 1, LUN: lun, Device: device,
		Params: strings.ReplaceAll(params, "@DIR@", r.dir)})
}

func (r *deviceRig) update(lun uint64, params string) {
	r.t.Helper()
	r.ask(mgmt.Request{Mode: mgmt.ModeUnit, Op: mgmt.OpUpdate, TID: 1, LUN: lun,
		Params: strings.ReplaceAll(params, "@DIR@", r.dir)})
}

// Sense codes with the bits beside the key.
const (
	atFilemark = 0x8000001
	otherSize  = 0x2000000
	atEnd      = 0x4080000
)

// TestBackupToALibrary is what a backup program does with a changer and a drive: load, write two files, unload,
// load again, find the second file and read it with a buffer that is larger than its blocks.
func TestBackupToALibrary(t *testing.T) {
	r := newDeviceRig(t)
	r.tape("A00001")
	r.tape("A00002")
	r.write("library", make([]byte, 40))
	r.newUnit(1, mgmt.Tape, "")
	r.newUnit(2, mgmt.Changer, "path=@DIR@/library")
	for _, params := range []string{
		"media_home=@DIR@", "element_type=1,start_address=1,quantity=1", "element_type=2,start_address=1000,quantity=2",
		"element_type=4,start_address=500,quantity=1", "element_type=4,address=500,tid=1,lun=1",
		"element_type=2,address=1000,barcode=A00001", "element_type=2,address=1001,barcode=A00002",
	} {
		r.update(2, params)
	}
	r.login()
	for _, lun := range []uint64{1, 2} {
		if err := r.s.Ready(lun); err != nil && lun == 2 {
			t.Fatal(err)
		}
	}
	const rewind, marks, locate, space = 0x01, 0x10, 0x2b, 0x11
	move := func(from, to uint16) {
		t.Helper()
		cdb := []byte{0xa5, 0, 0, 1, byte(from >> 8), byte(from), byte(to >> 8), byte(to), 0, 0, 0, 0}
		r.good(2, cdb, nil, 0)
	}
	// Find the cartridge by its barcode.
	status := r.good(2, []byte{0xb8, 0x12, 0, 0, 0xff, 0xff, 0, 0, 4, 0, 0, 0}, nil, 1024)
	if !bytes.Contains(status, []byte("A00002")) {
		t.Fatalf("the element status does not tell of the cartridge:\n% x", status)
	}
	move(1001, 500)
	if err := r.s.Ready(1); err != nil {
		t.Fatal(err)
	}

	first, second := bytes.Repeat([]byte("first file "), 1000), bytes.Repeat([]byte("second file "), 3000)
	put := func(file []byte) {
		t.Helper()
		for b := range slicesOf(file, 10240) {
			r.good(1, []byte{0x0a, 0, byte(len(b) >> 16), byte(len(b) >> 8), byte(len(b)), 0}, b, 0)
		}
		r.good(1, []byte{marks, 0, 0, 0, 1, 0}, nil, 0)
	}
	put(first)
	where := binary.BigEndian.Uint32(r.good(1, []byte{0x34, 9: 0}, nil, 20)[4:])
	put(second)
	r.good(1, []byte{0x1b, 0, 0, 0, 0, 0}, nil, 0)
	move(500, 1001)
	if code, _ := r.do(1, []byte{0, 5: 0}, nil, 0); code != 0x023a00 {
		t.Errorf("the empty drive: %07x", code)
	}

	move(1001, 500)
	if err := r.s.Ready(1); err != nil {
		t.Fatal(err)
	}
	get := func() []byte {
		t.Helper()
		var file []byte
		for {
			code, b := r.do(1, []byte{0x08, 0, 1, 0, 0, 0}, nil, 65536)
			if code == atFilemark {
				return file
			}
			if code != otherSize {
				t.Fatalf("reading: sense %07x after %d bytes", code, len(file))
			}
			file = append(file, b...)
		}
	}
	cdb := []byte{locate, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(cdb[3:], where)
	r.good(1, cdb, nil, 0)
	if got := get(); !bytes.Equal(got, second) {
		t.Errorf("the second file reads as %d other bytes", len(got))
	}
	if code, _ := r.do(1, []byte{0x08, 0, 1, 0, 0, 0}, nil, 65536); code != atEnd {
		t.Errorf("at the end of data: %07x", code)
	}
	r.good(1, []byte{rewind, 5: 0}, nil, 0)
	if got := get(); !bytes.Equal(got, first) {
		t.Errorf("the first file reads as %d other bytes", len(got))
	}
	r.good(1, []byte{space, 1, 0xff, 0xff, 0xff, 0}, nil, 0)
	move(500, 1000+1)
}

// slicesOf cuts b into pieces of n bytes.
func slicesOf(b []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) > 0 {
			if !yield(b[:min(n, len(b))]) {
				return
			}
			b = b[min(n, len(b)):]
		}
	}
}

// TestBurnAndRead writes a disc, closes it, and reads it in another drive as a finished one.
func TestBurnAndRead(t *testing.T) {
	r := newDeviceRig(t)
	r.write("disc", nil)
	r.newUnit(1, mgmt.CD, "path=@DIR@/disc")
	r.login()
	if err := r.s.Ready(1); err != nil {
		t.Fatal(err)
	}
	profile := func() byte { return r.good(1, []byte{0x46, 8: 8, 9: 0}, nil, 8)[7] }
	if profile() != 0x1b {
		t.Errorf("a blank disc has profile %#x", profile())
	}
	image := bytes.Repeat([]byte("0123456789abcdef"), 64*2048/16)
	lba := byte(0)
	for b := range slicesOf(image, 16*2048) {
		r.good(1, []byte{0x2a, 0, 0, 0, 0, lba, 0, 0, 16, 0}, b, 0)
		lba += 16
	}
	r.good(1, []byte{0x35, 0x02, 9: 0}, nil, 0)
	r.good(1, []byte{0x5b, 0, 2, 9: 0}, nil, 0)
	if profile() != 0x10 {
		t.Errorf("a closed disc has profile %#x", profile())
	}
	r.good(1, []byte{0x1b, 0, 0, 0, 2, 0}, nil, 0)
	r.update(1, "path=@DIR@/disc")
	if err := r.s.Ready(1); err != nil {
		t.Fatal(err)
	}
	if c := r.good(1, []byte{0x25, 9: 0}, nil, 8); binary.BigEndian.Uint32(c) != 63 {
		t.Errorf("capacity % x", c)
	}
	if got := r.good(1, []byte{0xa8, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0}, nil, len(image)); !bytes.Equal(got, image) {
		t.Error("the disc reads as something else than was written")
	}
}

// TestAIODisk: a disk on the store aio.
func TestAIODisk(t *testing.T) {
	r := newDeviceRig(t)
	r.write("disk", make([]byte, 1<<20))
	r.newUnit(1, mgmt.Disk, "path=@DIR@/disk,bstype=aio")
	r.login()
	if err := r.s.Ready(1); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("aio."), 8192/4)
	r.good(1, []byte{0x2a, 0x08, 0, 0, 0, 3, 0, 0, 16, 0}, want, 0)
	if got := r.good(1, []byte{0x28, 0, 0, 0, 0, 3, 0, 0, 16, 0}, nil, len(want)); !bytes.Equal(got, want) {
		t.Error("the disk reads as something else than was written")
	}
	text := r.ask(mgmt.Request{Mode: mgmt.ModeTarget, Op: mgmt.OpShow, TID: mgmt.NoTID})
	if !strings.Contains(text, "Backing store type: aio\n") {
		t.Errorf("shown as\n%s", text)
	}
}
