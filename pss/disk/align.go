package disk

import (
	"fmt"
	"unsafe"
)

// Aligned returns a zeroed buffer of n bytes whose memory a file opened with Direct accepts.
func Aligned(n int) []byte {
	if n == 0 {
		return nil
	}
	b := make([]byte, n+Align)
	skip := 0
	if r := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % Align); r != 0 {
		skip = Align - r
	}
	return b[skip : skip+n : skip+n]
}

// checkAligned reports a transfer that direct I/O does not allow. Both implementations ask for
// the full Align although most disks make do with less: what passes here passes everywhere.
func checkAligned(p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	if off%Align != 0 || len(p)%Align != 0 ||
		uintptr(unsafe.Pointer(unsafe.SliceData(p)))%Align != 0 {
		return fmt.Errorf("direct I/O of %d bytes at offset %d: offset, length or memory is not a multiple of %d",
			len(p), off, Align)
	}
	return nil
}
