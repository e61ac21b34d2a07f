package log

import (
	"encoding/binary"
	"hash/crc32"
)

// skipBlock is what a block of zeros does to a checksum's register: the register is a vector of bits, appending zeros a
// linear map of it, and the map of each of its four bytes a table. So the checksum of data is worked out of those of its
// blocks, which came with it: crc(a+b) = skip(crc(a)) XOR crc(b).
var skipBlock = func() (tables [4][256]uint32) {
	var zeros [blockSize]byte
	for i := range tables {
		for b := range tables[i] {
			tables[i][b] = ^crc32.Update(^(uint32(b) << (8 * i)), castagnoli, zeros[:])
		}
	}
	return tables
}()

// addBlocks returns the checksum of some data and the blocks behind it, whose checksums are sums, 4 bytes each.
func addBlocks(sum uint32, sums []byte) uint32 {
	for ; len(sums) > 0; sums = sums[4:] {
		sum = skipBlock[0][sum&0xff] ^ skipBlock[1][sum>>8&0xff] ^ skipBlock[2][sum>>16&0xff] ^ skipBlock[3][sum>>24] ^
			binary.LittleEndian.Uint32(sums)
	}
	return sum
}

// sum is the CRC32C of the entry's data. That of its end follows from what Home tells.
func (e *Entry) sum() uint32 {
	n := len(e.Data) - int(e.Home.Blocks)*blockSize
	if e.Home.Blocks == 0 || n < 0 || len(e.Home.Sums) != 4*int(e.Home.Blocks) {
		return crc32.Checksum(e.Data, castagnoli)
	}
	return addBlocks(crc32.Checksum(e.Data[:n], castagnoli), e.Home.Sums)
}
