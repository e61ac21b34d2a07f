package null

import (
	"bytes"
	"errors"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

func do(t *testing.T, s backstore.Store, io backstore.IO) backstore.IO {
	t.Helper()
	done := 0
	io.Done = func(*backstore.IO) { done++ }
	s.Submit(&io)
	if done != 1 {
		t.Fatalf("Done was called %d times inside Submit", done)
	}
	return io
}

func TestNull(t *testing.T) {
	s, err := Open(backstore.Options{Path: "/does/not/matter", BlockSize: 512})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Info().Bytes; got != 1099511627776 {
		t.Errorf("size %d", got)
	}
	data := bytes.Repeat([]byte{0x11}, 512)
	for _, op := range []backstore.Op{backstore.Write, backstore.Flush, backstore.Unmap, backstore.WriteZeroes} {
		if io := do(t, s, backstore.IO{Op: op, Length: 512, Data: data}); io.Err != nil {
			t.Errorf("operation %d: %v", op, io.Err)
		}
	}
	if do(t, s, backstore.IO{Op: backstore.Read, Length: 512, Data: data}); !bytes.Equal(data, make([]byte, 512)) {
		t.Error("read something else than zeros")
	}
	both := make([]byte, 1024)
	if io := do(t, s, backstore.IO{Op: backstore.CompareAndWrite, Length: 512, Data: both}); io.Err != nil {
		t.Errorf("compare with zeros: %v", io.Err)
	}
	both[7] = 1
	io := do(t, s, backstore.IO{Op: backstore.CompareAndWrite, Length: 512, Data: both})
	if !errors.Is(io.Err, backstore.ErrMiscompare) || io.Miscompare != 7 {
		t.Errorf("compare with something else: %v at %d", io.Err, io.Miscompare)
	}
	if io := do(t, s, backstore.IO{Op: backstore.Status, Length: 4096}); !io.Mapped || io.MappedLength != 4096 {
		t.Errorf("status: mapped %v for %d", io.Mapped, io.MappedLength)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestRefusesOptions(t *testing.T) {
	for _, o := range []backstore.Options{{Options: "x"}, {Sync: true}, {Direct: true}} {
		if _, err := Open(o); !errors.Is(err, backstore.ErrOption) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
