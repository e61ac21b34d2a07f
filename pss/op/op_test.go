package op

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

// checkGolden compares b with the hexadecimal golden file, of which each line is a comment or bytes.
func checkGolden(t *testing.T, file string, b []byte) {
	t.Helper()
	if *update {
		var text strings.Builder
		for len(b) > 0 {
			n := min(16, len(b))
			text.WriteString(hex.EncodeToString(b[:n]) + "\n")
			b = b[n:]
		}
		if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("the bytes are\n%s\nand %s has\n%s", hex.Dump(b), file, hex.Dump(want))
	}
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func encode(h Header, args, payload []byte) []byte {
	return append(Head(nil, &h, args, len(payload)), payload...)
}

// encodeData encodes an operation with a payload and its sums.
func encodeData(h Header, payload []byte) []byte {
	var sums []uint32
	if h.Code == CompareAndWrite {
		sums = AppendSums(sums, h.Offset, payload[:len(payload)/2])
		sums = AppendSums(sums, h.Offset, payload[len(payload)/2:])
	} else {
		sums = AppendSums(sums, h.Offset, payload)
	}
	return append(HeadSums(nil, &h, sums, len(payload)), payload...)
}

// encodeAttr encodes an AttrSet.
func encodeAttr(h Header, name string, version uint64, value []byte) []byte {
	h.Length = uint64(len(value))
	return encode(h, AttrArgs(name, version, value), value)
}

// What an AttrSet says is read back, and nothing else is taken for its name and version.
func TestAttr(t *testing.T) {
	for _, value := range [][]byte{nil, []byte("v"), pattern(MaxAttr)} {
		o, err := Parse(encodeAttr(Header{Code: AttrSet}, "name", 1<<63, value))
		if err != nil || o.Check() != nil || !bytes.Equal(o.Payload, value) {
			t.Fatalf("%d bytes: %v", len(value), err)
		}
		if name, version, err := o.Attr(); name != "name" || version != 1<<63 || err != nil {
			t.Errorf("%q, %d, %v", name, version, err)
		}
	}
	for _, args := range [][]byte{nil, AppendString(nil, "n"), append(AppendString(nil, "n"), make([]byte, 9)...)} {
		o, err := Parse(encode(Header{Code: AttrSet}, args, nil))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := o.Attr(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%x: %v", args, err)
		}
	}
}

// reseal makes the size, the argument size where it can't be right, and the checksum of b right, so that what lies
// behind those checks is reached.
func reseal(b []byte) []byte {
	if len(b) < HeaderSize {
		b = append(b, make([]byte, HeaderSize-len(b))...)
	}
	le := binary.LittleEndian
	le.PutUint32(b[0:], uint32(len(b)))
	b[5] = Version
	if int64(le.Uint32(b[20:])) > int64(len(b)-HeaderSize) {
		le.PutUint32(b[20:], uint32(len(b)-HeaderSize))
	}
	le.PutUint32(b[84:], headSum(b, int(le.Uint32(b[20:]))))
	return b
}

func TestGolden(t *testing.T) {
	h := Header{Code: Rename, Flags: 0x0102, Session: 0x1112131415161718, Epoch: 0x21222324, Seq: 0x3132333435363738,
		Acked: 0x4142434445464748, Object: 0x5152535455565758, Token: 0x6162636465666768, Offset: 0x71727374,
		Length: 0x81828384, Stamp: 0x9192939495969798}
	checkGolden(t, "testdata/rename-v1.hex", encode(h, AppendString(AppendString(nil, "/a"), "b/c"), nil))
	w := Header{Code: Write, Session: 1, Epoch: 2, Seq: 3, Acked: 4, Object: 5, Token: 6, Offset: 4090, Length: 12, Stamp: 7}
	checkGolden(t, "testdata/write-v1.hex", encodeData(w, []byte("hello, world")))
	checkGolden(t, "testdata/result-v1.hex", AppendResult(nil, Result{Miscompare, 0x1112131415161718, 0x2122232425262728, 0x31}))
	checkGolden(t, "testdata/query-v1.hex", AppendQuery(nil, Query{Code: ReadDir, Path: "/vol001", Cursor: "00"}))
	checkGolden(t, "testdata/attr-set-v1.hex", encodeAttr(Header{Code: AttrSet, Flags: FlagBump, Session: 1, Epoch: 2, Seq: 3,
		Acked: 4, Object: 5, Token: 6, Stamp: 7}, "pr", 8, []byte("value")))
	checkGolden(t, "testdata/query-attr-v1.hex", AppendQuery(nil, Query{Code: AttrGet, Path: "pr", Object: 0x1112131415161718}))
	checkGolden(t, "testdata/answer-attr-v1.hex", AppendAnswer(nil, Answer{Version: 0x2122232425262728, Value: []byte("value")}))
	checkGolden(t, "testdata/answer-v1.hex", AppendAnswer(nil, Answer{Errno: NotDir, More: true, Nodes: []Node{
		{"vol001", KindVolume, 0x1112131415161718, 1 << 40, 0x2122232425262728}, {"dir", KindDir, 0, 0, 3}}}))
}

// The numbers are on disks and in peers of other versions.
func TestNumbersNeverChange(t *testing.T) {
	list := "nop session-open session-close mkdir rmdir create truncate delete rename volume-create volume-open " +
		"volume-grow volume-delete write unmap write-zeroes compare-and-write flush attr-set"
	for i, name := range strings.Fields(list) {
		if c := Code(i + 1); c.String() != name {
			t.Errorf("code %d is %v", i+1, c)
		}
	}
	if Flush != 18 || AttrSet != 19 || codes != 20 || Code(0).String() != "code-0" || Code(200).String() != "code-200" {
		t.Errorf("Flush is %d, %v, %v", Flush, Code(0), Code(200))
	}
	errnos := []Errno{OK, NotFound, Exists, NotDir, IsDir, NotEmpty, Invalid, Fenced, StaleEpoch, NoSession,
		Miscompare, OutOfRange, TooMany, TooOld, Kind, NoSpace, ReadDamaged, Moved, Conflict}
	texts := map[string]bool{}
	for i, e := range errnos {
		if int(e) != i {
			t.Errorf("%v is %d", e, e)
		}
		texts[e.Error()] = true
	}
	if len(texts) != len(errnos) || Errno(19).Error() != "error 19" {
		t.Errorf("texts %v, %v", texts, Errno(19))
	}
	if FlagShared != 1 || FlagRenew != 2 || FlagBump != 1 || FlagRemove != 2 {
		t.Error("the numbers of flags changed")
	}
	if Stat != 1 || ReadDir != 2 || AttrGet != 3 || TokenGet != 4 || KindDir != 1 || KindFile != 2 || KindVolume != 3 {
		t.Error("the numbers of queries or kinds changed")
	}
}

func TestHasToken(t *testing.T) {
	for c := range codes {
		want := c == Write || c == Unmap || c == WriteZeroes || c == CompareAndWrite || c == Flush
		if c.HasToken() != want {
			t.Errorf("%v: %v", c, c.HasToken())
		}
	}
}

func TestPieces(t *testing.T) {
	for _, c := range []struct {
		offset uint64
		n      int
		want   int
	}{
		{0, 0, 0}, {4095, 0, 0}, {0, 1, 1}, {0, 4096, 1}, {0, 4097, 2}, {4095, 1, 1}, {4095, 2, 2}, {4095, 4098, 3},
		{4096, 4096, 1}, {1, MaxPayload, 257}, {MaxVolume, MaxPayload, 256},
	} {
		if got := Pieces(c.offset, c.n); got != c.want {
			t.Errorf("Pieces(%d, %d) = %d, not %d", c.offset, c.n, got, c.want)
		}
		if got := len(AppendSums(nil, c.offset, make([]byte, c.n))); got != c.want {
			t.Errorf("AppendSums(%d, %d bytes) has %d, not %d", c.offset, c.n, got, c.want)
		}
	}
}

func TestSumsCoverBlocks(t *testing.T) {
	data := pattern(3 * BlockSize)
	sums := AppendSums(nil, 100, data)
	edges := []int{0, BlockSize - 100, 2*BlockSize - 100, 3*BlockSize - 100, len(data)}
	for i := range sums {
		if want := Sum(data[edges[i]:edges[i+1]]); sums[i] != want {
			t.Errorf("sum %d is %#x, not %#x", i, sums[i], want)
		}
	}
	if Sum([]byte("123456789")) != 0xe3069283 {
		t.Error("Sum is not CRC32C")
	}
}

// What is encoded parses to the same, whatever stood in the buffer before it.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u64 := rapid.Uint64()
		h := Header{
			Code:  Code(rapid.IntRange(1, int(codes)-1).Draw(t, "code")),
			Flags: rapid.Uint16().Draw(t, "flags"), Session: u64.Draw(t, "session"), Epoch: rapid.Uint32().Draw(t, "epoch"),
			Seq: u64.Draw(t, "seq"), Acked: u64.Draw(t, "acked"), Object: u64.Draw(t, "object"), Token: u64.Draw(t, "token"),
			Offset: rapid.Uint64Range(0, MaxVolume).Draw(t, "offset"), Stamp: u64.Draw(t, "stamp"),
		}
		var b, args, payload []byte
		switch {
		case h.Code.hasMore():
			payload = pattern(rapid.IntRange(0, 3*BlockSize).Draw(t, "size"))
			h.Offset, h.Length = 0, uint64(len(payload))
			b = encodeAttr(h, "name", 7, payload)
		case h.Code.hasPayload():
			payload = pattern(2 * rapid.IntRange(1, 3*BlockSize).Draw(t, "half"))
			h.Length = uint64(len(payload))
			if h.Code == CompareAndWrite {
				h.Length /= 2
			}
			b = encodeData(h, payload)
		default:
			h.Length = rapid.Uint64Range(1, MaxZeroes).Draw(t, "length")
			args = rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "args")
			b = encode(h, args, nil)
		}
		o, err := Parse(b)
		if err != nil {
			t.Fatalf("Parse: %v", err)
		}
		if o.Header != h || !bytes.Equal(o.Payload, payload) || args != nil && !bytes.Equal(o.Args, args) {
			t.Fatalf("%+v became %+v", h, o)
		}
		if err := o.Check(); err != nil {
			t.Fatalf("Check: %v", err)
		}
		prefixed := Head([]byte("before"), &h, o.Args, len(payload))
		if want := "before" + string(b[:len(b)-len(payload)]); string(prefixed) != want {
			t.Fatalf("Head appended other bytes")
		}
	})
}

// Every flipped bit is noticed: by Parse in the header and the arguments, by Check in the payload.
func TestEveryBitIsProtected(t *testing.T) {
	for _, h := range []Header{{Code: Write, Offset: 4000, Length: 200}, {Code: CompareAndWrite, Offset: 4000, Length: 100}} {
		b := encodeData(h, pattern(200))
		head := HeaderSize + 4*2
		if h.Code == CompareAndWrite {
			head = HeaderSize + 4*4
		}
		for i := range 8 * len(b) {
			b[i/8] ^= 1 << (i % 8)
			o, err := Parse(b)
			if i/8 < head && !errors.Is(err, ErrInvalid) {
				t.Fatalf("%v: bit %d of the head: %v", h.Code, i, err)
			}
			if i/8 >= head {
				if err != nil {
					t.Fatalf("%v: bit %d of the payload: %v", h.Code, i, err)
				}
				if err := o.Check(); !errors.Is(err, ErrInvalid) {
					t.Fatalf("%v: bit %d of the payload: Check says %v", h.Code, i, err)
				}
			}
			b[i/8] ^= 1 << (i % 8)
		}
	}
}

func TestCheckNamesTheBlock(t *testing.T) {
	for _, c := range []struct {
		code Code
		at   int
		want string
	}{
		{Write, 0, "write payload checksum, block 1"},
		{Write, 8191, "write payload checksum, block 3"},
		{CompareAndWrite, 0, "compare-and-write payload checksum, block 1"},
		{CompareAndWrite, 4095, "compare-and-write payload checksum, block 2"},
		{CompareAndWrite, 4096, "compare-and-write payload checksum, block 1"},
	} {
		h := Header{Code: c.code, Offset: 5000, Length: 8192}
		if c.code == CompareAndWrite {
			h.Length = 4096
		}
		b := encodeData(h, pattern(8192))
		b[len(b)-8192+c.at] ^= 1
		o, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v byte %d: %v", c.code, c.at, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	args := func(n int) []byte { return make([]byte, n) }
	data := func(code Code, offset, length uint64, payload, sums int) []byte {
		return encode(Header{Code: code, Offset: offset, Length: length}, args(4*sums), make([]byte, payload))
	}
	patch := func(b []byte, at int, v byte) []byte { b[at] = v; return b }
	good := func() []byte { return encode(Header{Code: Nop}, nil, nil) }
	cases := []struct {
		name  string
		bytes []byte
		want  string
	}{
		{"nothing", nil, "0 bytes"},
		{"short", args(HeaderSize - 1), "87 bytes"},
		{"size too small", patch(good(), 0, 87), "88 bytes say they are 87"},
		{"size too large", patch(good(), 3, 1), "88 bytes say they are"},
		{"longer than any", reseal(args(MaxSize + 1)), "bytes say they are"},
		{"version", patch(good(), 5, 2), "version 2"},
		{"checksum", patch(good(), 84, good()[84]^1), "header checksum"},
		{"reserved bytes", reseal(patch(good(), 81, 3)), "reserved bytes are 0x300"},
		{"arguments beyond the end", patch(good(), 20, 1), "1 bytes of arguments"},
		{"arguments of 4 GiB", patch(patch(good(), 23, 255), 22, 255), "bytes of arguments"},
		{"more arguments than any", encode(Header{Code: Mkdir}, args(MaxArgs+1), nil), "8195 bytes of arguments"},
		{"code 0", encode(Header{}, nil, nil), "code-0"},
		{"unknown code", encode(Header{Code: codes}, nil, nil), codes.String()},
		{"attribute of another length", encode(Header{Code: AttrSet, Length: 4}, args(4), args(5)), "attr-set of 4 bytes at 0 with 5"},
		{"attribute at an offset", encode(Header{Code: AttrSet, Offset: 1, Length: 5}, args(4), args(5)), "attr-set of 5 bytes at 1"},
		{"attribute too long", encode(Header{Code: AttrSet, Length: MaxAttr + 1}, args(4*17), args(MaxAttr+1)), "attr-set of 65537 bytes"},
		{"attribute without sums", encode(Header{Code: AttrSet, Length: 5}, args(3), args(5)), "attr-set with 3 bytes of sums"},
		{"payload where none belongs", encode(Header{Code: Mkdir}, nil, args(1)), "mkdir with 1 bytes of payload"},
		{"write of nothing", data(Write, 0, 0, 0, 0), "write of 0 bytes with 0 bytes"},
		{"write of another length", data(Write, 0, 11, 12, 1), "write of 11 bytes with 12 bytes"},
		{"write with a sum too few", data(Write, 4090, 12, 12, 1), "write with 4 bytes of sums"},
		{"write with a sum too many", data(Write, 0, 12, 12, 2), "write with 8 bytes of sums"},
		{"write too long", data(Write, 0, MaxPayload+1, MaxPayload+1, 257), "write with 1048577 bytes of payload"},
		{"write far out", data(Write, MaxVolume+1, 1, 1, 1), "write at"},
		{"odd compare-and-write", data(CompareAndWrite, 0, 1, 3, 2), "compare-and-write of 1 bytes with 3 bytes"},
		{"compare-and-write of another length", data(CompareAndWrite, 0, 4, 4, 2), "compare-and-write of 4 bytes with 4"},
		{"compare-and-write of nothing", data(CompareAndWrite, 0, 0, 0, 0), "compare-and-write of 0 bytes"},
		{"compare-and-write with one half's sums", data(CompareAndWrite, 0, 2, 4, 1), "with 4 bytes of sums"},
		{"unmap of nothing", encode(Header{Code: Unmap}, nil, nil), "unmap of 0 bytes"},
		{"unmap too long", encode(Header{Code: Unmap, Length: MaxZeroes + 1}, nil, nil), "unmap of"},
		{"zeroes too long", encode(Header{Code: WriteZeroes, Length: MaxZeroes + 1}, nil, nil), "write-zeroes of"},
		{"volume too large", encode(Header{Code: VolumeCreate, Length: MaxVolume + 1}, nil, nil), "volume-create at 0"},
		{"file too large", encode(Header{Code: Truncate, Length: 1 << 63}, nil, nil), "truncate at 0"},
	}
	for _, c := range cases {
		if _, err := Parse(c.bytes); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestParseAcceptsTheLimits(t *testing.T) {
	longest := strings.Repeat("x", MaxPath)
	cases := map[string][]byte{
		"two longest paths": encode(Header{Code: Rename}, AppendString(AppendString(nil, longest), longest), nil),
		"longest write":     encodeData(Header{Code: Write, Offset: 1, Length: MaxPayload}, pattern(MaxPayload)),
		"longest compare":   encodeData(Header{Code: CompareAndWrite, Offset: 511, Length: MaxPayload / 2}, pattern(MaxPayload)),
		"longest unmap":     encode(Header{Code: Unmap, Offset: MaxVolume, Length: MaxZeroes}, nil, nil),
		"largest volume":    encode(Header{Code: VolumeCreate, Length: MaxVolume}, nil, nil),
	}
	for name, b := range cases {
		o, err := Parse(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := o.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Arguments are a view that can't grow into the payload.
func TestViewsAreBounded(t *testing.T) {
	b := encodeData(Header{Code: Write, Length: 5}, []byte("12345"))
	o, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	_ = append(o.Args, "overwritten"...)
	if string(o.Payload) != "12345" {
		t.Errorf("payload %q", o.Payload)
	}
}

func TestStrings(t *testing.T) {
	args := AppendString(AppendString(AppendString(nil, "first"), ""), strings.Repeat("p", MaxPath))
	for _, want := range []string{"first", "", strings.Repeat("p", MaxPath)} {
		var got string
		var err error
		if got, args, err = String(args); err != nil || got != want {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	if len(args) != 0 {
		t.Errorf("%d bytes left over", len(args))
	}
	for _, b := range [][]byte{nil, {1}, {1, 0}, {2, 0, 'x'}, append([]byte{0, 16}, make([]byte, MaxPath+1)...)} {
		if s, _, err := String(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%x is %q, %v", b, s, err)
		}
	}
	// A length that does not fit 16 bits must not turn into the length of another string.
	for _, n := range []int{MaxPath + 1, 1 << 16, 1<<16 + 1} {
		if s, _, err := String(AppendString(nil, strings.Repeat("/", n))); !errors.Is(err, ErrInvalid) {
			t.Errorf("a string of %d bytes became %q", n, s)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	payload := pattern(BlockSize)
	h := Header{Code: Write, Offset: BlockSize, Length: BlockSize}
	sums := AppendSums(nil, h.Offset, payload)
	buf := make([]byte, 0, 2*BlockSize)
	if n := testing.AllocsPerRun(100, func() {
		b := append(HeadSums(buf, &h, sums, len(payload)), payload...)
		o, err := Parse(b)
		if err != nil || o.Check() != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations to encode, parse and check a write", n)
	}
}

// Whatever Parse accepts is encoded again to the same bytes, and its views are safe to use.
func FuzzParse(f *testing.F) {
	f.Add(encode(Header{Code: Rename}, AppendString(AppendString(nil, "/a"), "/b"), nil))
	f.Add(encodeData(Header{Code: Write, Offset: 4090, Length: 12}, []byte("hello, world")))
	f.Add(encodeData(Header{Code: CompareAndWrite, Offset: 4094, Length: 6}, []byte("hello, world")))
	f.Add(encode(Header{Code: Unmap, Length: 512}, nil, nil))
	f.Add(encodeAttr(Header{Code: AttrSet}, "name", 7, []byte("value")))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, reseal(bytes.Clone(b))} {
			o, err := Parse(b)
			if err != nil {
				if !errors.Is(err, ErrInvalid) {
					t.Fatalf("Parse: %v", err)
				}
				continue
			}
			if err := o.Check(); err != nil && !errors.Is(err, ErrInvalid) {
				t.Fatalf("Check: %v", err)
			}
			if again := encode(o.Header, o.Args, o.Payload); !bytes.Equal(again, b) {
				t.Fatalf("%x became %x", b, again)
			}
			if o.Code == AttrSet {
				if _, _, err := o.Attr(); err != nil && !errors.Is(err, ErrInvalid) {
					t.Fatalf("Attr: %v", err)
				}
			}
			rest := o.Args
			for err == nil {
				_, rest, err = String(rest)
			}
		}
	})
}
