package op

import (
	"encoding/binary"
	"fmt"
)

// Volumes have attributes: small named values beside the data, for those who serve the volume together.
// AttrSet changes one if it has the version that the operation names, 0 standing for one that is not
// there. Its arguments are, behind the block sums of the value, the name and the version, u64.

// Limits of attributes.
const (
	MaxAttr = 64 << 10 // bytes of a value
)

// AttrArgs are the arguments of an AttrSet.
func AttrArgs(name string, version uint64, value []byte) []byte {
	var args []byte
	for _, s := range AppendSums(nil, 0, value) {
		args = binary.LittleEndian.AppendUint32(args, s)
	}
	return binary.LittleEndian.AppendUint64(AppendString(args, name), version)
}

// Attr takes the arguments of an AttrSet apart.
func (o *Op) Attr() (name string, version uint64, err error) {
	name, rest, err := String(o.More())
	if err != nil {
		return "", 0, err
	}
	if len(rest) != 8 {
		return "", 0, fmt.Errorf("%w: %d bytes for the version of an attribute", ErrInvalid, len(rest))
	}
	return name, binary.LittleEndian.Uint64(rest), nil
}
