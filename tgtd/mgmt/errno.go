package mgmt

import (
	"errors"
	"fmt"
)

// Errno is the error number in an answer. Its text is the one tgtadm prints after "tgtadm: ".
type Errno uint32

// The error numbers of tgt.
const (
	Success            Errno = 0
	ErrUnknown         Errno = 1
	ErrNoMemory        Errno = 2 // a limit of the daemon is reached
	ErrNoDriver        Errno = 3
	ErrNoTarget        Errno = 4
	ErrNoUnit          Errno = 5
	ErrNoSession       Errno = 6
	ErrNoConnection    Errno = 7
	ErrNoBinding       Errno = 8
	ErrTargetExists    Errno = 9
	ErrUnitExists      Errno = 10
	ErrBindingExists   Errno = 11
	ErrRuleExists      Errno = 12
	ErrNoRule          Errno = 13
	ErrAccountExists   Errno = 14
	ErrNoAccount       Errno = 15
	ErrTooManyAccounts Errno = 16
	ErrInvalid         Errno = 17
	ErrHasOutgoing     Errno = 18
	ErrTargetActive    Errno = 19
	ErrUnitActive      Errno = 20
	ErrDriverBusy      Errno = 21
	ErrUnsupported     Errno = 22
	ErrUnknownParam    Errno = 23
	ErrPreventRemoval  Errno = 24
)

// errnoTexts are what tgtadm prints, in order of the numbers.
var errnoTexts = [...]string{
	Success:            "success",
	ErrUnknown:         "unknown error",
	ErrNoMemory:        "out of memory",
	ErrNoDriver:        "can't find the driver",
	ErrNoTarget:        "can't find the target",
	ErrNoUnit:          "can't find the logical unit",
	ErrNoSession:       "can't find the session",
	ErrNoConnection:    "can't find the connection",
	ErrNoBinding:       "can't find the binding",
	ErrTargetExists:    "this target already exists",
	ErrUnitExists:      "this logical unit number already exists",
	ErrBindingExists:   "this binding already exists",
	ErrRuleExists:      "this access control rule already exists",
	ErrNoRule:          "this access control rule does not exist",
	ErrAccountExists:   "this account already exists",
	ErrNoAccount:       "can't find the account",
	ErrTooManyAccounts: "too many accounts",
	ErrInvalid:         "invalid request",
	ErrHasOutgoing:     "this target already has an outgoing account",
	ErrTargetActive:    "this target is still active",
	ErrUnitActive:      "this logical unit is still active",
	ErrDriverBusy:      "this driver is busy",
	ErrUnsupported:     "this operation isn't supported",
	ErrUnknownParam:    "unknown parameter",
	ErrPreventRemoval:  "this device has Prevent Removal set",
}

// Error returns the text that tgtadm prints for the number.
func (e Errno) Error() string {
	if int(e) < len(errnoTexts) {
		return errnoTexts[e]
	}
	return "(unknown tgtadm_errno)"
}

// With gives err the number e and leaves its text alone: errors.Is finds both.
func (e Errno) With(err error) error {
	return &numbered{err, e}
}

// numbered is an error with a number.
type numbered struct {
	err   error
	errno Errno
}

func (n *numbered) Error() string   { return n.err.Error() }
func (n *numbered) Unwrap() []error { return []error{n.err, n.errno} }

// ErrnoOf finds the number that an error carries: Success for nil, ErrUnknown where there is none.
func ErrnoOf(err error) Errno {
	if err == nil {
		return Success
	}
	var e Errno
	if errors.As(err, &e) {
		return e
	}
	return ErrUnknown
}

// The ways in which an exchange can fail other than by an Errno. Errors of the socket itself
// (ENOENT, ECONNREFUSED, ECONNRESET, …) are wrapped and can be told by errors.Is.
var (
	ErrPathTooLong = fmt.Errorf("the path of a management socket is limited to %d bytes", MaxPath)
	ErrNoAnswer    = errors.New("the daemon closed the connection without an answer")
	ErrPartial     = errors.New("the daemon closed the connection in the middle of its answer")
	ErrMalformed   = errors.New("malformed management message")
	ErrTooLarge    = errors.New("management message beyond its limit")
)
