package admin

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// MaxMethod is the longest name of a method in bytes.
const MaxMethod = 64

// The codes of a KindAdminPart.
const (
	PartMore   uint16 = 0
	PartLast   uint16 = 1
	PartFailed uint16 = 2
)

// Request asks for a method.
type Request struct {
	Method string
	Args   json.RawMessage // empty: none
}

// AppendRequest appends the byte form of r.
func AppendRequest(b []byte, r Request) ([]byte, error) {
	n := len(b) + 2 + len(r.Method) + len(r.Args)
	if len(r.Method) == 0 || len(r.Method) > MaxMethod || n-len(b) > wire.MaxAdmin {
		return b, fmt.Errorf("%w: a request of %d bytes for method %q", wire.ErrProtocol, n-len(b), r.Method)
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(len(r.Method)))
	return append(append(b, r.Method...), r.Args...), nil
}

// ParseRequest reads what AppendRequest wrote. Args is a view of b.
func ParseRequest(b []byte) (Request, error) {
	if len(b) < 2 {
		return Request{}, fmt.Errorf("%w: a request of %d bytes", wire.ErrProtocol, len(b))
	}
	n := int(binary.LittleEndian.Uint16(b))
	if n == 0 || n > MaxMethod || n > len(b)-2 {
		return Request{}, fmt.Errorf("%w: a method of %d bytes in a request of %d", wire.ErrProtocol, n, len(b))
	}
	r := Request{Method: string(b[2 : 2+n]), Args: b[2+n:]}
	if len(r.Args) > 0 && !json.Valid(r.Args) {
		return Request{}, fmt.Errorf("%w: the arguments of %q are not JSON", wire.ErrProtocol, r.Method)
	}
	return r, nil
}

// Code says for programs why a request failed. Codes are never renamed.
type Code string

// The codes.
const (
	UnknownMethod Code = "unknown-method"
	BadArguments  Code = "bad-arguments"
	NotMaster     Code = "not-master" // only the master can do it: Error.Master, if one is known
	Refused       Code = "refused"    // it would do harm, or is not possible now; the text says what would be needed
	Busy          Code = "busy"       // too many requests, or another of the kind is under way
	TimedOut      Code = "timed-out"  // it may still happen
	Failed        Code = "failed"     // tried, and gone wrong
)

// Error is what a server answers when it did not do what was asked for.
type Error struct {
	Code   Code     `json:"code"`
	Text   string   `json:"text"`
	Master *cell.ID `json:"master,omitempty"` // with NotMaster, if the server knows one
}

// Error is the text.
func (e *Error) Error() string { return e.Text }

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// AsError finds the Error in err; any other becomes one with the code Failed.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: Failed, Text: err.Error()}
}
