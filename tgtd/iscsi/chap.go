package iscsi

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// chapChallengeSize is the length of our challenges in bytes; tgt's since CVE-2024-45751.
const chapChallengeSize = 50

// chapMaxChallenge is the longest challenge an initiator may send, in bytes (RFC 7143 12.1.3).
const chapMaxChallenge = 1024

// The algorithms by their numbers in the IANA registry of PPP authentication algorithms.
const (
	chapMD5     = 5
	chapSHA1    = 6
	chapSHA256  = 7 // tgt gave this number to SHA1: see chapHash
	chapSHA3256 = 8
)

// errChapFormat is a CHAP message that can't be understood: login status 0200.
var errChapFormat = errors.New("malformed CHAP message")

// errChapRefused is a CHAP exchange that proves nothing: login status 0201.
var errChapRefused = errors.New("CHAP authentication failed")

// chapChoose picks the algorithm from the initiator's list in CHAP_A: the first of its list that is
// known. RFC 7143 12.1.3 demands that every initiator offers MD5; one that does not is served only where
// tgt serves it, or where MD5 is refused anyway.
func chapChoose(list string, refuseMD5 bool) (int, error) {
	items := strings.Split(list, ",")
	offersMD5 := refuseMD5
	for _, item := range items {
		offersMD5 = offersMD5 || item == strconv.Itoa(chapMD5)
	}
	for _, item := range items {
		switch n, err := strconv.Atoi(item); {
		case err != nil, n == chapMD5 && refuseMD5:
		case n == chapMD5 || n == chapSHA256:
			return n, nil
		case offersMD5 && (n == chapSHA1 || n == chapSHA3256):
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w: no known algorithm in CHAP_A=%.80q", errChapFormat, list)
}

// chapHash gives the hash that a response of size bytes was made with. Number 7 is SHA-256 in the
// registry and SHA1 for tgt and the initiators configured for it; the length of the response tells
// which of the two its sender means. It returns nil when the length fits no hash of the number.
func chapHash(algorithm, size int) func() hash.Hash {
	switch {
	case algorithm == chapMD5 && size == md5.Size:
		return md5.New
	case (algorithm == chapSHA1 || algorithm == chapSHA256) && size == sha1.Size:
		return sha1.New
	case algorithm == chapSHA256 && size == sha256.Size:
		return sha256.New
	case algorithm == chapSHA3256 && size == 32:
		return func() hash.Hash { return sha3.New256() }
	}
	return nil
}

// chapDigest is a response: the hash over identifier, secret and challenge (RFC 1994 4.1).
func chapDigest(newHash func() hash.Hash, id byte, secret string, challenge []byte) []byte {
	h := newHash()
	h.Write([]byte{id})
	h.Write([]byte(secret))
	h.Write(challenge)
	return h.Sum(nil)
}

// chap is one exchange, from the target's side.
type chap struct {
	refuseMD5 bool
	algorithm int
	id        byte
	challenge [chapChallengeSize]byte
}

// ask appends the target's challenge with an algorithm out of the initiator's list.
func (c *chap) ask(out []byte, list string) ([]byte, error) {
	algorithm, err := chapChoose(list, c.refuseMD5)
	if err != nil {
		return out, err
	}
	c.algorithm = algorithm
	var id [1]byte
	rand.Read(id[:]) // never fails: crypto/rand ends the program instead
	rand.Read(c.challenge[:])
	c.id = id[0]
	out = pdu.AppendText(out, "CHAP_A", strconv.Itoa(algorithm))
	out = pdu.AppendText(out, "CHAP_I", strconv.Itoa(int(c.id)))
	return pdu.AppendText(out, "CHAP_C", "0x"+hex.EncodeToString(c.challenge[:])), nil
}

// check verifies the initiator's response against the accounts and, when it challenges the target in
// turn, appends the target's proof. It returns an error that wraps errChapFormat or errChapRefused and
// never names a secret.
func (c *chap) check(out []byte, kvs map[string]string, accounts Accounts) ([]byte, error) {
	user, haveUser := kvs["CHAP_N"]
	text, haveResponse := kvs["CHAP_R"]
	if !haveUser || !haveResponse {
		return out, fmt.Errorf("%w: CHAP_N or CHAP_R missing", errChapFormat)
	}
	response, err := chapBinary(text, 64)
	if err != nil {
		return out, fmt.Errorf("CHAP_R: %w", err)
	}
	newHash := chapHash(c.algorithm, len(response))
	if newHash == nil {
		return out, fmt.Errorf("%w: a response of %d bytes", errChapRefused, len(response))
	}
	secret, known := findAccount(accounts.Incoming, user)
	// Computed for an unknown user too, so that time does not tell which names exist.
	good := subtle.ConstantTimeCompare(chapDigest(newHash, c.id, secret, c.challenge[:]), response) == 1
	if !known || !good {
		return out, fmt.Errorf("%w: user %.80q", errChapRefused, user)
	}
	theirID, haveID := kvs["CHAP_I"]
	theirChallenge, haveChallenge := kvs["CHAP_C"]
	if !haveID && !haveChallenge {
		return out, nil
	}
	id, ok := parseNumber(theirID)
	if !ok || id > 255 || !haveChallenge {
		return out, fmt.Errorf("%w: CHAP_I or CHAP_C of the initiator", errChapFormat)
	}
	challenge, err := chapBinary(theirChallenge, chapMaxChallenge)
	if err != nil {
		return out, fmt.Errorf("CHAP_C: %w", err)
	}
	// Our own challenge coming back would make us compute the very answer that we asked for
	// (RFC 7143 9.2.1).
	if subtle.ConstantTimeCompare(challenge, c.challenge[:]) == 1 {
		return out, fmt.Errorf("%w: our challenge was reflected", errChapRefused)
	}
	if accounts.Outgoing.User == "" {
		return out, fmt.Errorf("%w: mutual authentication without an outgoing account", errChapRefused)
	}
	// The same secret in both directions would let whoever asks us for a proof pass it on as its own
	// (RFC 7143 9.2.1).
	if subtle.ConstantTimeCompare([]byte(accounts.Outgoing.Secret), []byte(secret)) == 1 {
		return out, fmt.Errorf("%w: incoming and outgoing account have the same secret", errChapRefused)
	}
	proof := chapDigest(newHash, byte(id), accounts.Outgoing.Secret, challenge)
	out = pdu.AppendText(out, "CHAP_N", accounts.Outgoing.User)
	return pdu.AppendText(out, "CHAP_R", "0x"+hex.EncodeToString(proof)), nil
}

func findAccount(accounts []Account, user string) (secret string, ok bool) {
	for _, a := range accounts {
		if a.User == user {
			return a.Secret, true
		}
	}
	return "", false
}

// chapBinary reads a large binary value, hexadecimal or base64 (RFC 7143 6.1), of 1 to limit bytes.
func chapBinary(s string, limit int) ([]byte, error) {
	if len(s) < 2 || s[0] != '0' || len(s) > 2+2*limit {
		return nil, fmt.Errorf("%w: a value of %d characters", errChapFormat, len(s))
	}
	var b []byte
	var err error
	switch s[1] | 0x20 {
	case 'x':
		digits := s[2:]
		if len(digits)%2 == 1 {
			digits = "0" + digits
		}
		b, err = hex.DecodeString(digits)
	case 'b':
		b, err = base64.StdEncoding.DecodeString(s[2:])
	default:
		return nil, fmt.Errorf("%w: neither 0x nor 0b", errChapFormat)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errChapFormat, err)
	}
	if len(b) == 0 || len(b) > limit {
		return nil, fmt.Errorf("%w: %d bytes", errChapFormat, len(b))
	}
	return b, nil
}
