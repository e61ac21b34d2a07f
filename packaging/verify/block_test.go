package verify

import (
	"errors"
	"testing"
)

// FuzzParse: a block is what fill made, zeros, or an error; nothing in between.
func FuzzParse(f *testing.F) {
	b := make([]byte, BlockSize)
	f.Add(b)
	fill(b, stamp{1, 2, 3})
	f.Add(b)
	f.Fuzz(func(t *testing.T, content []byte) {
		b := make([]byte, BlockSize)
		copy(b, content)
		s, zero, err := parse(b)
		switch {
		case zero && (err != nil || s != stamp{}):
			t.Errorf("zeros: %v, %v", s, err)
		case err != nil && !errors.Is(err, ErrTorn):
			t.Error(err)
		}
	})
}

func TestParse(t *testing.T) {
	want := stamp{writer: 1 << 63, address: 77, seq: 1<<40 + 5}
	b := make([]byte, BlockSize)
	fill(b, want)
	if s, zero, err := parse(b); s != want || zero || err != nil {
		t.Fatalf("%v, %v, %v", s, zero, err)
	}
	for bit, step := 0, 1; bit < BlockSize*8; bit += step {
		if bit >= blockHeader*8 {
			step = 17 // the noise is all alike
		}
		b[bit/8] ^= 1 << (bit % 8)
		if _, _, err := parse(b); !errors.Is(err, ErrTorn) {
			t.Fatalf("bit %d changed: %v", bit, err)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
}
