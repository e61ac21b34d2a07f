package iscsi

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// TestChapDigest has the worked example of an MD5 response, computed with another implementation.
func TestChapDigest(t *testing.T) {
	got := hex.EncodeToString(chapDigest(md5.New, 1, "secret", []byte("challenge")))
	sum := md5.Sum([]byte("\x01secretchallenge"))
	if want := hex.EncodeToString(sum[:]); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestChapChoose(t *testing.T) {
	for _, c := range []struct {
		list string
		want int
	}{
		{"5", 5}, {"7", 7}, {"7,5", 7}, {"5,7", 5}, {"8,7,6,5", 8}, {"6,5", 6}, {"x,5", 5}, {"99,8,5", 8},
		{"6,8", 0}, {"6", 0}, {"8", 0}, {"", 0}, {"4", 0}, {"8,7", 7},
	} {
		got, err := chapChoose(c.list, false)
		if got != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%q: %d, %v; want %d", c.list, got, err, c.want)
		}
	}
	for list, want := range map[string]int{"5": 0, "5,7": 7, "8,5,7": 8, "6": 6, "6,8": 6, "4,5": 0} {
		if got, err := chapChoose(list, true); got != want || (err != nil) != (want == 0) {
			t.Errorf("without MD5, %q: %d, %v; want %d", list, got, err, want)
		}
	}
}

// TestChapSameSecret: who proves itself with the secret that it asks for proves nothing.
func TestChapSameSecret(t *testing.T) {
	for out, good := range map[string]bool{"same": false, "other": true} {
		c, challenge := ask(t, "7")
		answer := map[string]string{"CHAP_N": "joe", "CHAP_I": "9", "CHAP_C": "0x1234",
			"CHAP_R": "0x" + hex.EncodeToString(chapDigest(sha256.New, c.id, "same", challenge))}
		_, err := c.check(nil, answer, Accounts{Incoming: []Account{{"joe", "same"}}, Outgoing: Account{"tgt", out}})
		if good != (err == nil) || !good && !errors.Is(err, errChapRefused) {
			t.Errorf("outgoing secret %q: %v", out, err)
		}
	}
}

// ask starts an exchange and gives the challenge.
func ask(t *testing.T, list string) (*chap, []byte) {
	t.Helper()
	c := new(chap)
	text, err := c.ask(nil, list)
	if err != nil {
		t.Fatal(err)
	}
	kvs, err := pdu.ParseText(text)
	if err != nil {
		t.Fatal(err)
	}
	challenge, err := chapBinary(lookup(kvs, "CHAP_C"), 1024)
	if err != nil || len(challenge) != chapChallengeSize {
		t.Fatalf("challenge of %d bytes, %v", len(challenge), err)
	}
	return c, challenge
}

func TestChapAlgorithms(t *testing.T) {
	accounts := Accounts{Incoming: []Account{{"other", "x"}, {"joe", "secretsecret"}}, Outgoing: Account{"tgt", "mutual"}}
	for _, c := range []struct {
		list    string
		newHash func() hash.Hash
	}{
		{"5", md5.New}, {"6,5", sha1.New}, {"7", sha1.New}, {"7", sha256.New},
		{"8,5", func() hash.Hash { return sha3.New256() }},
	} {
		x, challenge := ask(t, c.list)
		mine := []byte("the initiator's own")
		said := map[string]string{
			"CHAP_N": "joe",
			"CHAP_R": "0x" + strings.ToUpper(hex.EncodeToString(chapDigest(c.newHash, x.id, "secretsecret", challenge))),
			"CHAP_I": "200",
			"CHAP_C": "0b" + base64.StdEncoding.EncodeToString(mine),
		}
		text, err := x.check(nil, said, accounts)
		want := "CHAP_N=tgt\x00CHAP_R=0x" + hex.EncodeToString(chapDigest(c.newHash, 200, "mutual", mine)) + "\x00"
		if err != nil || string(text) != want {
			t.Errorf("CHAP_A=%s: %q, %v", c.list, text, err)
		}
	}
}

func TestChapRefusals(t *testing.T) {
	accounts := Accounts{Incoming: []Account{{"joe", "secretsecret"}}, Outgoing: Account{"tgt", "mutual"}}
	for _, c := range []struct {
		what   string
		change func(said map[string]string, x *chap)
		want   error
	}{
		{"unknown user", func(m map[string]string, _ *chap) { m["CHAP_N"] = "jim" }, errChapRefused},
		{"wrong response", func(m map[string]string, _ *chap) { m["CHAP_R"] = "0x" + strings.Repeat("00", 16) }, errChapRefused},
		{"response of another length", func(m map[string]string, _ *chap) { m["CHAP_R"] = "0x00" }, errChapRefused},
		{"no response", func(m map[string]string, _ *chap) { delete(m, "CHAP_R") }, errChapFormat},
		{"no name", func(m map[string]string, _ *chap) { delete(m, "CHAP_N") }, errChapFormat},
		{"response not binary", func(m map[string]string, _ *chap) { m["CHAP_R"] = "hello" }, errChapFormat},
		{"response not hexadecimal", func(m map[string]string, _ *chap) { m["CHAP_R"] = "0xzz" }, errChapFormat},
		{"reflection", func(m map[string]string, x *chap) {
			m["CHAP_I"], m["CHAP_C"] = "1", "0x"+hex.EncodeToString(x.challenge[:])
		}, errChapRefused},
		{"identifier of 256", func(m map[string]string, _ *chap) { m["CHAP_I"], m["CHAP_C"] = "256", "0x01" }, errChapFormat},
		{"identifier alone", func(m map[string]string, _ *chap) { m["CHAP_I"] = "1" }, errChapFormat},
		{"huge challenge", func(m map[string]string, _ *chap) {
			m["CHAP_I"], m["CHAP_C"] = "1", "0x"+strings.Repeat("00", 1025)
		}, errChapFormat},
	} {
		x, challenge := ask(t, "5")
		said := map[string]string{"CHAP_N": "joe",
			"CHAP_R": "0x" + hex.EncodeToString(chapDigest(md5.New, x.id, "secretsecret", challenge))}
		c.change(said, x)
		if _, err := x.check(nil, said, accounts); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
}

// TestChapMutualWithoutAccount: asking for a proof that was not set up is refused, not passed over.
func TestChapMutualWithoutAccount(t *testing.T) {
	x, challenge := ask(t, "5")
	_, err := x.check(nil, map[string]string{"CHAP_N": "joe", "CHAP_I": "1", "CHAP_C": "0x01",
		"CHAP_R": "0x" + hex.EncodeToString(chapDigest(md5.New, x.id, "s", challenge))},
		Accounts{Incoming: []Account{{"joe", "s"}}})
	if !errors.Is(err, errChapRefused) {
		t.Error(err)
	}
}

func FuzzChapBinary(f *testing.F) {
	f.Add("0x0123")
	f.Add("0bAAAA")
	f.Fuzz(func(t *testing.T, s string) {
		if b, err := chapBinary(s, 64); err == nil && (len(b) == 0 || len(b) > 64) {
			t.Errorf("%q gave %d bytes", s, len(b))
		}
	})
}
