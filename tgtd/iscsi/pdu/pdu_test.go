package pdu

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// codec is what every PDU struct has.
type codec interface {
	Encode(*Header)
	Decode(*Header)
}

var all = map[Opcode]func() codec{
	OpNOPOut:         func() codec { return new(NOPOut) },
	OpSCSICommand:    func() codec { return new(SCSICommand) },
	OpTaskRequest:    func() codec { return new(TaskRequest) },
	OpLoginRequest:   func() codec { return new(LoginRequest) },
	OpTextRequest:    func() codec { return new(TextRequest) },
	OpDataOut:        func() codec { return new(DataOut) },
	OpLogoutRequest:  func() codec { return new(LogoutRequest) },
	OpSNACK:          func() codec { return new(SNACK) },
	OpNOPIn:          func() codec { return new(NOPIn) },
	OpSCSIResponse:   func() codec { return new(SCSIResponse) },
	OpTaskResponse:   func() codec { return new(TaskResponse) },
	OpLoginResponse:  func() codec { return new(LoginResponse) },
	OpTextResponse:   func() codec { return new(TextResponse) },
	OpDataIn:         func() codec { return new(DataIn) },
	OpLogoutResponse: func() codec { return new(LogoutResponse) },
	OpR2T:            func() codec { return new(R2T) },
	OpAsync:          func() codec { return new(Async) },
	OpReject:         func() codec { return new(Reject) },
}

// TestGoldenHeaders has one header of each kind, laid out by hand from RFC 7143 section 11.
func TestGoldenHeaders(t *testing.T) {
	st := Status{StatSN: 0x01020304, ExpCmdSN: 0x05060708, MaxCmdSN: 0x090a0b0c}
	const status = "01020304 05060708 090a0b0c"
	for _, c := range []struct {
		p    codec
		want string
	}{
		{&SCSICommand{Immediate: true, Final: true, Read: true, Attribute: 1, LUN: 1 << 48, InitiatorTag: 0x11, ExpectedLength: 0x1000,
			CmdSN: 0x22, ExpStatSN: 0x33, CDB: [16]byte{0x28, 8: 8}},
			"41c10000 00000000 0001000000000000 00000011 00001000 00000022 00000033 28000000000000000800000000000000"},
		{&SCSICommand{Write: true, Attribute: 2, InitiatorTag: 1},
			"01220000 00000000 0000000000000000 00000001 00000000 00000000 00000000 00000000000000000000000000000000"},
		{&SCSIResponse{SCSIStatus: 2, InitiatorTag: 0x11, Status: st, ExpDataSN: 5, Residual: Residual{Underflow: true, Count: 7}},
			"21820002 00000000 0000000000000000 00000011 00000000 " + status + " 00000005 00000000 00000007"},
		{&SCSIResponse{Response: 1, Status: st, Residual: Residual{Overflow: true, Count: 1}, ReadResidual: Residual{Underflow: true, Count: 2}},
			"218c0100 00000000 0000000000000000 00000000 00000000 " + status + " 00000000 00000002 00000001"},
		{&TaskRequest{Immediate: true, Function: 5, LUN: 1 << 48, InitiatorTag: 1, ReferencedTag: NoTag, CmdSN: 2, ExpStatSN: 3, RefCmdSN: 4, ExpDataSN: 5},
			"42850000 00000000 0001000000000000 00000001 ffffffff 00000002 00000003 00000004 00000005 0000000000000000"},
		{&TaskResponse{Response: 5, InitiatorTag: 1, Status: st},
			"22800500 00000000 0000000000000000 00000001 00000000 " + status + " 000000000000000000000000"},
		{&DataOut{Final: true, LUN: 1 << 48, InitiatorTag: 1, TargetTag: 2, ExpStatSN: 3, DataSN: 4, Offset: 5},
			"05800000 00000000 0001000000000000 00000001 00000002 00000000 00000003 00000000 00000004 00000005 00000000"},
		{&DataIn{Final: true, HasStatus: true, Residual: Residual{Overflow: true, Count: 9}, InitiatorTag: 1, TargetTag: NoTag, Status: st, DataSN: 4, Offset: 5},
			"25850000 00000000 0000000000000000 00000001 ffffffff " + status + " 00000004 00000005 00000009"},
		{&DataIn{Acknowledge: true, LUN: 1, TargetTag: 8},
			"25400000 00000000 0000000000000001 00000000 00000008 00000000 00000000 00000000 00000000 00000000 00000000"},
		{&R2T{LUN: 1 << 48, InitiatorTag: 1, TargetTag: 2, Status: st, R2TSN: 3, Offset: 4, Length: 5},
			"31800000 00000000 0001000000000000 00000001 00000002 " + status + " 00000003 00000004 00000005"},
		{&Async{LUN: 1, Status: st, Event: 1, VendorCode: 2, Parameter: [3]uint16{3, 4, 5}},
			"32800000 00000000 0000000000000001 ffffffff 00000000 " + status + " 01020003 00040005 00000000"},
		{&TextRequest{Final: true, InitiatorTag: 1, TargetTag: NoTag, CmdSN: 2, ExpStatSN: 3},
			"04800000 00000000 0000000000000000 00000001 ffffffff 00000002 00000003 00000000000000000000000000000000"},
		{&TextResponse{Continue: true, InitiatorTag: 1, TargetTag: 2, Status: st},
			"24400000 00000000 0000000000000000 00000001 00000002 " + status + " 000000000000000000000000"},
		{&LoginRequest{Transit: true, CSG: 1, NSG: 3, VersionMax: 1, ISID: [6]byte{0x80, 5: 1}, TSIH: 0x0102, InitiatorTag: 1, CID: 0x0304, CmdSN: 5, ExpStatSN: 6},
			"43870100 00000000 8000000000010102 00000001 03040000 00000005 00000006 00000000000000000000000000000000"},
		{&LoginResponse{Continue: true, CSG: 0, NSG: 1, VersionActive: 1, ISID: [6]byte{1}, TSIH: 0x100, InitiatorTag: 1, Status: st, StatusClass: 2, StatusDetail: 7},
			"23410001 00000000 0100000000000100 00000001 00000000 " + status + " 02070000 0000000000000000"},
		{&LogoutRequest{Immediate: true, Reason: 1, InitiatorTag: 1, CID: 2, CmdSN: 3, ExpStatSN: 4},
			"46810000 00000000 0000000000000000 00000001 00020000 00000003 00000004 00000000000000000000000000000000"},
		{&LogoutResponse{Response: 1, InitiatorTag: 1, Status: st, Time2Wait: 2, Time2Retain: 20},
			"26800100 00000000 0000000000000000 00000001 00000000 " + status + " 00000000 00020014 00000000"},
		{&SNACK{Type: 1, LUN: 1, InitiatorTag: 2, TargetTag: 3, ExpStatSN: 4, BegRun: 5, RunLength: 6},
			"10810000 00000000 0000000000000001 00000002 00000003 00000000 00000004 00000000 00000000 00000005 00000006"},
		{&Reject{Reason: RejectProtocolError, Status: st, DataSN: 1},
			"3f800400 00000000 0000000000000000 ffffffff 00000000 " + status + " 00000001 0000000000000000"},
		{&NOPOut{Immediate: true, InitiatorTag: NoTag, TargetTag: 1, CmdSN: 2, ExpStatSN: 3},
			"40800000 00000000 0000000000000000 ffffffff 00000001 00000002 00000003 00000000000000000000000000000000"},
		{&NOPIn{InitiatorTag: NoTag, TargetTag: 1, Status: st},
			"20800000 00000000 0000000000000000 ffffffff 00000001 " + status + " 000000000000000000000000"},
	} {
		var h Header
		c.p.Encode(&h)
		if got := hex.EncodeToString(h[:]); got != strings.ReplaceAll(c.want, " ", "") {
			t.Errorf("%+v\ngot  %s\nwant %s", c.p, got, strings.ReplaceAll(c.want, " ", ""))
		}
	}
}

// TestHeadersRoundTrip: what was decoded encodes to a header that decodes to the same.
func TestHeadersRoundTrip(t *testing.T) {
	for op, make := range all {
		rapid.Check(t, func(t *rapid.T) {
			var h, again Header
			copy(h[:], rapid.SliceOfN(rapid.Byte(), HeaderSize, HeaderSize).Draw(t, "header"))
			h[0] = byte(op)
			if op == OpLoginRequest {
				h[0] |= immediateBit
			}
			a, b := make(), make()
			a.Decode(&h)
			a.Encode(&again)
			b.Decode(&again)
			if again.Opcode() != op || !reflect.DeepEqual(a, b) {
				t.Fatalf("%+v became %+v", a, b)
			}
		})
	}
}

func TestLengths(t *testing.T) {
	var h Header
	h.SetDataLength(MaxDataLength)
	h.SetAHSLength(1020)
	if h.DataLength() != MaxDataLength || h.AHSLength() != 1020 {
		t.Errorf("%d, %d", h.DataLength(), h.AHSLength())
	}
	for n, want := range []int{0, 3, 2, 1, 0, 3} {
		if got := Padding(n); got != want {
			t.Errorf("Padding(%d) = %d", n, got)
		}
	}
}

func TestLess(t *testing.T) {
	for _, c := range []struct {
		a, b uint32
		want bool
	}{{1, 2, true}, {2, 1, false}, {1, 1, false}, {0xffffffff, 0, true}, {0, 0xffffffff, false}, {0xfffffff0, 5, true}} {
		if got := Less(c.a, c.b); got != c.want {
			t.Errorf("Less(%#x, %#x) = %v", c.a, c.b, got)
		}
	}
}

func TestLUN(t *testing.T) {
	for _, c := range []struct {
		raw, lun uint64
		ok       bool
	}{
		{0x0000000000000000, 0, true},
		{0x0005000000000000, 5, true},
		{0x00ff000000000000, 255, true},
		{0x4100000000000000, 256, true},
		{0x7fff000000000000, 16383, true},
		{0xd200400000000000, 16384, true},
		{0xe200010000000000, 1 << 24, true},
		{0x4005000000000000, 5, true},  // flat form of a small number
		{0x0105000000000000, 0, false}, // bus 1
		{0x0005000100000000, 0, false}, // second level
		{0x8005000000000000, 0, false}, // logical unit addressing
		{0xc101000000000000, 0, false}, // well known
		{0xffffffffffffffff, 0, false},
	} {
		if lun, ok := DecodeLUN(c.raw); ok != c.ok || ok && lun != c.lun {
			t.Errorf("%016x: %d, %v", c.raw, lun, ok)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64Range(0, 1<<40-1).Draw(t, "lun")
		raw, ok := EncodeLUN(n)
		if got, good := DecodeLUN(raw); !ok || !good || got != n {
			t.Fatalf("%d became %016x became %d", n, raw, got)
		}
	})
	if _, ok := EncodeLUN(1 << 40); ok {
		t.Error("a number of 41 bits has a form")
	}
}

func TestText(t *testing.T) {
	b := AppendText(AppendText(nil, "A", "1"), "B", "x=y")
	kvs, err := ParseText(append(b, 0, 0))
	if want := []KeyValue{{"A", "1"}, {"B", "x=y"}}; err != nil || !reflect.DeepEqual(kvs, want) {
		t.Errorf("%v, %v", kvs, err)
	}
	if kvs, err = ParseText([]byte("C=")); err != nil || len(kvs) != 1 || kvs[0].Value != "" {
		t.Errorf("%v, %v", kvs, err)
	}
	for _, bad := range []string{"A", "=1", strings.Repeat("k", 64) + "=1"} {
		if _, err := ParseText([]byte(bad)); !errors.Is(err, ErrText) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func TestAHS(t *testing.T) {
	ext := []byte{1, 2, 3, 4, 5}
	b := AppendAHS(nil, ext, 0x1000, true)
	if want := "000601000102030405000000" + "0005020000001000"; hex.EncodeToString(b) != want {
		t.Errorf("got %x", b)
	}
	a, err := ParseAHS(b)
	if err != nil || !bytes.Equal(a.ExtendedCDB, ext) || !a.HasReadLength || a.ReadLength != 0x1000 {
		t.Errorf("%+v, %v", a, err)
	}
	for _, bad := range []string{"00", "00000100", "00050200", "00060200000000000000", "00030900", "0006010001",
		"00050200000000010005020000000001"} {
		b, _ := hex.DecodeString(bad)
		if _, err := ParseAHS(b); !errors.Is(err, ErrAHS) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := ParseAHS(AppendAHS(nil, make([]byte, MaxCDB-15), 0, false)); !errors.Is(err, ErrAHS) {
		t.Errorf("a CDB of %d bytes: %v", MaxCDB+1, err)
	}
}

// TestDigest has the examples of RFC 7143 A.4 (RFC 3720 B.4).
func TestDigest(t *testing.T) {
	up := make([]byte, 32)
	down := make([]byte, 32)
	for i := range up {
		up[i], down[31-i] = byte(i), byte(i)
	}
	read, _ := hex.DecodeString("01c00000000000000000000000000000" + "14000000000004000000001400000018" +
		"28000000000000000200000000000000")
	for _, c := range []struct {
		data []byte
		want string
	}{
		{make([]byte, 32), "aa36918a"}, {bytes.Repeat([]byte{0xff}, 32), "43aba862"},
		{up, "4e79dd46"}, {down, "5cdb3f11"}, {read, "563a96d9"},
	} {
		var b [4]byte
		PutDigest(b[:], Digest(0, c.data))
		if got := hex.EncodeToString(b[:]); got != c.want {
			t.Errorf("% x: %s, want %s", c.data, got, c.want)
		}
	}
}

func TestPDU(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Digests{rapid.Bool().Draw(t, "header digest"), rapid.Bool().Draw(t, "data digest")}
		p := PDU{
			AHS:  make([]byte, 4*rapid.IntRange(0, 255).Draw(t, "AHS")),
			Data: rapid.SliceOfN(rapid.Byte(), 0, 600).Draw(t, "data"),
		}
		b := p.Append([]byte("x"), d)[1:]
		q, err := Read(bytes.NewReader(b), d, 600)
		if err != nil || !bytes.Equal(q.AHS, p.AHS) || !bytes.Equal(q.Data, p.Data) || q.Header != p.Header {
			t.Fatalf("%v", err)
		}
		if !d.Header || !d.Data {
			return
		}
		i := rapid.IntRange(0, len(b)-1).Draw(t, "damaged byte")
		if i >= 4 && i < 8 {
			return // lengths
		}
		b[i] ^= 1
		if _, err := Read(bytes.NewReader(b), d, 600); !errors.Is(err, ErrHeaderDigest) && !errors.Is(err, ErrDataDigest) {
			t.Fatalf("byte %d damaged: %v", i, err)
		}
	})
	long := PDU{Data: make([]byte, 601)}
	if _, err := Read(bytes.NewReader(long.Append(nil, Digests{})), Digests{}, 600); !errors.Is(err, ErrTooLong) {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	for _, make := range all {
		var p PDU
		make().Encode(&p.Header)
		p.Data = []byte("A=1\x00")
		f.Add(p.Append(nil, Digests{}), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, digests bool) {
		d := Digests{digests, digests}
		p, err := Read(bytes.NewReader(b), d, 1<<16)
		if err != nil {
			return
		}
		if again := p.Append(nil, d); len(again) > len(b) {
			t.Errorf("%d bytes became %d", len(b), len(again))
		}
		if make := all[p.Header.Opcode()]; make != nil {
			make().Decode(&p.Header)
		}
		if a, err := ParseAHS(p.AHS); err == nil && len(a.ExtendedCDB) > MaxCDB-16 {
			t.Errorf("a CDB of %d bytes", 16+len(a.ExtendedCDB))
		}
		if kvs, err := ParseText(p.Data); err == nil {
			var again []byte
			for _, kv := range kvs {
				again = AppendText(again, kv.Key, kv.Value)
			}
			if twice, err := ParseText(again); err != nil || !reflect.DeepEqual(kvs, twice) {
				t.Errorf("%q became %q, %v", kvs, twice, err)
			}
		}
		if lun, ok := DecodeLUN(p.Header.LUN()); ok {
			raw, fits := EncodeLUN(lun)
			if back, same := DecodeLUN(raw); fits && (!same || back != lun) {
				t.Errorf("LUN %d became %d", lun, back)
			}
		}
	})
}
