package mgmt

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// golden reads a file of hexadecimal bytes, as recorded on a little-endian machine.
func golden(t *testing.T, name string) []byte {
	t.Helper()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the recorded bytes are little-endian")
	}
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatalf("testdata/%s: %v", name, err)
	}
	return b
}

var goldenRequests = []struct {
	file string
	want Request
}{
	{"show-target.hex", Request{Mode: ModeTarget, Op: OpShow, TID: NoTID, LUN: NoLUN}},
	{"new-unit.hex", Request{Mode: ModeUnit, Op: OpNew, Driver: "iscsi", TID: 1, LUN: 2, Device: CD,
		HasParams: true, Params: "path=/x,bstype=aio,bsopts=o=1,bsoflags=sync,blocksize=4096"}},
	{"delete-target-force.hex", Request{Mode: ModeTarget, Op: OpDelete, Driver: "iscsi", TID: 7,
		LUN: NoLUN, Force: true}},
	{"bind-outgoing.hex", Request{Mode: ModeAccount, Op: OpBind, Driver: "iscsi", TID: 1, LUN: NoLUN,
		Direction: Outgoing, HasParams: true, Params: "user=joe"}},
	{"delete-connection.hex", Request{Mode: ModeConnection, Op: OpDelete, Driver: "iscsi", TID: 1,
		SID: 0x1122334455667788, LUN: NoLUN, CID: 3}},
}

func TestRequestGoldenBytes(t *testing.T) {
	for _, c := range goldenRequests {
		b := golden(t, c.file)
		got, err := DecodeRequest(b)
		if err != nil || got != c.want {
			t.Errorf("%s: decoded %+v, %v; want %+v", c.file, got, err, c.want)
		}
		enc, err := c.want.Append(nil)
		if err != nil || !bytes.Equal(enc, b) {
			t.Errorf("%s: encoded\n%x, %v; want\n%x", c.file, enc, err, b)
		}
		read, err := ReadRequest(iotestOneByte{bytes.NewReader(b)})
		if err != nil || read != c.want {
			t.Errorf("%s: read byte by byte %+v, %v", c.file, read, err)
		}
	}
}

// iotestOneByte gives one byte at a time.
type iotestOneByte struct{ r io.Reader }

func (o iotestOneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

func TestResponseGoldenBytes(t *testing.T) {
	for _, c := range []struct {
		hex  string
		want Response
	}{
		{"0000000008000000", Response{}},
		{"0400000008000000", Response{Err: ErrNoTarget}},
		{"1100000008000000", Response{Err: ErrInvalid}},
		{"000000000c000000" + "61620a00", Response{Text: "ab\n"}},
	} {
		b, _ := hex.DecodeString(c.hex)
		if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
			t.Skip("the recorded bytes are little-endian")
		}
		got, err := ReadResponse(bytes.NewReader(b))
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", c.hex, got, err, c.want)
		}
		if enc := c.want.Append(nil); !bytes.Equal(enc, b) {
			t.Errorf("%+v: encoded %x, want %s", c.want, enc, c.hex)
		}
	}
	failed := Response{Err: ErrInvalid, Text: "printed so far"}
	if enc := failed.Append(nil); len(enc) != ResponseHeaderSize {
		t.Errorf("an error carries a text: %x", enc)
	}
}

func TestReadResponseBroken(t *testing.T) {
	head := func(length uint32) []byte {
		return binary.NativeEndian.AppendUint32(make([]byte, 4), length)
	}
	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"nothing", nil, ErrNoAnswer},
		{"half a head", []byte{0, 0, 0}, ErrPartial},
		{"text cut", append(head(20), "abc"...), ErrPartial},
		{"length below a head", head(7), ErrMalformed},
		{"length without bound", head(1<<32 - 1), ErrTooLarge},
	} {
		if _, err := ReadResponse(bytes.NewReader(c.in)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestDecodeRequestLimits(t *testing.T) {
	valid := func(edit func(b []byte)) []byte {
		r := Request{Mode: ModeTarget, Op: OpNew, TID: 1, Params: "targetname=iqn.x:a"}
		b, err := r.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		edit(b)
		return b
	}
	length := func(n uint32) func([]byte) {
		return func(b []byte) { binary.NativeEndian.PutUint32(b[offLen:], n) }
	}
	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"length below a head", valid(length(119)), ErrMalformed},
		{"length 0", valid(length(0)), ErrMalformed},
		{"8193 parameter bytes", valid(length(HeaderSize + MaxParams + 1)), ErrTooLarge},
		{"length all ones", valid(length(1<<32 - 1)), ErrTooLarge},
		{"parameters missing", valid(length(HeaderSize + 100)), ErrMalformed},
		{"bytes left over", valid(length(HeaderSize)), ErrMalformed},
		{"short", make([]byte, 119), ErrMalformed},
	} {
		if _, err := DecodeRequest(c.in); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestDecodeRequestText(t *testing.T) {
	base := Request{Mode: ModeTarget, Op: OpNew, Params: "x"}
	b, err := base.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, params, want string
		has                bool
	}{
		{"none", "", "", false},
		{"empty", "\x00", "", true},
		{"no NUL at the end", "a=b", "a=b", true},
		{"NUL in the middle", "a=b\x00c=d\x00", "a=b", true},
	} {
		in := append(bytes.Clone(b[:HeaderSize]), c.params...)
		binary.NativeEndian.PutUint32(in[offLen:], uint32(len(in)))
		r, err := DecodeRequest(in)
		if err != nil || r.Params != c.want || r.HasParams != c.has {
			t.Errorf("%s: %q %v, %v", c.name, r.Params, r.HasParams, err)
		}
	}
	full := bytes.Clone(b)
	copy(full[offDriver:], bytes.Repeat([]byte{'d'}, DriverSize))
	if r, err := DecodeRequest(full); err != nil || r.Driver != strings.Repeat("d", DriverSize-1) {
		t.Errorf("a driver without NUL: %q, %v", r.Driver, err)
	}
	if r, err := DecodeRequest(b[:HeaderSize-1]); err == nil {
		t.Errorf("half a head was taken: %+v", r)
	}
}

func TestAppendLimits(t *testing.T) {
	for _, c := range []struct {
		name string
		r    Request
		want error
	}{
		{"longest parameters", Request{Params: strings.Repeat("p", MaxParams-1)}, nil},
		{"parameters too long", Request{Params: strings.Repeat("p", MaxParams)}, ErrTooLarge},
		{"longest driver", Request{Driver: strings.Repeat("d", DriverSize-1)}, nil},
		{"driver too long", Request{Driver: strings.Repeat("d", DriverSize)}, ErrTooLarge},
		{"NUL in the parameters", Request{Params: "a\x00b"}, ErrMalformed},
		{"NUL in the driver", Request{Driver: "a\x00b"}, ErrMalformed},
	} {
		if _, err := c.r.Append(nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestErrno(t *testing.T) {
	if len(errnoTexts) != 25 {
		t.Fatalf("%d error texts, tgt has 25", len(errnoTexts))
	}
	for e, text := range errnoTexts {
		if text == "" || Errno(e).Error() != text {
			t.Errorf("error %d: %q", e, Errno(e).Error())
		}
	}
	if got := Errno(25).Error(); got != "(unknown tgtadm_errno)" {
		t.Errorf("error 25: %q", got)
	}
	for _, c := range []struct {
		err  error
		want Errno
	}{
		{nil, Success},
		{ErrNoTarget, ErrNoTarget},
		{errors.Join(io.EOF, ErrNoUnit), ErrNoUnit},
		{io.EOF, ErrUnknown},
	} {
		if got := ErrnoOf(c.err); got != c.want {
			t.Errorf("ErrnoOf(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}

func TestSocketPath(t *testing.T) {
	env := func(value string, set bool) func(string) (string, bool) {
		return func(name string) (string, bool) { return value, set && name == BaseEnv }
	}
	for _, c := range []struct {
		value string
		set   bool
		port  int
		want  string
		err   error
	}{
		{"", false, 0, "/var/run/tgtd/socket.0", nil},
		{"/tmp/s", true, 7, "/tmp/s.7", nil},
		{"", true, 0, ".0", nil},
		{"/" + strings.Repeat("a", MaxPath-3), true, 0, "/" + strings.Repeat("a", MaxPath-3) + ".0", nil},
		{"/" + strings.Repeat("a", MaxPath-2), true, 0, "/" + strings.Repeat("a", MaxPath-2) + ".0", ErrPathTooLong},
	} {
		got, err := SocketPath(env(c.value, c.set), c.port)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%q port %d: %q, %v; want %q, %v", c.value, c.port, got, err, c.want, c.err)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	for _, c := range goldenRequests {
		b, err := c.want.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRequest(b)
		if err != nil {
			if r != (Request{}) {
				t.Fatalf("an error and a request: %+v, %v", r, err)
			}
			return
		}
		// Whatever was taken can be sent again and means the same.
		again, err := r.Append(nil)
		if err != nil {
			// The only thing that doesn't fit: parameters that filled all bytes without a NUL.
			if len(r.Params) == MaxParams && errors.Is(err, ErrTooLarge) {
				return
			}
			t.Fatalf("%+v can't be encoded: %v", r, err)
		}
		if back, err := DecodeRequest(again); err != nil || back != r {
			t.Fatalf("%+v came back as %+v, %v", r, back, err)
		}
	})
}

func FuzzReadResponse(f *testing.F) {
	for _, r := range []Response{{}, {Text: "Target 1: iqn.x:a\n"}, {Err: ErrInvalid}} {
		f.Add(r.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ReadResponse(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := ReadResponse(bytes.NewReader(r.Append(nil)))
		if err != nil || again.Err != r.Err || (r.Err == Success && again.Text != r.Text) {
			t.Fatalf("%+v came back as %+v, %v", r, again, err)
		}
	})
}
