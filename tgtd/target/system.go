package target

import (
	"fmt"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// isnsSettings are those of an iSNS server (RFC 4171); see isns.go for what they do.
type isnsSettings struct {
	on      bool
	address string
	port    int
	control bool // the iSNS server says who may log in
}

const defaultISNSPort = 3205

// SetDebug turns debugging messages on or off.
func (m *Model) SetDebug(value string) error {
	if value != "on" && value != "off" {
		return fmt.Errorf("debug %.80q is neither on nor off: %w", value, mgmt.ErrInvalid)
	}
	m.o.SetDebug(value == "on")
	return m.update(func() error {
		m.debug = value == "on"
		return nil
	})
}

// Setting is a name and a value.
type Setting struct {
	Name, Value string
}

// SetSystem changes settings of the system: State (ready, offline), iSNS (On, Off), iSNSServerIP,
// iSNSServerPort, iSNSAccessControl (On; anything else is Off). It returns mgmt.ErrInvalid when one of
// the names or values is none, and then changes none.
func (m *Model) SetSystem(settings []Setting) error {
	err := m.update(func() error {
		offline, isns := m.offline, m.isns
		for _, s := range settings {
			var err error
			switch s.Name {
			case "State":
				offline, err = either(s, "offline", "ready")
			case "iSNS":
				isns.on, err = either(s, "On", "Off")
			case "iSNSServerIP":
				isns.address = s.Value
			case "iSNSServerPort":
				isns.port, err = portNumber(s)
			case "iSNSAccessControl":
				isns.control = s.Value == "On"
			default:
				err = fmt.Errorf("system parameter %.80q: %w", s.Name, mgmt.ErrInvalid)
			}
			if err != nil {
				return err
			}
		}
		m.offline, m.isns = offline, isns
		return nil
	})
	if err == nil {
		m.followISNS()
	}
	return err
}

// either reads a value that is one of two words.
func either(s Setting, yes, no string) (bool, error) {
	if s.Value != yes && s.Value != no {
		return false, fmt.Errorf("%s %.80q is neither %s nor %s: %w", s.Name, s.Value, yes, no, mgmt.ErrInvalid)
	}
	return s.Value == yes, nil
}

// portNumber reads a TCP port.
func portNumber(s Setting) (int, error) {
	n, rest, ok := cNumber(s.Value, 10)
	if !ok || rest != "" || n < 0 || n > 65535 {
		return 0, fmt.Errorf("%s %.80q is no port: %w", s.Name, s.Value, mgmt.ErrInvalid)
	}
	return int(n), nil
}

// cNumber reads a number as C's strtoll does: blanks, a sign, digits; base 0 is told by 0 and 0x. It returns
// what follows the digits, and false when there are none or the number is too big.
func cNumber(s string, base int) (n int64, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	negative := strings.HasPrefix(s, "-")
	if negative || strings.HasPrefix(s, "+") {
		s = s[1:]
	}
	if base == 0 {
		base = 10
		if lower := strings.ToLower(s); strings.HasPrefix(lower, "0x") && len(s) > 2 && digit(s[2]) < 16 {
			base, s = 16, s[2:]
		} else if strings.HasPrefix(s, "0") {
			base = 8
		}
	}
	const limit = 1 << 62
	i := 0
	for ; i < len(s) && digit(s[i]) < base; i++ {
		if n = n*int64(base) + int64(digit(s[i])); n >= limit/16 {
			return 0, "", false
		}
	}
	if negative {
		n = -n
	}
	return n, s[i:], i > 0
}

// digit is the value of a digit, 99 when it is none.
func digit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return 99
}
