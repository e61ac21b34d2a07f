package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"time"
)

// signer is the key pair that proves k in TLS.
func signer(k *Key) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(derive(k.secret[:], nil, "TLS", ed25519.SeedSize))
}

// config is how both sides speak TLS. Of the certificate only the public key counts.
func (r *ring) config() (*tls.Config, error) {
	private := signer(&r.keys[0])
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, private.Public(), private)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}},
		// Names and authorities are not what this is about; VerifyConnection is called on both sides all the same,
		// after the proof that the other has the private key of its certificate.
		InsecureSkipVerify:     true,
		ClientAuth:             tls.RequireAnyClientCert,
		VerifyConnection:       func(s tls.ConnectionState) error { _, err := r.prover(&s); return err },
		SessionTicketsDisabled: true,
		// Records of full size from the first one on: nobody waits for the first bytes of a page here.
		DynamicRecordSizingDisabled: true,
	}, nil
}

// prover is the key that the other side of a connection has proved.
func (r *ring) prover(s *tls.ConnectionState) (KeyID, error) {
	if len(s.PeerCertificates) == 1 {
		if public, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey); ok {
			for i := range r.public {
				if r.public[i].Equal(public) {
					return r.keys[i].ID, nil
				}
			}
		}
	}
	return 0, ErrStranger
}

// The first bytes of a TLS connection: a handshake record of any version 3.x (RFC 8446 5.1). No frame begins
// so: its first four bytes are the size of a greeting.
const (
	recordHandshake = 22
	recordMajor     = 3
	sniffed         = 2 // bytes
)

// Dial connects to a server's host:port, and proves the key if there is one. A change of the key file is taken up
// before; if it has mistakes the keys stay as they were, and an error of the handshake tells of them. The context bounds both.
func (k *Keys) Dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return k.Client(ctx, raw)
}

// Client is the dialling side of a handshake over raw, which it owns from now on. Without a key it
// returns raw. Errors wrap ErrMixed or ErrStranger where that is why, and name the other side.
func (k *Keys) Client(ctx context.Context, raw net.Conn) (net.Conn, error) {
	if k == nil {
		return raw, nil
	}
	k.refresh()
	c := newConn(k, raw)
	r := k.ring.Load()
	return c.shake(ctx, r, tls.Client(&c.pipe, r.tls))
}

// Server is the listening side: Client for a connection that was accepted. It waits for the caller's first bytes
// as long as raw's deadline and ctx allow. Where the caller has no key the error wraps ErrMixed and raw
// is left open, for a word in clear; after any other error it is closed.
func (k *Keys) Server(ctx context.Context, raw net.Conn) (net.Conn, error) {
	if k == nil {
		return raw, nil
	}
	c := newConn(k, raw)
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	b, err := c.pipe.peek(sniffed)
	stop()
	switch {
	case err != nil:
		raw.Close()
		return nil, fmt.Errorf("wait for %s to speak: %w", raw.RemoteAddr(), err)
	case b[0] != recordHandshake || b[1] != recordMajor:
		return nil, fmt.Errorf("%s has no cell key, this side has %v: %w", raw.RemoteAddr(), k, ErrMixed)
	}
	r := k.ring.Load()
	return c.shake(ctx, r, tls.Server(&c.pipe, r.tls))
}

// shake does the handshake.
func (c *Conn) shake(ctx context.Context, r *ring, t *tls.Conn) (net.Conn, error) {
	c.tls = t
	err := t.HandshakeContext(ctx)
	if err == nil {
		state := t.ConnectionState()
		c.theirs, err = r.prover(&state)
		c.ours = r.keys[0].ID
	}
	if err != nil {
		c.raw.Close()
		return nil, errors.Join(c.explain(err), c.keys.mistake())
	}
	c.pipe.gather.Store(true)
	if !c.keys.add(c) {
		c.Close()
		return nil, fmt.Errorf("%s: %w: it was dropped just now", c.raw.RemoteAddr(), ErrStranger)
	}
	return c, nil
}

// explain says why a handshake failed, or a connection ended, in words for an operator.
func (c *Conn) explain(err error) error {
	peer := c.raw.RemoteAddr()
	var foreign tls.RecordHeaderError
	switch {
	case errors.As(err, &foreign):
		return fmt.Errorf("%s has no cell key, this side has %v: %w", peer, c.keys, ErrMixed)
	case errors.Is(err, ErrStranger):
		return fmt.Errorf("%s has another cell key than the %v: %w", peer, c.keys, ErrStranger)
	case remote(err):
		return fmt.Errorf("%s does not accept the first of the %v (%w): %w", peer, c.keys, err, ErrStranger)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%s closed the connection while proving the cell key: %w", peer, err)
	}
	return fmt.Errorf("prove the cell key to %s: %w", peer, err)
}

// remote says whether an error of TLS is one that the other side told.
func remote(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}
