package initiator

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// newISID is a random-format ISID (RFC 7143 11.12.5).
func newISID() [6]byte {
	var id [6]byte
	rand.Read(id[:])
	id[0] = 0x80
	return id
}

// chapHash is the hash of a registered number (IANA, iSCSI CHAP algorithms), nil for others.
func chapHash(number int) func() hash.Hash {
	switch number {
	case 5:
		return md5.New
	case 6:
		return sha1.New
	case 7:
		return sha256.New
	case 8:
		return func() hash.Hash { return sha3.New256() }
	}
	return nil
}

// algorithms are the numbers that we offer.
func (o *Options) algorithms() []int {
	if len(o.Algorithms) > 0 {
		return o.Algorithms
	}
	return []int{5, 6, 7, 8}
}

// exchange is one side of a login: the requests we send and what came back.
type exchange struct {
	c     *conn
	isid  [6]byte
	tag   uint32
	keys  map[string]string // of the last response
	reply pdu.LoginResponse
}

// round sends one login request and reads the response.
func (e *exchange) round(csg, nsg pdu.Stage, transit bool, text []byte) error {
	c := e.c
	req := pdu.LoginRequest{Transit: transit, CSG: csg, NSG: nsg, ISID: e.isid, InitiatorTag: e.tag,
		CID: c.cid, CmdSN: c.cmdSN, ExpStatSN: c.expStatSN}
	if c.joins != nil {
		req.TSIH = c.joins.neg.tsih
	}
	if !transit {
		req.NSG = 0
	}
	u := pdu.PDU{Data: text}
	req.Encode(&u.Header)
	if _, err := c.nc.Write(u.Append(nil, pdu.Digests{})); err != nil {
		return err
	}
	r, err := pdu.Read(c.r, pdu.Digests{}, maxRecvSegment)
	if err != nil {
		return err
	}
	if r.Header.Opcode() != pdu.OpLoginResponse {
		return fmt.Errorf("%w: opcode %#x in the login", ErrProtocol, r.Header.Opcode())
	}
	e.reply.Decode(&r.Header)
	if e.reply.StatusClass != 0 {
		return e.refused(r.Data)
	}
	if e.reply.Continue {
		return fmt.Errorf("%w: a login response in pieces", ErrProtocol)
	}
	c.expStatSN = e.reply.StatSN + 1
	c.expSN, c.maxSN = e.reply.ExpCmdSN, e.reply.MaxCmdSN
	kvs, err := pdu.ParseText(r.Data)
	if err != nil {
		return err
	}
	e.keys = make(map[string]string, len(kvs))
	for _, kv := range kvs {
		e.keys[kv.Key] = kv.Value
	}
	return nil
}

// refused is the error of a login response without success.
func (e *exchange) refused(text []byte) error {
	refusal := LoginError{e.reply.StatusClass, e.reply.StatusDetail}
	if refusal.Class != 1 {
		return &refusal
	}
	kvs, err := pdu.ParseText(text)
	if err != nil {
		return err
	}
	for _, kv := range kvs {
		if kv.Key == "TargetAddress" {
			portal, err := where(kv.Value)
			if err != nil {
				return err
			}
			return &redirected{refusal, portal}
		}
	}
	return &refusal
}

// login takes the connection through the login phase (RFC 7143 6).
func (c *conn) login(o *Options, isid [6]byte) error {
	c.cmdSN, c.expStatSN = 1, 0
	if c.joins != nil {
		c.cmdSN = c.joins.cmdSN
		c.neg = c.joins.neg
	}
	e := &exchange{c: c, isid: isid}
	if err := e.security(o); err != nil {
		return err
	}
	return e.operational(o)
}

func (e *exchange) names(o *Options) []byte {
	b := pdu.AppendText(nil, "InitiatorName", o.Initiator)
	if o.Target == "" {
		return pdu.AppendText(b, "SessionType", "Discovery")
	}
	return pdu.AppendText(pdu.AppendText(b, "SessionType", "Normal"), "TargetName", o.Target)
}

// security proves who we are, and has the target prove who it is.
func (e *exchange) security(o *Options) error {
	text := e.names(o)
	if o.User == "" {
		text = pdu.AppendText(text, "AuthMethod", "None")
		if err := e.round(pdu.StageSecurity, pdu.StageOperational, true, text); err != nil {
			return err
		}
		return e.settled()
	}
	if err := e.round(pdu.StageSecurity, 0, false, pdu.AppendText(text, "AuthMethod", "CHAP")); err != nil {
		return err
	}
	if e.keys["AuthMethod"] != "CHAP" {
		return fmt.Errorf("%w: AuthMethod %q for CHAP", ErrProtocol, e.keys["AuthMethod"])
	}
	var offered []string
	for _, n := range o.algorithms() {
		if chapHash(n) == nil {
			return fmt.Errorf("CHAP algorithm %d: 5 to 8 are known", n)
		}
		offered = append(offered, strconv.Itoa(n))
	}
	if err := e.round(pdu.StageSecurity, 0, false, pdu.AppendText(nil, "CHAP_A", strings.Join(offered, ","))); err != nil {
		return err
	}
	return e.prove(o)
}

// prove answers the target's challenge (RFC 1994, RFC 7143 12.1.3).
func (e *exchange) prove(o *Options) error {
	var algorithm func() hash.Hash
	for _, n := range o.algorithms() {
		if strconv.Itoa(n) == e.keys["CHAP_A"] {
			algorithm = chapHash(n)
		}
	}
	id, err := strconv.ParseUint(e.keys["CHAP_I"], 0, 8)
	challenge, err2 := binaryValue(e.keys["CHAP_C"])
	if algorithm == nil || err != nil || err2 != nil {
		return fmt.Errorf("%w: challenge %q %q %q", ErrProtocol, e.keys["CHAP_A"], e.keys["CHAP_I"], e.keys["CHAP_C"])
	}
	text := pdu.AppendText(nil, "CHAP_N", o.User)
	text = pdu.AppendText(text, "CHAP_R", "0x"+hex.EncodeToString(chap(algorithm, byte(id), o.Secret, challenge)))
	var ours [32]byte
	if o.MutualUser != "" {
		rand.Read(ours[:])
		text = pdu.AppendText(text, "CHAP_I", "7")
		text = pdu.AppendText(text, "CHAP_C", "0x"+hex.EncodeToString(ours[:]))
	}
	if err := e.round(pdu.StageSecurity, pdu.StageOperational, true, text); err != nil {
		return err
	}
	if o.MutualUser != "" {
		answer, err := binaryValue(e.keys["CHAP_R"])
		if err != nil || e.keys["CHAP_N"] != o.MutualUser || !hmac.Equal(answer, chap(algorithm, 7, o.MutualSecret, ours[:])) {
			return ErrMutual
		}
	}
	return e.settled()
}

// settled moves on to the operational stage if the target has not agreed to it yet.
func (e *exchange) settled() error {
	for range maxLoginRounds {
		if e.reply.Transit {
			return nil
		}
		if err := e.round(pdu.StageSecurity, pdu.StageOperational, true, nil); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: its security stage does not end", ErrProtocol)
}

func chap(algorithm func() hash.Hash, id byte, secret string, challenge []byte) []byte {
	h := algorithm()
	h.Write([]byte{id})
	h.Write([]byte(secret))
	h.Write(challenge)
	return h.Sum(nil)
}

// binaryValue reads a hex or base64 constant (RFC 7143 6.1).
func binaryValue(s string) ([]byte, error) {
	switch {
	case strings.HasPrefix(s, "0x"), strings.HasPrefix(s, "0X"):
		return hex.DecodeString(s[2:])
	case strings.HasPrefix(s, "0b"), strings.HasPrefix(s, "0B"):
		return base64.StdEncoding.DecodeString(s[2:])
	}
	return nil, fmt.Errorf("%w: %q is no binary value", ErrProtocol, s)
}

// operational negotiates the transfer of data (RFC 7143 13).
func (e *exchange) operational(o *Options) error {
	wantDigest := func(want bool) string {
		if want {
			return "CRC32C"
		}
		return "None"
	}
	c := e.c
	text := pdu.AppendText(nil, "HeaderDigest", wantDigest(o.HeaderDigest))
	text = pdu.AppendText(text, "DataDigest", wantDigest(o.DataDigest))
	text = pdu.AppendText(text, "MaxRecvDataSegmentLength", strconv.Itoa(maxRecvSegment))
	level := "0"
	if o.Recovery {
		level = "1"
	}
	if o.Target != "" && c.joins == nil { // else they are the session's
		for _, kv := range [][2]string{{"InitialR2T", "No"}, {"ImmediateData", "Yes"},
			{"MaxBurstLength", strconv.Itoa(maxBurst)}, {"FirstBurstLength", strconv.Itoa(firstBurst)},
			{"MaxOutstandingR2T", "1"}, {"MaxConnections", strconv.Itoa(o.connections())}, {"ErrorRecoveryLevel", level},
			{"DataPDUInOrder", "Yes"}, {"DataSequenceInOrder", "Yes"},
			{"DefaultTime2Wait", "0"}, {"DefaultTime2Retain", "0"}} {
			text = pdu.AppendText(text, kv[0], kv[1])
		}
	}
	for range maxLoginRounds {
		if err := e.round(pdu.StageOperational, pdu.StageFullFeature, true, text); err != nil {
			return err
		}
		if err := e.agree(); err != nil {
			return err
		}
		if e.reply.Transit {
			e.c.digests = e.c.neg.targetDigest
			e.c.neg.tsih = e.reply.TSIH
			if o.Recovery && e.c.neg.recovery > 0 && e.c.digests.Header && e.c.digests.Data {
				e.c.recovery = new(recovery)
			}
			return nil
		}
		text = nil
	}
	return fmt.Errorf("%w: its operational stage does not end", ErrProtocol)
}

// agree takes the target's answers over.
func (e *exchange) agree() error {
	n := &e.c.neg
	for key, v := range e.keys {
		var into *int
		switch key {
		case "HeaderDigest":
			n.targetDigest.Header = v == "CRC32C"
		case "DataDigest":
			n.targetDigest.Data = v == "CRC32C"
		case "InitialR2T":
			n.initialR2T = v == "Yes"
		case "ImmediateData":
			n.immediate = v == "Yes"
		case "ErrorRecoveryLevel":
			level, err := strconv.Atoi(v)
			if err != nil || level < 0 || level > 2 {
				return fmt.Errorf("%w: %s=%s", ErrProtocol, key, v)
			}
			n.recovery = level
		case "MaxConnections":
			count, err := strconv.Atoi(v)
			if err != nil || count < 1 {
				return fmt.Errorf("%w: %s=%s", ErrProtocol, key, v)
			}
			n.connections = count
		case "MaxBurstLength":
			into = &n.maxBurst
		case "FirstBurstLength":
			into = &n.firstBurst
		case "MaxRecvDataSegmentLength":
			into = &n.maxSend
		}
		if into == nil {
			continue
		}
		size, err := strconv.Atoi(v)
		if err != nil || size < 512 || size > pdu.MaxDataLength {
			return fmt.Errorf("%w: %s=%s", ErrProtocol, key, v)
		}
		*into = size
	}
	return nil
}
