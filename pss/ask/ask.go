// Package ask asks a server of a cell how it is, by one datagram to its UDP port: the quick way, which works as long
// as the server's process runs. Question and answer are sealed when the cell has a key.
package ask

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// ErrNoAnswer is wrapped by the error about a server that is silent: it does not run, can't be reached, or
// does not talk to us, because one side has a cell key and the other has none or another one.
var ErrNoAnswer = errors.New("no answer")

// Status asks a server for its summary, a replica.Report in JSON without the members. It asks once, and waits as
// long as ctx allows; ctx must have an end.
func Status(ctx context.Context, conf *cell.Config, id cell.ID) ([]byte, error) {
	server, ok := conf.Server(id)
	if !ok {
		return nil, fmt.Errorf("%s has no record of server %d", conf.File, id)
	}
	q, err := newQuestion(conf, id)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", server.UDPAddr())
	if err != nil {
		return nil, fmt.Errorf("status of server %d: %w", id, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(0, 0)) })() // ends what waits below
	if _, err := conn.Write(q.sealed); err != nil {
		return nil, fmt.Errorf("status of server %d: %w: %w", id, ErrNoAnswer, err)
	}
	b := make([]byte, wire.MaxDatagram+auth.Overhead+1)
	var odd error // of the last datagram that was no answer
	for {
		n, err := conn.Read(b)
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return nil, fmt.Errorf("status of server %d: %w", id, errors.Join(ErrNoAnswer, odd, err))
		}
		var body []byte
		if body, odd = q.answer(b[:n]); odd == nil {
			return body, nil
		}
	}
}

// question is one status query.
type question struct {
	box    *auth.Box // nil in an open cell
	server cell.ID
	stamp  uint64
	sealed []byte
}

func newQuestion(conf *cell.Config, id cell.ID) (*question, error) {
	q := &question{server: id}
	var stamp [8]byte
	if _, err := rand.Read(stamp[:]); err != nil {
		return nil, fmt.Errorf("draw a stamp: %w", err)
	}
	q.stamp = binary.LittleEndian.Uint64(stamp[:])
	b, err := wire.AppendQuestion(nil, &wire.Datagram{From: wire.None, To: uint8(id), Stamp: q.stamp})
	if err != nil {
		return nil, err
	}
	q.sealed = b
	if conf.Auth != nil {
		if q.box, err = conf.Auth.Box(auth.Tool); err != nil {
			return nil, err
		}
		if q.sealed, err = q.box.Seal(nil, b, uint8(id)); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// answer returns what the server says, if b is its answer.
func (q *question) answer(b []byte) ([]byte, error) {
	if q.box != nil {
		from, plain, _, err := q.box.Open(b)
		if err != nil {
			return nil, err
		}
		if from != uint8(q.server) {
			return nil, fmt.Errorf("%w: sealed by %d", wire.ErrProtocol, from)
		}
		b = plain
	}
	d, err := wire.ParseDatagram(b)
	if err != nil {
		return nil, err
	}
	if d.Kind != wire.DatagramStatusReply || d.From != uint8(q.server) || d.To != wire.None || d.Echo != q.stamp {
		return nil, fmt.Errorf("%w: not the answer to this question", wire.ErrProtocol)
	}
	return bytes.Clone(d.Body), nil
}
