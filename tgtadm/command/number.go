package command

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The largest values of the options.
const (
	maxInt16  = math.MaxInt16
	maxInt32  = math.MaxInt32
	maxUint32 = math.MaxUint32
)

// parseNumber reads the value of an option as strtoull(3) does with base 0: blanks in front, a
// sign, 0x and 0 for the base, and junk behind the digits is not looked at. A negative number is
// its two's complement, as there, so -1 is no number at all and others are out of range for all
// but the 64-bit options.
func parseNumber(letter byte, text string, limit uint64) (uint64, error) {
	n, ok := leadingNumber(text)
	if !ok || n == math.MaxUint64 {
		return 0, badNumber("-%c argument value '%s' invalid", letter, text)
	}
	if n > limit {
		return 0, badNumber("-%c argument value '%s' out of range", letter, text)
	}
	return n, nil
}

func badNumber(format string, values ...any) error {
	return &refusal{text: fmt.Sprintf(format, values...), status: StatusUsage, bare: true, try: true}
}

// leadingNumber is strtoull(text, …, 0); a number above 64 bits is all ones. It is false where there
// is no digit.
func leadingNumber(text string) (uint64, bool) {
	text = strings.TrimLeft(text, " \t\n\v\f\r")
	negative := strings.HasPrefix(text, "-")
	if negative || strings.HasPrefix(text, "+") {
		text = text[1:]
	}
	base := uint64(10)
	switch {
	case len(text) > 2 && text[0] == '0' && text[1]|0x20 == 'x' && digit(text[2]) < 16:
		base, text = 16, text[2:]
	case len(text) > 0 && text[0] == '0':
		base = 8
	}
	var n uint64
	i := 0
	for ; i < len(text) && digit(text[i]) < base; i++ {
		d := digit(text[i])
		if n > (math.MaxUint64-d)/base {
			return math.MaxUint64, true
		}
		n = n*base + d
	}
	if negative {
		n = -n
	}
	return n, i > 0
}

// digit is the value of a digit, 36 for what is none.
func digit(c byte) uint64 {
	switch {
	case c >= '0' && c <= '9':
		return uint64(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'z':
		return uint64(c|0x20-'a') + 10
	}
	return 36
}

// noHost is what --bus without a device stands for: the negative error number of a bad argument as
// the original sends it, which matches no host.
const noHost = uint64(1<<32 - 22)

// hostOfBus finds the SCSI host number N of BUS,DEVICE by the entry hostN of the device in sysfs.
func hostOfBus(sysfs, text string) (uint64, error) {
	bus, device, ok := strings.Cut(text, ",")
	if !ok {
		return noHost, nil
	}
	// either is one name, not a path
	dir := filepath.Join(sysfs, "bus", filepath.Base("/"+bus), "devices", filepath.Base("/"+device))
	entries, err := os.ReadDir(dir)
	if err != nil || bus == "" || device == "" {
		return 0, refuse("can't find bus: %s", bus)
	}
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), "host")
		if n, err := strconv.ParseUint(digits, 10, 32); ok && err == nil {
			return n, nil
		}
	}
	return 0, refuse("can't find bus: %s", bus)
}
