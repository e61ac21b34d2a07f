package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// Named limits of administration. A connection has one request under way.
const (
	maxAdmins     = 16               // administrative connections at the same time
	adminIdle     = 5 * time.Minute  // a connection without a request is closed
	adminTimeout  = 30 * time.Second // for a request, unless its method says otherwise
	adminNoLimit  = -1               // a method that lasts until the tool leaves
	maxAdminDepth = 1                // requests read ahead of the one under way
)

// adminMethod is a row of the table of methods.
type adminMethod struct {
	timeout time.Duration // 0: adminTimeout
	// do carries the method out. It may send items; what it returns is the last part. An *admin.Error reaches the
	// tool as it is, any other error as one with the code Failed. ctx ends when the tool leaves, the time is up or
	// the server ends.
	do func(ctx context.Context, r *Replica, args json.RawMessage, send func(item any) error) (any, error)
}

// adminMethods is the table of methods. A new one is a row here.
func adminMethods() map[string]adminMethod {
	return map[string]adminMethod{
		admin.MethodStatus:     {do: adminStatus},
		admin.MethodHandOver:   {do: adminHandOver},
		admin.MethodShutdown:   {do: adminShutdown},
		admin.MethodCheckpoint: {do: adminCheckpoint},
		admin.MethodFound:      {do: adminFound},

		admin.MethodMembers: {do: adminMembers},
		admin.MethodAdd:     adminEdit("is let in", func(a admin.AddArgs) (cell.ID, edit) { return a.ID, editAdd(a) }),
		admin.MethodMove:    adminEdit("moves", func(a admin.AddArgs) (cell.ID, edit) { return a.ID, editMove(a) }),
		admin.MethodRemove:  adminEdit("is removed", simple(editRemove)),
		admin.MethodReplace: adminEdit("is to be replaced", simple(editReplace)),
		admin.MethodPromote: adminEdit("is to vote", simple(editPromote)),
		admin.MethodDemote:  adminEdit("loses its vote", simple(editDemote)),
		admin.MethodProcess: {do: adminProcess},
		admin.MethodSockets: {do: adminSockets},
		admin.MethodLog:     {do: adminLog, timeout: adminNoLimit},
		admin.MethodProbe:   {do: adminProbe},
		admin.MethodLoad:    {do: adminLoad},
		admin.MethodPeers:   {do: adminPeers},
		admin.MethodInject:  {do: adminInject},
		admin.MethodScrubStart: {do: func(_ context.Context, r *Replica, _ json.RawMessage, _ func(any) error) (any, error) {
			r.StartScrub()
			return nil, nil
		}},
		admin.MethodScrubStop: {do: func(_ context.Context, r *Replica, _ json.RawMessage, _ func(any) error) (any, error) {
			r.StopScrub()
			return nil, nil
		}},
	}
}

// adminArgs decodes the arguments of a method; members that it does not have are refused.
func adminArgs(args json.RawMessage, into any) error {
	if len(args) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(args))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return admin.Errorf(admin.BadArguments, "arguments: %v", err)
	}
	return nil
}

// serveAdmin answers a tool's requests until its connection ends.
func (r *Replica) serveAdmin(conn net.Conn, rd *wire.Reader) error {
	w := wire.NewWriter(conn)
	w.Timeout = writeTimeout
	select {
	case r.admins <- struct{}{}:
		defer func() { <-r.admins }()
	default:
		err := fmt.Errorf("%d administrative connections already", maxAdmins)
		return errors.Join(err, w.Goodbye("this server has "+err.Error()), w.Flush())
	}
	// While a request is carried out the connection is read on, so that its end is noticed.
	ctx, cancel := context.WithCancel(r.ctx)
	requests := make(chan adminRequest, maxAdminDepth)
	var readErr error
	read := make(chan struct{})
	r.tasks.Go(func() {
		defer close(read)
		defer close(requests)
		defer cancel()
		readErr = readAdmin(ctx, conn, rd, requests)
	})
	var err error
	for q := range requests {
		if err = r.answerAdmin(ctx, w, q); err != nil {
			break
		}
	}
	cancel()
	conn.Close()
	<-read
	if err == nil {
		err = readErr
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.Canceled) {
		return nil // the tool left
	}
	return err
}

type adminRequest struct {
	tag uint64
	admin.Request
}

// readAdmin passes requests on until the connection ends. A tool that sends more than it may waits.
func readAdmin(ctx context.Context, conn net.Conn, rd *wire.Reader, to chan<- adminRequest) error {
	for {
		if err := conn.SetReadDeadline(time.Now().Add(adminIdle)); err != nil {
			return err
		}
		h, err := rd.Next()
		if err != nil {
			return err
		}
		if h.Kind != wire.KindAdmin {
			return fmt.Errorf("%w: %v from a tool", wire.ErrProtocol, h.Kind)
		}
		b := make([]byte, h.Size)
		if err := rd.Body(b); err != nil {
			return err
		}
		q, err := admin.ParseRequest(b)
		if err != nil {
			return err
		}
		select {
		case to <- adminRequest{h.Tag, q}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// answerAdmin carries one request out and sends its answer. An error is the connection's.
func (r *Replica) answerAdmin(ctx context.Context, w *wire.Writer, q adminRequest) error {
	var lost error // the connection's failure
	part := func(code uint16, item any) error {
		b, err := json.Marshal(item)
		if err == nil {
			err = w.Frame(wire.KindAdminPart, code, q.tag, b)
		}
		if err != nil {
			return err // it is too large, and nothing of it was sent
		}
		lost = w.Flush()
		return lost
	}
	reply, err := r.doAdmin(ctx, q.Request, func(item any) error { return part(admin.PartMore, item) })
	if lost != nil {
		return lost
	}
	if err == nil {
		err = part(admin.PartLast, reply)
	}
	if lost != nil || err == nil {
		return lost
	}
	r.logger.Info("administration: refused", "method", q.Method, "error", err)
	return part(admin.PartFailed, admin.AsError(err))
}

// doAdmin finds the method and calls it within its time.
func (r *Replica) doAdmin(ctx context.Context, q admin.Request, send func(any) error) (any, error) {
	m, ok := adminMethods()[q.Method]
	if !ok {
		return nil, admin.Errorf(admin.UnknownMethod, "this server has no method %q", q.Method)
	}
	limit := m.timeout
	if limit == 0 {
		limit = adminTimeout
	}
	if limit != adminNoLimit {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	reply, err := m.do(ctx, r, q.Args, send)
	if errors.Is(err, context.DeadlineExceeded) {
		err = admin.Errorf(admin.TimedOut, "%s is not done after %v: %v", q.Method, limit, err)
	}
	return reply, err
}

func adminStatus(_ context.Context, r *Replica, _ json.RawMessage, _ func(any) error) (any, error) {
	return r.report(), nil
}

// await looks at cond with each tick, under the Replica's lock, until it says true.
func (r *Replica) await(ctx context.Context, cond func() (bool, error)) error {
	t := time.NewTicker(r.opts.Timing.Tick)
	defer t.Stop()
	for {
		r.mu.Lock()
		ok, err := cond()
		if r.fatal != nil {
			err = r.fatal
		}
		r.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// notMaster is the refusal of what only the master can do. Its caller holds mu.
func (r *Replica) notMaster() error {
	v := r.core.View()
	if v.Self {
		return nil
	}
	if !v.Known {
		return admin.Errorf(admin.NotMaster, "the cell has no master: a majority of its core servers must be up")
	}
	e := admin.Errorf(admin.NotMaster, "server %d is master, not %d", v.Master, r.opts.ID)
	e.Master = &v.Master
	return e
}

func adminHandOver(ctx context.Context, r *Replica, args json.RawMessage, _ func(any) error) (any, error) {
	var a admin.HandOverArgs
	if err := adminArgs(args, &a); err != nil {
		return nil, err
	}
	to, err := r.handOverSoon(ctx, a.ID)
	if err != nil {
		return nil, err
	}
	if to == r.opts.ID {
		return admin.HandOverReply{Master: to}, nil // it is master already
	}
	var reply admin.HandOverReply
	err = r.await(ctx, func() (bool, error) {
		v := r.core.View()
		reply.Master = v.Master
		if v.Self && !r.core.Node().HandingOver() {
			return false, admin.Errorf(admin.Failed, "server %d did not take the mastership over", to)
		}
		return v.Known && !v.Self, nil
	})
	return reply, err
}

// handOverSoon is handOver, for a master that may be so new that it has not heard of the others yet.
func (r *Replica) handOverSoon(ctx context.Context, to *cell.ID) (id cell.ID, err error) {
	t := time.NewTicker(r.opts.Timing.Tick)
	defer t.Stop()
	for range 2 * r.opts.Timing.Election {
		id, err = r.handOver(to)
		var e *admin.Error
		if err == nil || !errors.As(err, &e) || e.Code != admin.Refused {
			return id, err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return id, err
		}
	}
	return id, err
}

// handOver begins to hand the mastership over, to the server asked for or to the best.
func (r *Replica) handOver(to *cell.ID) (id cell.ID, err error) {
	if to == nil {
		best, ok := r.successor()
		if !ok {
			r.mu.Lock()
			defer r.mu.Unlock()
			if err := r.notMaster(); err != nil {
				return id, err
			}
			return id, admin.Errorf(admin.Refused, "no other core server is up to take the mastership over")
		}
		to = &best
	}
	r.drive(func(time.Duration) error {
		if err = r.notMaster(); err == nil && *to != r.opts.ID {
			err = r.core.mayLead(*to)
		}
		if err == nil && *to != r.opts.ID {
			r.core.HandOver(*to)
		}
		return nil
	})
	return *to, err
}

// mayLead says why a server can't be handed the mastership, or nothing.
func (c *Core) mayLead(id cell.ID) error {
	for _, p := range c.node.Progress(nil) {
		switch {
		case p.ID != id:
		case !p.Voter:
			return admin.Errorf(admin.Refused, "server %d has no vote, so it can't be master", id)
		case !p.Active:
			return admin.Errorf(admin.Refused, "server %d does not answer", id)
		default:
			return nil
		}
	}
	return admin.Errorf(admin.Refused, "server %d is not a member of the cell", id)
}

func adminShutdown(_ context.Context, r *Replica, args json.RawMessage, _ func(any) error) (any, error) {
	var a admin.ShutdownArgs
	if err := adminArgs(args, &a); err != nil {
		return nil, err
	}
	r.logger.Info("server is told to stop", "abort", a.Abort, "comment", a.Comment)
	r.tasks.Go(func() {
		if !a.Abort {
			r.resign()
		}
		r.cancel()
	})
	return struct{}{}, nil
}

func adminCheckpoint(ctx context.Context, r *Replica, _ json.RawMessage, _ func(any) error) (any, error) {
	var want uint64
	r.drive(func(time.Duration) error { want = r.core.WantCheckpoint(); return nil })
	var reply admin.CheckpointReply
	err := r.await(ctx, func() (bool, error) {
		reply.Index = r.core.Checkpoint()
		return reply.Index >= want, nil
	})
	return reply, err
}
