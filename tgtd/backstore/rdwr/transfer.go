package rdwr

import (
	"fmt"
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

// alignedBytes returns n zero bytes at a multiple of 4096.
func alignedBytes(n int) []byte {
	b := make([]byte, n+4096)
	skip := int(-uintptr(unsafe.Pointer(&b[0])) & 4095)
	return b[skip : skip+n : skip+n]
}

// way says how to move data: through which file, and whether through memory of our own.
func (s *store) way(b []byte, offset int64) (f file, bounce bool) {
	if s.buffered == nil {
		return s.file, false
	}
	if (offset|int64(len(b)))&(s.align-1) != 0 {
		return s.buffered, false // the kernel keeps the page cache and direct I/O coherent
	}
	return s.file, int64(uintptr(unsafe.Pointer(unsafe.SliceData(b))))&(s.memAlign-1) != 0
}

// readFull reads all of b, however often the system returns early.
func (s *store) readFull(b []byte, offset int64) error {
	f, bounce := s.way(b, offset)
	if !bounce {
		return each(b, offset, f.pread)
	}
	chunk := s.chunks.Get().(*[]byte)
	defer s.chunks.Put(chunk)
	for len(b) > 0 {
		part := (*chunk)[:min(len(b), chunkBytes)]
		if err := each(part, offset, f.pread); err != nil {
			return err
		}
		b, offset = b[copy(b, part):], offset+int64(len(part))
	}
	return nil
}

// writeFull writes all of b; durable: it is on stable storage when the call returns.
func (s *store) writeFull(b []byte, offset int64, durable bool) error {
	f, bounce := s.way(b, offset)
	pwrite := f.pwrite
	if durable {
		pwrite = f.pwriteDurable
	}
	if !bounce {
		return each(b, offset, pwrite)
	}
	chunk := s.chunks.Get().(*[]byte)
	defer s.chunks.Put(chunk)
	for len(b) > 0 {
		n := copy(*chunk, b)
		if err := each((*chunk)[:n], offset, pwrite); err != nil {
			return err
		}
		b, offset = b[n:], offset+int64(n)
	}
	return nil
}

// zeroFull makes a range read as zeros, in one call where the system has it.
func (s *store) zeroFull(offset, length int64) error {
	if err := s.file.zero(offset, length); !unsupported(err) {
		return err
	}
	zeros := s.zeros()
	for length > 0 {
		n := min(length, int64(len(zeros)))
		if err := s.writeFull(zeros[:n], offset, false); err != nil {
			return err
		}
		offset, length = offset+n, length-n
	}
	return nil
}

// each repeats a transfer until all of b is done.
func each(b []byte, offset int64, transfer func([]byte, int64) (int, error)) error {
	for len(b) > 0 {
		n, err := transfer(b[:min(len(b), maxTransfer)], offset)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n <= 0:
			return fmt.Errorf("the medium ends %d bytes early: %w", len(b), io.ErrUnexpectedEOF)
		}
		b, offset = b[n:], offset+int64(n)
	}
	return nil
}
