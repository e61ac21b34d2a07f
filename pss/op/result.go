package op

import (
	"encoding/binary"
	"fmt"
)

// Errno says how an operation ended. The numbers are part of the protocol and of checkpoints.
type Errno uint16

// The ends an operation can come to. They depend on the agreed log alone, so all servers find the same.
const (
	OK          Errno = iota
	NotFound          // no such name or object
	Exists            // the name is taken, or the volume is there with another size
	NotDir            // a folder was wanted
	IsDir             // a file was wanted
	NotEmpty          // the folder has entries
	Invalid           // the operation makes no sense
	Fenced            // a newer token was given out for the object
	StaleEpoch        // the session was reopened since
	NoSession         // the session is not known, or was closed
	Miscompare        // CompareAndWrite: Value is the offset of the first difference, in bytes from Offset
	OutOfRange        // beyond the object's end
	TooMany           // a named limit was reached
	TooOld            // the sequence number was answered and forgotten
	Kind              // a volume where a file was wanted, or the reverse
	NoSpace           // the disks of a majority of the servers are full
	ReadDamaged       // no server has the block undamaged
	Moved             // the volume's shared token moved on: reopen it shared
	Conflict          // the attribute is not of the version that was named; Value is the version it has
	errnos
)

var errnoTexts = [...]string{"success", "no such file or directory", "file exists", "not a directory",
	"is a directory", "directory not empty", "invalid argument", "fenced by a newer opener",
	"the session was reopened", "no such session", "the stored data differs", "beyond the end",
	"too many", "already answered", "wrong kind of object",
	"no space left on a majority of the servers", "the stored data is damaged on all servers that were asked",
	"the volume's shared token moved on", "the attribute has another version"}

// Error makes an Errno an error.
func (e Errno) Error() string {
	if e < errnos {
		return errnoTexts[e]
	}
	return fmt.Sprintf("error %d", uint16(e))
}

// Result is what applying an operation answers. Its meaning depends on the code; unused fields are 0.
type Result struct {
	Errno  Errno
	Object uint64 // CreateFile, VolumeCreate, VolumeOpen
	Token  uint64 // VolumeOpen, AttrSet: the volume's token from here on
	Value  uint64 // VolumeOpen, VolumeCreate with Exists: size in bytes. CompareAndWrite: first difference. AttrSet: version
}

// ResultSize is the size of an encoded Result in bytes.
const ResultSize = 28

// AppendResult appends r: u16 errno, u16 zero, u64 object, u64 token, u64 value.
func AppendResult(b []byte, r Result) []byte {
	le := binary.LittleEndian
	b = le.AppendUint16(b, uint16(r.Errno))
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, r.Object)
	b = le.AppendUint64(b, r.Token)
	return le.AppendUint64(b, r.Value)
}

// ParseResult reads what AppendResult wrote.
func ParseResult(b []byte) (Result, error) {
	if len(b) != ResultSize {
		return Result{}, fmt.Errorf("%w: a result of %d bytes", ErrInvalid, len(b))
	}
	le := binary.LittleEndian
	if z := le.Uint16(b[2:]); z != 0 {
		return Result{}, fmt.Errorf("%w: a result with %#x where zero belongs", ErrInvalid, z)
	}
	return Result{Errno: Errno(le.Uint16(b)), Object: le.Uint64(b[4:]), Token: le.Uint64(b[12:]), Value: le.Uint64(b[20:])}, nil
}
