package sg

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// TestLayout: the structures are those of the kernel's 64-bit interface.
func TestLayout(t *testing.T) {
	for _, c := range []struct {
		what      string
		got, want uintptr
	}{
		{"sg_io_hdr", unsafe.Sizeof(headerV3{}), 88},
		{"sg_io_hdr.dxferp", unsafe.Offsetof(headerV3{}.data), 16},
		{"sg_io_hdr.usr_ptr", unsafe.Offsetof(headerV3{}.user), 56},
		{"sg_io_hdr.resid", unsafe.Offsetof(headerV3{}.residual), 72},
		{"sg_io_v4", unsafe.Sizeof(headerV4{}), 160},
		{"sg_io_v4.response", unsafe.Offsetof(headerV4{}.response), 48},
		{"sg_io_v4.timeout", unsafe.Offsetof(headerV4{}.timeout), 88},
		{"sg_io_v4.device_status", unsafe.Offsetof(headerV4{}.deviceStatus), 116},
		{"sg_io_v4.generated_tag", unsafe.Offsetof(headerV4{}.generatedTag), 144},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", c.what, c.got, c.want)
		}
	}
}

// memory is what an address of a header points to. The header comes as the kernel gets it.
func memory(address uint64, n uint32) []byte {
	if n == 0 {
		return nil
	}
	p := *(*unsafe.Pointer)(unsafe.Pointer(&address))
	return unsafe.Slice((*byte)(p), n)
}

// fake is a device that answers commands.
type fake struct {
	answer            func(cdb, out, in []byte) (status byte, sense []byte, residual int32)
	host, driver      uint32
	fail              error
	cdb, out          []byte
	timeout, requests uint32
}

func (f *fake) ioctl(_ int, request uint, p unsafe.Pointer) error {
	if f.requests++; request != ioctlSubmit || f.fail != nil {
		return f.fail
	}
	if *(*int32)(p) == interfaceV3 {
		h := (*headerV3)(p)
		var in, out []byte
		switch h.direction {
		case directionIn:
			in = memory(uint64(h.data), h.dataLen)
		case directionOut:
			out = memory(uint64(h.data), h.dataLen)
		}
		f.cdb, f.out, f.timeout = bytes.Clone(memory(uint64(h.cdb), uint32(h.cdbLen))), bytes.Clone(out), h.timeout
		status, sense, residual := f.answer(f.cdb, out, in)
		h.status, h.residual = status, residual
		h.senseLen = uint8(copy(memory(uint64(h.sense), uint32(h.maxSense)), sense))
		h.hostStatus, h.driverStatus = uint16(f.host), uint16(f.driver)
		return nil
	}
	h := (*headerV4)(p)
	in, out := memory(h.in, h.inLen), memory(h.out, h.outLen)
	f.cdb, f.out, f.timeout = bytes.Clone(memory(h.request, h.requestLen)), bytes.Clone(out), h.timeout
	status, sense, residual := f.answer(f.cdb, out, in)
	h.deviceStatus = uint32(status)
	if out != nil {
		h.outResidual = residual
	} else {
		h.inResidual = residual
	}
	h.responseLen = uint32(copy(memory(h.response, h.maxResponseLen), sense))
	h.transportStatus, h.driverStatus = f.host, f.driver
	return nil
}

func TestExecute(t *testing.T) {
	sense := []byte{0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0, 0, 0}
	for _, v4 := range []bool{false, true} {
		f := &fake{}
		d := &device{path: "fake", v4: v4, ioctl: f.ioctl}

		f.answer = func(_, _, in []byte) (byte, []byte, int32) {
			return 0, nil, int32(len(in) - copy(in, "inquiry data"))
		}
		in := make([]byte, 96)
		c := backstore.DeviceCommand{CDB: []byte{0x12, 0, 0, 0, 96, 0}, In: in}
		if err := d.Execute(&c); err != nil || c.Moved != 12 || string(in[:12]) != "inquiry data" || c.Sense != nil {
			t.Errorf("v4 %v: inquiry: %v, %+v", v4, err, c)
		}
		if !bytes.Equal(f.cdb, c.CDB) || f.timeout != commandTimeout {
			t.Errorf("v4 %v: the device got % x, %d ms", v4, f.cdb, f.timeout)
		}

		f.answer, f.driver = func(_, _, _ []byte) (byte, []byte, int32) { return 2, sense, 512 }, driverSense
		c = backstore.DeviceCommand{CDB: []byte{0x0a, 0, 0, 0, 1, 0}, Out: bytes.Repeat([]byte{7}, 512)}
		if err := d.Execute(&c); err != nil || c.Status != 2 || !bytes.Equal(c.Sense, sense) || c.Moved != 0 {
			t.Errorf("v4 %v: refused write: %v, %+v", v4, err, c)
		}
		if !bytes.Equal(f.out, c.Out) {
			t.Errorf("v4 %v: the device got other data", v4)
		}

		// A driver that claims nonsense does not lead out of the buffer.
		f.answer = func(_, _, _ []byte) (byte, []byte, int32) { return 0, nil, -1000 }
		c = backstore.DeviceCommand{CDB: make([]byte, 6), In: in}
		if err := d.Execute(&c); err != nil || c.Moved != len(in) {
			t.Errorf("v4 %v: a negative residual: %v, moved %d", v4, err, c.Moved)
		}

		f.host = 3 // DID_TIME_OUT
		requests := f.requests
		if err := d.Execute(&c); err == nil || f.requests != requests+1 {
			t.Errorf("v4 %v: a failing host: %v after %d requests", v4, err, f.requests-requests)
		}
		f.host, f.fail = 0, unix.EIO
		if err := d.Execute(&c); !errors.Is(err, unix.EIO) {
			t.Errorf("v4 %v: a failing ioctl: %v", v4, err)
		}
		both := backstore.DeviceCommand{CDB: make([]byte, 6), In: in, Out: in}
		if err := d.Execute(&both); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("v4 %v: data both ways: %v", v4, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, typ := range []backstore.Type{Type(), BlockType()} {
		for what, o := range map[string]backstore.Options{
			"a file": {Path: file}, "nothing": {Path: file + "x"}, "no generic device": {Path: "/dev/null"},
			"options": {Path: "/dev/null", Options: "x"}, "flags": {Path: "/dev/null", Sync: true},
		} {
			if s, err := typ.Open(o); err == nil {
				s.Close()
				t.Errorf("%s: %s was opened", typ.Name, what)
			}
		}
	}
}
