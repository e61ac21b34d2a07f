package console

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// units are the letters a size may end in, each 1024 times the one before, from 1024 bytes.
const units = "KMGT"

// ParseSize reads num{K|M|G|T}: 1K to 64T, in bytes.
func ParseSize(text string) (bytes int64, err error) {
	number, unit := text, -1
	if n := len(text); n > 0 {
		number, unit = text[:n-1], strings.IndexByte(units, text[n-1]&^0x20)
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if unit < 0 || err != nil || n == 0 || number[0] == '+' {
		return 0, fmt.Errorf("%q is no size: a number and one of K, M, G and T are wanted, as in 1T", text)
	}
	shift := 10 * (unit + 1)
	if bits.Len64(n)+shift > 63 || n<<shift > op.MaxVolume {
		return 0, fmt.Errorf("%q is too large: a volume has at most %s", text, SizeText(op.MaxVolume))
	}
	return int64(n << shift), nil
}

// SizeText writes a size the way ParseSize reads it, and in bytes where it can't.
func SizeText(bytes int64) string {
	for i := len(units); i > 0; i-- {
		if unit := int64(1) << (10 * i); bytes%unit == 0 && bytes > 0 {
			return fmt.Sprintf("%d%c", bytes/unit, units[i-1])
		}
	}
	return fmt.Sprintf("%d bytes", bytes)
}
