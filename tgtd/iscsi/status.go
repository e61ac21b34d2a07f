package iscsi

import "fmt"

// LoginStatus is status class and detail of a login response, class in the upper byte
// (RFC 7143 11.13.5).
type LoginStatus uint16

// The codes of RFC 7143 11.13.5. LoginForbidden exists for completeness: like tgt, this target
// answers TargetNotFound to an initiator that access rules keep out, so that it learns nothing.
const (
	LoginSuccess          LoginStatus = 0x0000
	TargetMovedTemp       LoginStatus = 0x0101
	TargetMovedPerm       LoginStatus = 0x0102
	InitiatorError        LoginStatus = 0x0200
	AuthFailure           LoginStatus = 0x0201
	LoginForbidden        LoginStatus = 0x0202
	TargetNotFound        LoginStatus = 0x0203
	TargetRemoved         LoginStatus = 0x0204
	UnsupportedVersion    LoginStatus = 0x0205
	TooManyConnections    LoginStatus = 0x0206
	MissingParameter      LoginStatus = 0x0207
	CantIncludeInSession  LoginStatus = 0x0208
	SessionTypeNotSupport LoginStatus = 0x0209
	SessionDoesNotExist   LoginStatus = 0x020a
	InvalidDuringLogin    LoginStatus = 0x020b
	TargetError           LoginStatus = 0x0300 // also: the target is offline
	ServiceUnavailable    LoginStatus = 0x0301
	OutOfResources        LoginStatus = 0x0302
)

// TargetUnavailable is what tgt answers for a target whose state is offline.
const TargetUnavailable = TargetError

// Class is the status class: 0 success, 1 redirection, 2 initiator error, 3 target error.
func (s LoginStatus) Class() byte { return byte(s >> 8) }

// Detail is the status detail within its class.
func (s LoginStatus) Detail() byte { return byte(s) }

// String gives the four hexadecimal digits that initiators log.
func (s LoginStatus) String() string { return fmt.Sprintf("%04x", uint16(s)) }
