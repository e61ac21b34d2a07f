package log

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"
)

// TestSumOfSums: the checksum of an entry is the same whether its blocks' were given or not.
func TestSumOfSums(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		head := rapid.SliceOfN(rapid.Byte(), 0, 500).Draw(t, "head")
		e := Entry{Data: head}
		for range rapid.IntRange(0, 5).Draw(t, "blocks") {
			block := bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 64, 64).Draw(t, "block"), blockSize/64)
			e.Data = append(e.Data, block...)
			e.Home.Sums = binary.LittleEndian.AppendUint32(e.Home.Sums, checksum(block))
			e.Home.Blocks++
		}
		if got, want := e.sum(), checksum(e.Data); got != want {
			t.Fatalf("sum %#x of %d blocks behind %d bytes, want %#x", got, e.Home.Blocks, len(head), want)
		}
	})
}

// TestSteadySum: no memory is taken to work out a sum.
func TestSteadySum(t *testing.T) {
	e := Entry{Data: make([]byte, 64*blockSize+344), Home: Home{Blocks: 64, Sums: make([]byte, 256)}}
	if n := testing.AllocsPerRun(100, func() { e.sum() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
