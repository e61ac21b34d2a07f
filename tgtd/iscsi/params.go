package iscsi

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// The errors of Params.Set.
var (
	ErrUnknownParam = errors.New("no such iSCSI parameter")
	ErrParamValue   = errors.New("invalid value of an iSCSI parameter")
)

// Limits of numeric keys (RFC 7143 section 13; MaxQueueCmd is tgt's own).
const (
	minSegment    = 512
	maxSegment    = 1<<24 - 1
	maxQueueDepth = 512
)

// keyID is an index into the table of keys.
type keyID uint8

// The keys in the order in which `tgtadm --op show --mode target --tid N` prints them and in which a
// target proposes them at login.
const (
	keyMaxRecvDataSegmentLength keyID = iota
	keyHeaderDigest
	keyDataDigest
	keyInitialR2T
	keyMaxOutstandingR2T
	keyImmediateData
	keyFirstBurstLength
	keyMaxBurstLength
	keyDataPDUInOrder
	keyDataSequenceInOrder
	keyErrorRecoveryLevel
	keyIFMarker
	keyOFMarker
	keyDefaultTime2Wait
	keyDefaultTime2Retain
	keyOFMarkInt
	keyIFMarkInt
	keyMaxConnections
	keyRDMAExtensions
	keyTargetRecvDataSegmentLength
	keyInitiatorRecvDataSegmentLength
	keyMaxOutstandingUnexpectedPDUs
	keyMaxXmitDataSegmentLength
	keyMaxQueueCmd
	keyCount
)

// keyKind is how a key's value is written and agreed on (RFC 7143 6.2).
type keyKind uint8

const (
	kindDeclared keyKind = iota // a number that each side declares for itself
	kindMin                     // a number, the smaller wins
	kindMax                     // a number, the larger wins
	kindOr                      // Yes or No, Yes wins
	kindAnd                     // Yes or No, No wins
	kindDigest                  // a list of None and CRC32C, CRC32C wins if both have it
	kindMarkInt                 // obsolete: refused
	kindLocal                   // a number that is not negotiated
)

// Values of keys of the kinds kindOr, kindAnd and kindDigest.
const (
	no, yes            = 0, 1
	noDigest, crc32cOn = 0, 1
)

// key describes one key.
type key struct {
	name     string
	kind     keyKind
	initial  uint32 // the default of RFC 7143, and of a new target
	min, max uint32
	propose  bool // the target proposes the key when its value is not the default
}

// keys is the table of RFC 7143 section 13, with the keys that tgt has beyond it. It is never written.
var keys = [keyCount]key{
	keyMaxRecvDataSegmentLength:       {"MaxRecvDataSegmentLength", kindDeclared, 8192, minSegment, maxSegment, true},
	keyHeaderDigest:                   {"HeaderDigest", kindDigest, noDigest, 0, 1, true},
	keyDataDigest:                     {"DataDigest", kindDigest, noDigest, 0, 1, true},
	keyInitialR2T:                     {"InitialR2T", kindOr, yes, no, yes, true},
	keyMaxOutstandingR2T:              {"MaxOutstandingR2T", kindMin, 1, 1, 65535, true},
	keyImmediateData:                  {"ImmediateData", kindAnd, yes, no, yes, true},
	keyFirstBurstLength:               {"FirstBurstLength", kindMin, 65536, minSegment, maxSegment, true},
	keyMaxBurstLength:                 {"MaxBurstLength", kindMin, 262144, minSegment, maxSegment, true},
	keyDataPDUInOrder:                 {"DataPDUInOrder", kindOr, yes, no, yes, true},
	keyDataSequenceInOrder:            {"DataSequenceInOrder", kindOr, yes, no, yes, true},
	keyErrorRecoveryLevel:             {"ErrorRecoveryLevel", kindMin, 0, 0, 2, true},
	keyIFMarker:                       {"IFMarker", kindAnd, no, no, yes, true},
	keyOFMarker:                       {"OFMarker", kindAnd, no, no, yes, true},
	keyDefaultTime2Wait:               {"DefaultTime2Wait", kindMax, 2, 0, 3600, true},
	keyDefaultTime2Retain:             {"DefaultTime2Retain", kindMin, 20, 0, 3600, true},
	keyOFMarkInt:                      {"OFMarkInt", kindMarkInt, 0, 0, 1, false},
	keyIFMarkInt:                      {"IFMarkInt", kindMarkInt, 0, 0, 1, false},
	keyMaxConnections:                 {"MaxConnections", kindMin, 1, 1, 65535, true},
	keyRDMAExtensions:                 {"RDMAExtensions", kindAnd, yes, no, yes, false},
	keyTargetRecvDataSegmentLength:    {"TargetRecvDataSegmentLength", kindMin, 262144, minSegment, maxSegment, false},
	keyInitiatorRecvDataSegmentLength: {"InitiatorRecvDataSegmentLength", kindMin, 262144, minSegment, maxSegment, false},
	keyMaxOutstandingUnexpectedPDUs:   {"MaxOutstandingUnexpectedPDUs", kindMin, 0, 0, math.MaxUint32, false},
	keyMaxXmitDataSegmentLength:       {"MaxXmitDataSegmentLength", kindLocal, 8192, minSegment, maxSegment, false},
	keyMaxQueueCmd:                    {"MaxQueueCmd", kindLocal, 128, 1, maxQueueDepth, false},
}

// Params are the parameters of a target that an operator can set: what it negotiates from at login.
// A change holds for later logins. Params is a value; copies are independent.
type Params struct {
	NopInterval int // seconds between NOP-In pings, 0 or less for none
	NopCount    int // unanswered pings after which a connection is closed, 0 or less for never

	value [keyCount]uint32
}

// DefaultParams are those of a new target: the defaults of RFC 7143 section 13 and a queue of 128.
func DefaultParams() Params {
	var p Params
	for k := range keys {
		p.value[k] = keys[k].initial
	}
	return p
}

// Set changes one parameter as `tgtadm --op update --mode target --name NAME --value VALUE` does. Names
// of keys may be in any case; nop_interval and nop_count are case-sensitive and may have a tail. Numbers
// are read as C does, in base 8, 10 or 16, up to the first byte that is no digit. It returns
// ErrUnknownParam or ErrParamValue and then changes nothing.
func (p *Params) Set(name, value string) error {
	switch {
	case strings.HasPrefix(name, "nop_interval"):
		p.NopInterval = atoi(value)
		return nil
	case strings.HasPrefix(name, "nop_count"):
		p.NopCount = atoi(value)
		return nil
	}
	for id := range keys {
		if strings.EqualFold(keys[id].name, name) {
			v, ok := keys[id].parse(value)
			if id == int(keyMaxOutstandingUnexpectedPDUs) && v == 1 {
				ok = false // 0, or 2 and more (RFC 7145 6.7)
			}
			if !ok {
				return fmt.Errorf("%w: %s=%.80q", ErrParamValue, keys[id].name, value)
			}
			p.value[id] = v
			return nil
		}
	}
	return fmt.Errorf("%w: %.80q", ErrUnknownParam, name)
}

// parse reads a value as an operator writes it.
func (k *key) parse(value string) (uint32, bool) {
	switch k.kind {
	case kindOr, kindAnd:
		switch value {
		case "Yes":
			return yes, true
		case "No":
			return no, true
		}
		return 0, false
	case kindDigest:
		v := uint32(noDigest)
		for item := range strings.SplitSeq(value, ",") {
			switch {
			case strings.HasPrefix(item, "CRC32C"):
				v = crc32cOn
			case !strings.HasPrefix(item, "None"):
				return 0, false
			}
		}
		return v, true
	case kindMarkInt:
		return 1, true // whatever it is: show prints Irrelevant from now on
	}
	v := strtoul(value)
	return v, v >= k.min && v <= k.max
}

// format writes a value as show prints it.
func (k *key) format(v uint32) string {
	switch k.kind {
	case kindOr, kindAnd:
		return yesNo(v)
	case kindDigest:
		return digestName(v)
	case kindMarkInt:
		if v == 0 {
			return "Reject"
		}
		return "Irrelevant"
	}
	return strconv.FormatUint(uint64(v), 10)
}

func yesNo(v uint32) string {
	if v == yes {
		return "Yes"
	}
	return "No"
}

func digestName(v uint32) string {
	if v == crc32cOn {
		return "CRC32C"
	}
	return "None"
}

// Show gives the lines that `tgtadm --op show --mode target --tid N` prints, each ended by a newline.
func (p Params) Show() string {
	var b strings.Builder
	fmt.Fprintf(&b, "nop_interval=%d\nnop_count=%d\n", p.NopInterval, p.NopCount)
	for id := range keys {
		fmt.Fprintf(&b, "%s=%s\n", keys[id].name, keys[id].format(p.value[id]))
	}
	return b.String()
}

// QueueDepth is MaxQueueCmd: the command window of a session.
func (p Params) QueueDepth() int { return int(p.value[keyMaxQueueCmd]) }

// strtoul reads a number like the C function with base 0, cut to 32 bits as tgt cuts it: leading blanks,
// a sign, 0x or 0, digits up to the first other byte. No digits at all is 0.
func strtoul(s string) uint32 {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	negative := strings.HasPrefix(s, "-")
	if negative || strings.HasPrefix(s, "+") {
		s = s[1:]
	}
	base := uint64(10)
	switch {
	case len(s) > 2 && s[0] == '0' && s[1]|0x20 == 'x' && digit(s[2]) < 16:
		base, s = 16, s[2:]
	case len(s) > 0 && s[0] == '0':
		base = 8
	}
	var v uint64
	for i := 0; i < len(s) && digit(s[i]) < base; i++ {
		if v > (math.MaxUint64-digit(s[i]))/base {
			v, negative = math.MaxUint64, false
			break
		}
		v = v*base + digit(s[i])
	}
	if negative {
		v = -v
	}
	return uint32(v)
}

func digit(c byte) uint64 {
	switch {
	case c >= '0' && c <= '9':
		return uint64(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return uint64(c|0x20-'a') + 10
	}
	return math.MaxUint64
}

// atoi reads a decimal number like the C function: 0 when there is none, clamped to 32 bits.
func atoi(s string) int {
	s = strings.TrimLeft(s, " \t\n\v\f\r")
	end := 0
	for end < len(s) && (s[end] >= '0' && s[end] <= '9' || end == 0 && (s[0] == '-' || s[0] == '+')) {
		end++
	}
	v, err := strconv.ParseInt(s[:end], 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0
	}
	return int(max(math.MinInt32, min(math.MaxInt32, v)))
}
