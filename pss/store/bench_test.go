package store

import (
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
)

// benchStore has an object with 64 MiB on a disk in memory.
func benchStore(b *testing.B) (*Store, uint64) {
	s, _, err := Open(disk.NewMem(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Create(1, "v", 1); err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 1<<20)
	sums := sumBytes(0, p)
	index := uint64(1)
	for off := int64(0); off < 64<<20; off += int64(len(p)) {
		index++
		if err := s.Write(1, off, p, sums, 0, index); err != nil {
			b.Fatal(err)
		}
	}
	benchFlush(b, s, index)
	return s, index
}

func benchFlush(b *testing.B, s *Store, index uint64) {
	f, err := s.Freeze(index, 1, nil)
	if err != nil {
		b.Fatal(err)
	}
	if err := f.Run(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkWrite applies entries of 4 KiB; the flushes are not counted.
func BenchmarkWrite(b *testing.B) {
	s, index := benchStore(b)
	p := make([]byte, BlockSize)
	sums := sumBytes(0, p)
	b.SetBytes(BlockSize)
	b.ReportAllocs()
	for b.Loop() {
		index++
		if err := s.Write(1, int64(mix(index)%(64<<20/BlockSize))*BlockSize, p, sums, 0, index); err != nil {
			b.Fatal(err)
		}
		if s.WantsFlush() {
			b.StopTimer()
			benchFlush(b, s, index)
			b.StartTimer()
		}
	}
}

func benchRead(b *testing.B, size int) {
	s, _ := benchStore(b)
	p := make([]byte, size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	n := uint64(0)
	for b.Loop() {
		n++
		if err := s.ReadAt(1, int64(mix(n)%(63<<20/BlockSize))*BlockSize, p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead4K(b *testing.B) { benchRead(b, BlockSize) }
func BenchmarkRead1M(b *testing.B) { benchRead(b, 1<<20) }

// BenchmarkOpen opens an empty store and flushes one block, as a simulation does all the time.
func BenchmarkOpen(b *testing.B) {
	p := make([]byte, BlockSize)
	sums := sumBytes(0, p)
	b.ReportAllocs()
	for b.Loop() {
		s, _, err := Open(disk.NewMem(), Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Create(1, "v", 1); err != nil {
			b.Fatal(err)
		}
		if err := s.Write(1, 0, p, sums, 0, 2); err != nil {
			b.Fatal(err)
		}
		benchFlush(b, s, 2)
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
