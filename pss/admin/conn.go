package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/release"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// dialTimeout is how long connecting and the greeting may take.
const dialTimeout = 3 * time.Second

// ErrUnreachable is wrapped by the error of Dial: the server does not run, or can't be reached.
var ErrUnreachable = errors.New("no connection to the server")

// Dialer makes connections to servers' TCP ports.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Conn is a connection to one server. It is used by one goroutine at a time.
type Conn struct {
	ID     cell.ID
	Hello  wire.HelloReply // what the server said of itself
	conn   net.Conn
	w      *wire.Writer
	rd     *wire.Reader
	tag    uint64
	broken error
}

// Dial connects to a server of the cell: where server.conf says, or else where the cell's other members say that it is
// now. Errors about a server of server.conf wrap ErrUnreachable.
func Dial(ctx context.Context, conf *cell.Config, id cell.ID) (*Conn, error) {
	return DialWith(ctx, dialerOf(conf), conf, id)
}

func connect(ctx context.Context, dial Dialer, s cell.Server) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := dial(ctx, "tcp", s.TCPAddr())
	if err != nil {
		return nil, err
	}
	c := &Conn{ID: s.ID, conn: nc, w: wire.NewWriter(nc), rd: wire.NewReader(nc)}
	stop := c.boundBy(ctx)
	err = c.greet()
	if late := stop(); late != nil {
		err = late
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

// boundBy ends reads and writes when ctx ends. stop undoes it and returns why ctx ended, or nil.
func (c *Conn) boundBy(ctx context.Context) (stop func() error) {
	done := make(chan struct{})
	off := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = c.conn.SetDeadline(time.Unix(1, 0)) // fails on a closed connection, which is as good
	})
	return func() error {
		if off() {
			return nil
		}
		<-done
		return context.Cause(ctx)
	}
}

func (c *Conn) greet() error {
	err := c.w.Hello(wire.Hello{Role: wire.RoleAdmin, To: uint8(c.ID), Protocol: wire.Protocol, Software: release.Version})
	if err == nil {
		err = c.w.Flush()
	}
	if err != nil {
		return err
	}
	h, err := c.rd.Next()
	if err != nil {
		return err
	}
	b, err := c.rd.View()
	switch {
	case err != nil:
		return err
	case h.Kind == wire.KindGoodbye:
		return fmt.Errorf("refused: %q", b)
	case h.Kind != wire.KindHelloReply:
		return fmt.Errorf("%w: %v for a greeting", wire.ErrProtocol, h.Kind)
	}
	if c.Hello, err = wire.ParseHelloReply(b); err != nil {
		return err
	}
	if c.Hello.Server != uint8(c.ID) {
		return fmt.Errorf("server %d answers there", c.Hello.Server)
	}
	return nil
}

// Close ends the connection, and with it whatever the server is doing for it.
func (c *Conn) Close() error { return c.conn.Close() }

// Call asks for a method and waits for its reply, which is decoded into reply unless that is nil; items
// before it are passed over. args is nil or encodes as JSON. A refusal of the server's is an *Error; after
// any other error, an ended ctx among them, the connection is of no further use.
func (c *Conn) Call(ctx context.Context, method string, args, reply any) error {
	return c.exchange(ctx, method, args, reply, nil)
}

// Stream is Call for a method that answers with many items: each gets them one after the other, and an error of
// its ends the connection. The reply at the end, if there is one, is an item too.
func (c *Conn) Stream(ctx context.Context, method string, args any, each func(json.RawMessage) error) error {
	return c.exchange(ctx, method, args, nil, each)
}

func (c *Conn) exchange(ctx context.Context, method string, args, reply any, each func(json.RawMessage) error) error {
	if c.broken != nil {
		return c.broken
	}
	stop := c.boundBy(ctx)
	last, err := c.ask(method, args, each)
	if late := stop(); late != nil && err != nil {
		err = late
	} else if late != nil {
		c.broken = late // the deadline is past, and the answer is here
	}
	var refusal *Error
	switch {
	case errors.As(err, &refusal):
		return fmt.Errorf("server %d: %w", c.ID, refusal)
	case err != nil:
		c.broken = fmt.Errorf("server %d: %s: %w", c.ID, method, err)
		c.conn.Close()
		return c.broken
	case each != nil && len(last) > 0:
		return each(last)
	case each != nil || reply == nil:
		return nil
	}
	if err := json.Unmarshal(last, reply); err != nil {
		return fmt.Errorf("server %d: the reply to %s: %w", c.ID, method, err)
	}
	return nil
}

// ask sends the request and returns the last part.
func (c *Conn) ask(method string, args any, each func(json.RawMessage) error) (json.RawMessage, error) {
	r := Request{Method: method}
	var err error
	if args != nil {
		if r.Args, err = json.Marshal(args); err != nil {
			return nil, err
		}
	}
	body, err := AppendRequest(nil, r)
	if err != nil {
		return nil, err
	}
	c.tag++
	if err := c.w.Frame(wire.KindAdmin, 0, c.tag, body); err != nil {
		return nil, err
	}
	if err := c.w.Flush(); err != nil {
		return nil, err
	}
	for {
		code, part, err := c.part()
		switch {
		case err != nil:
			return nil, err
		case code == PartFailed:
			e := new(Error)
			if err := json.Unmarshal(part, e); err != nil {
				return nil, fmt.Errorf("%w: an error that can't be read: %w", wire.ErrProtocol, err)
			}
			return nil, e
		case code == PartLast:
			return part, nil
		case each == nil:
			continue
		}
		if err := each(part); err != nil {
			return nil, err
		}
	}
}

func (c *Conn) part() (uint16, json.RawMessage, error) {
	h, err := c.rd.Next()
	if err != nil {
		return 0, nil, err
	}
	if h.Kind == wire.KindGoodbye {
		b, err := c.rd.View()
		return 0, nil, errors.Join(fmt.Errorf("the server ended the connection: %q", b), err)
	}
	if h.Kind != wire.KindAdminPart || h.Tag != c.tag || h.Code > PartFailed {
		return 0, nil, fmt.Errorf("%w: %v with code %d for an answer", wire.ErrProtocol, h.Kind, h.Code)
	}
	b := make([]byte, h.Size)
	return h.Code, b, c.rd.Body(b)
}

// masterTries is how often CallMaster follows one server's word to another.
const masterTries = 4

// CallMaster finds the cell's master, asking one server after the other, and calls a method there. While there
// is none, the error says so; it never waits for one.
func CallMaster(ctx context.Context, conf *cell.Config, method string, args, reply any) error {
	var errs []error
	for _, s := range conf.Core() {
		id := s.ID
		for range masterTries {
			next, err := callAt(ctx, conf, id, method, args, reply)
			if err == nil {
				return nil
			}
			var refusal *Error
			if errors.As(err, &refusal) && refusal.Code != NotMaster {
				return err
			}
			if next == nil || *next == id {
				errs = append(errs, err)
				break
			}
			id = *next
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// With connects to a server, does something with the connection, and ends it. Errors of the connecting wrap
// ErrUnreachable.
func With(ctx context.Context, conf *cell.Config, id cell.ID, do func(*Conn) error) error {
	c, err := Dial(ctx, conf, id)
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}

// CallServer calls one method of one server, over a connection of its own.
func CallServer(ctx context.Context, conf *cell.Config, id cell.ID, method string, args, reply any) error {
	return With(ctx, conf, id, func(c *Conn) error { return c.Call(ctx, method, args, reply) })
}

// callAt calls a method at one server. When another is master, next is that one.
func callAt(ctx context.Context, conf *cell.Config, id cell.ID, method string, args, reply any) (next *cell.ID, err error) {
	err = CallServer(ctx, conf, id, method, args, reply)
	var refusal *Error
	if errors.As(err, &refusal) {
		next = refusal.Master
	}
	return next, err
}
