package iscsi

import (
	"math"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// Answers of RFC 7143 6.2.
const (
	answerReject        = "Reject"
	answerNotUnderstood = "NotUnderstood"
	answerIrrelevant    = "Irrelevant"
)

// silentKeys are those of the login itself: in the operational stage they are read past.
func silentKey(name string) bool {
	switch name {
	case "SessionType", "InitiatorName", "InitiatorAlias", "TargetName", "AuthMethod":
		return true
	}
	return false
}

// negotiation is the operational stage of one login (RFC 7143 6.2, 6.3.3): what the target wants,
// what was agreed on so far, and what it has proposed itself.
type negotiation struct {
	ours     Params
	agreed   [keyCount]uint32
	settled  [keyCount]bool // the initiator named the key
	proposed [keyCount]bool // we named it first
	opened   bool           // our proposals went out
	segment  uint32         // MaxRecvDataSegmentLength of the initiator, bytes
}

func newNegotiation(ours Params) *negotiation {
	n := &negotiation{ours: ours}
	// What an operator may set and this target does not do: markers, which RFC 7143 13.25 has abolished, and
	// recovery of lost connections.
	n.ours.value[keyIFMarker], n.ours.value[keyOFMarker] = no, no
	n.ours.value[keyErrorRecoveryLevel] = min(ours.value[keyErrorRecoveryLevel], maxRecoveryLevel)
	for id := range keys {
		n.agreed[id] = keys[id].initial
	}
	n.segment = keys[keyMaxRecvDataSegmentLength].initial
	return n
}

// receive takes one key of the initiator and appends the answer to out where it has one.
func (n *negotiation) receive(out []byte, name, value string) []byte {
	if silentKey(name) {
		return out
	}
	for i := range keys {
		if keys[i].name == name {
			return n.negotiate(out, keyID(i), value)
		}
	}
	return pdu.AppendText(out, name, answerNotUnderstood)
}

func (n *negotiation) negotiate(out []byte, id keyID, value string) []byte {
	k := &keys[id]
	switch k.kind {
	case kindLocal:
		return pdu.AppendText(out, k.name, answerNotUnderstood)
	case kindMarkInt:
		return pdu.AppendText(out, k.name, answerReject)
	}
	theirs, ok := k.offer(value)
	if n.proposed[id] && !n.settled[id] && k.kind != kindDeclared {
		// The answer to a proposal of ours. One that is no value leaves the RFC's default.
		n.settled[id] = true
		if ok {
			n.agreed[id] = k.combine(n.ours.value[id], theirs)
		}
		return out
	}
	if !ok {
		return pdu.AppendText(out, k.name, answerReject)
	}
	if k.kind == kindDeclared {
		n.segment = theirs
		return out
	}
	n.settled[id] = true
	n.agreed[id] = k.combine(n.ours.value[id], theirs)
	return pdu.AppendText(out, k.name, k.format(n.agreed[id]))
}

// propose appends what the target brings up by itself: once, every key whose value is not the RFC's
// default and that the initiator left out; and the segment lengths of RFC 7145 6.2 when RDMAExtensions
// was agreed on. The initiator has to be heard again when anything was appended.
func (n *negotiation) propose(out []byte) ([]byte, bool) {
	before := len(out)
	if n.settled[keyRDMAExtensions] && n.agreed[keyRDMAExtensions] == yes {
		for _, id := range [...]keyID{keyTargetRecvDataSegmentLength, keyInitiatorRecvDataSegmentLength} {
			out = n.bringUp(out, id)
		}
	}
	if !n.opened {
		n.opened = true
		for i := range keys {
			if keys[i].propose && n.ours.value[i] != keys[i].initial {
				out = n.bringUp(out, keyID(i))
			}
		}
	}
	return out, len(out) > before
}

func (n *negotiation) bringUp(out []byte, id keyID) []byte {
	if n.settled[id] || n.proposed[id] {
		return out
	}
	n.proposed[id] = true
	if keys[id].kind == kindDeclared {
		n.agreed[id] = n.ours.value[id] // a declaration holds without an answer
	}
	return pdu.AppendText(out, keys[id].name, keys[id].format(n.ours.value[id]))
}

// offer reads a value as a peer writes it: lists for digests, decimal or 0x numbers, Yes or No.
func (k *key) offer(value string) (uint32, bool) {
	switch k.kind {
	case kindOr, kindAnd:
		return k.parse(value)
	case kindDigest:
		v, known := uint32(noDigest), false
		for item := range strings.SplitSeq(value, ",") {
			switch item {
			case "CRC32C":
				v, known = crc32cOn, true
			case "None":
				known = true
			}
		}
		return v, known
	}
	v, ok := parseNumber(value)
	return v, ok && v >= k.min && v <= k.max
}

// combine is the key's result function (RFC 7143 6.2.2).
func (k *key) combine(ours, theirs uint32) uint32 {
	switch k.kind {
	case kindMax, kindOr:
		return max(ours, theirs)
	default: // kindMin, kindAnd and kindDigest: what both have
		return min(ours, theirs)
	}
}

// parseNumber reads a numerical value of RFC 7143 6.1: decimal, or hexadecimal after 0x.
func parseNumber(s string) (uint32, bool) {
	base := 10
	if len(s) > 2 && s[0] == '0' && s[1]|0x20 == 'x' {
		base, s = 16, s[2:]
	}
	if s == "" || s[0] == '+' || s[0] == '-' || strings.Contains(s, "_") {
		return 0, false
	}
	v, err := strconv.ParseUint(s, base, 32)
	return uint32(v), err == nil && v <= math.MaxUint32
}

// agreement is what a login agreed on, as the full feature phase uses it. Lengths are bytes.
type agreement struct {
	digests         pdu.Digests
	sendSegment     int // at most so much data in a PDU to the initiator
	receiveSegment  int // and in one from it
	maxBurst        int
	firstBurst      int
	initialR2T      bool
	immediateData   bool
	dataPDUInOrder  bool
	maxR2T          int
	maxConnections  int
	time2Wait       uint16
	time2Retain     uint16
	errorRecovery   int
	queueDepth      int
	nopInterval     int // seconds
	nopCount        int
	sendTargetsHere bool // text requests are answered: always in a discovery session
}

func (n *negotiation) agreement() agreement {
	a := &n.agreed
	return agreement{
		digests:        pdu.Digests{Header: a[keyHeaderDigest] == crc32cOn, Data: a[keyDataDigest] == crc32cOn},
		sendSegment:    int(n.segment),
		receiveSegment: int(a[keyMaxRecvDataSegmentLength]),
		maxBurst:       int(a[keyMaxBurstLength]),
		// FirstBurstLength may exceed MaxBurstLength here, against RFC 7143 13.14: when only one of
		// them was talked about, initiators go by what was said of each.
		firstBurst:     int(a[keyFirstBurstLength]),
		initialR2T:     a[keyInitialR2T] == yes,
		immediateData:  a[keyImmediateData] == yes,
		dataPDUInOrder: a[keyDataPDUInOrder] == yes,
		maxR2T:         int(a[keyMaxOutstandingR2T]),
		maxConnections: int(a[keyMaxConnections]),
		time2Wait:      uint16(a[keyDefaultTime2Wait]),
		time2Retain:    uint16(a[keyDefaultTime2Retain]),
		errorRecovery:  int(a[keyErrorRecoveryLevel]),
		queueDepth:     n.ours.QueueDepth(),
		nopInterval:    n.ours.NopInterval,
		nopCount:       n.ours.NopCount,
	}
}
