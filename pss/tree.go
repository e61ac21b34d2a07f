package pss

import (
	"context"
	"fmt"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// The operations on the tree. Paths start at its root, with or without a leading slash. All of them
// return an error that says whether servers answer at all (ErrUnreachable, ErrNoMaster) when ctx ends
// first; a change may then have taken effect if it was sent.

// Mkdir makes a folder and its parents. A folder that is there already is success.
func (c *Cell) Mkdir(ctx context.Context, path string) error {
	_, err := c.proposePath(ctx, op.Header{Code: op.Mkdir}, path)
	return pathError("make folder", path, err)
}

// Rmdir removes an empty folder.
func (c *Cell) Rmdir(ctx context.Context, path string) error {
	_, err := c.proposePath(ctx, op.Header{Code: op.Rmdir}, path)
	return pathError("remove folder", path, err)
}

// Create makes an empty file and returns its object. It fails with ErrExists if the name is taken.
func (c *Cell) Create(ctx context.Context, path string) (object uint64, err error) {
	res, err := c.proposePath(ctx, op.Header{Code: op.CreateFile}, path)
	return res.Object, pathError("create", path, err)
}

// Delete removes a file.
func (c *Cell) Delete(ctx context.Context, path string) error {
	_, err := c.proposePath(ctx, op.Header{Code: op.Delete}, path)
	return pathError("delete", path, err)
}

// Rename gives a file, folder or volume another name, over an existing file.
func (c *Cell) Rename(ctx context.Context, from, to string) error {
	_, err := c.proposePath(ctx, op.Header{Code: op.Rename}, from, to)
	if err != nil {
		return fmt.Errorf("rename %q to %q: %w", from, to, err)
	}
	return nil
}

// Truncate sets a file's size in bytes.
func (c *Cell) Truncate(ctx context.Context, path string, bytes int64) error {
	n, err := c.Stat(ctx, path)
	if err != nil {
		return err
	}
	if n.Kind != op.KindFile {
		return pathError("truncate", path, ErrKind)
	}
	return pathError("truncate", path, c.truncate(ctx, n.Object, bytes))
}

func (c *Cell) truncate(ctx context.Context, object uint64, bytes int64) error {
	if bytes < 0 {
		return op.Invalid
	}
	_, err := c.propose(ctx, op.Header{Code: op.Truncate, Object: object, Length: uint64(bytes)}, nil)
	return err
}

// SizeError is the error of CreateVolume for a volume that is there with another size. It is ErrExists.
type SizeError struct {
	Path        string
	Have, Asked int64 // bytes
}

// Error names both sizes.
func (e *SizeError) Error() string {
	return fmt.Sprintf("volume %q exists with %d bytes, not %d", e.Path, e.Have, e.Asked)
}

// Unwrap makes it ErrExists.
func (e *SizeError) Unwrap() error { return ErrExists }

// CreateVolume makes a thin volume. A volume that is there with this size is success; with another
// one the error is a *SizeError.
func (c *Cell) CreateVolume(ctx context.Context, path string, bytes int64) error {
	if bytes <= 0 || bytes > op.MaxVolume {
		return pathError("create volume", path, fmt.Errorf("%d bytes: %w", bytes, op.Invalid))
	}
	res, err := c.proposePath(ctx, op.Header{Code: op.VolumeCreate, Length: uint64(bytes)}, path)
	if res.Errno == op.Exists && res.Value != 0 {
		return &SizeError{Path: path, Have: int64(res.Value), Asked: bytes}
	}
	return pathError("create volume", path, err)
}

// GrowVolume makes a volume larger. A smaller size is refused with op.Invalid.
func (c *Cell) GrowVolume(ctx context.Context, path string, bytes int64) error {
	if bytes <= 0 || bytes > op.MaxVolume {
		return pathError("grow volume", path, fmt.Errorf("%d bytes: %w", bytes, op.Invalid))
	}
	_, err := c.proposePath(ctx, op.Header{Code: op.VolumeGrow, Length: uint64(bytes)}, path)
	return pathError("grow volume", path, err)
}

// DeleteVolume removes a volume and everything on it. Who has it open gets errors.
func (c *Cell) DeleteVolume(ctx context.Context, path string) error {
	_, err := c.proposePath(ctx, op.Header{Code: op.VolumeDelete}, path)
	return pathError("delete volume", path, err)
}

// Stat says what a path stands for.
func (c *Cell) Stat(ctx context.Context, path string) (op.Node, error) {
	a, err := c.ask(ctx, op.Query{Code: op.Stat, Path: path})
	if err == nil && len(a.Nodes) != 1 {
		err = fmt.Errorf("an answer of %d nodes", len(a.Nodes))
	}
	if err != nil {
		return op.Node{}, pathError("stat", path, err)
	}
	return a.Nodes[0], nil
}

// ReadDir lists a folder in the order of names. A volume shows as a folder of its chunks.
func (c *Cell) ReadDir(ctx context.Context, path string) ([]op.Node, error) {
	var nodes []op.Node
	q := op.Query{Code: op.ReadDir, Path: path}
	for {
		a, err := c.ask(ctx, q)
		if err != nil {
			return nodes, pathError("read folder", path, err)
		}
		nodes = append(nodes, a.Nodes...)
		if !a.More || len(a.Nodes) == 0 {
			return nodes, nil
		}
		q.Cursor = a.Nodes[len(a.Nodes)-1].Name
	}
}

func pathError(what, path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %q: %w", what, path, err)
}

// proposePath has an operation executed whose arguments are paths.
func (c *Cell) proposePath(ctx context.Context, h op.Header, paths ...string) (op.Result, error) {
	var args []byte
	for _, p := range paths {
		if len(p) > op.MaxPath {
			return op.Result{}, op.Invalid
		}
		args = op.AppendString(args, p)
	}
	return c.propose(ctx, h, args)
}

// propose has an operation executed.
func (c *Cell) propose(ctx context.Context, h op.Header, args []byte) (op.Result, error) {
	if len(args) > op.MaxArgs {
		return op.Result{}, op.Invalid
	}
	h.Stamp = uint64(time.Now().UnixNano())
	r := &Request{Op: opPropose, header: h, args: args, total: 1}
	err := c.do(ctx, r)
	return r.result, err
}

// ask has a query answered.
func (c *Cell) ask(ctx context.Context, q op.Query) (op.Answer, error) {
	if len(q.Path) > op.MaxPath || len(q.Cursor) > op.MaxPath {
		return op.Answer{}, op.Invalid
	}
	r := &Request{Op: opQuery, query: q, total: 1}
	err := c.do(ctx, r)
	return r.answer, err
}

// do submits a request of one call and waits for it, or for ctx.
func (c *Cell) do(ctx context.Context, r *Request) error {
	done := c.start(r)
	return c.join(ctx, r, done)
}

// start submits a request of one call that is about no volume. Its memory must not be used for anything
// else if it is abandoned.
func (c *Cell) start(r *Request) (done <-chan struct{}) {
	ch := make(chan struct{})
	r.Done = func(*Request) { close(ch) }
	c.mu.Lock()
	if r.state = queued; c.closing && r.header.Code != op.SessionClose {
		c.finish(r, ErrClosed)
	} else {
		c.enqueue(r)
		c.push()
	}
	c.unlock()
	return ch
}

// join waits for a request that was started, or for ctx: then the request is abandoned.
func (c *Cell) join(ctx context.Context, r *Request, done <-chan struct{}) error {
	select {
	case <-done:
		return r.Err
	case <-ctx.Done():
	}
	c.mu.Lock()
	if r.state == idle { // just answered
		c.unlock()
		<-done
		return r.Err
	}
	err := c.waitError(ctx.Err())
	if !c.abandon(r) && r.mutates() {
		err = fmt.Errorf("%w (it may have taken effect)", err)
	}
	c.unlock()
	return err
}
