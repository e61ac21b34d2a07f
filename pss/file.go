package pss

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

const (
	fileChunk = 1 << 20 // bytes of a file that one request carries
	fileDepth = 4       // requests under way for one file
)

// part is one request of a file's transfer, with its own memory: a request that was abandoned may
// still be written from, or read into.
type part struct {
	req  *Request
	done <-chan struct{}
}

// ReadFile writes the content of the file at path to w, and returns the number of bytes.
func (c *Cell) ReadFile(ctx context.Context, path string, w io.Writer) (int64, error) {
	n, err := c.Stat(ctx, path)
	if err != nil {
		return 0, err
	}
	if n.Kind != op.KindFile {
		return 0, pathError("read", path, ErrKind)
	}
	total, size := int64(0), int64(n.Bytes)
	var parts []part
	for next := int64(0); total < size; {
		for next < size && len(parts) < fileDepth {
			r := fileRead(n.Object, next, int(min(fileChunk, size-next)))
			parts = append(parts, part{r, c.start(r)})
			next += int64(len(r.Data))
		}
		p := parts[0]
		parts = parts[1:]
		if err := c.join(ctx, p.req, p.done); err != nil {
			c.leave(parts)
			return total, pathError("read", path, err)
		}
		got := p.req.Data[:p.req.result.Value]
		m, err := w.Write(got)
		total += int64(m)
		if err != nil {
			c.leave(parts)
			return total, fmt.Errorf("copy %q: %w", path, err)
		}
		if len(got) < len(p.req.Data) { // somebody made it shorter
			c.leave(parts)
			return total, nil
		}
	}
	return total, nil
}

// ReadObject reads up to len(p) bytes of an object from offset. At its end it returns io.EOF.
func (c *Cell) ReadObject(ctx context.Context, object uint64, p []byte, offset int64) (n int, err error) {
	for n < len(p) {
		r := fileRead(object, offset+int64(n), min(len(p)-n, fileChunk))
		if err := c.do(ctx, r); err != nil {
			return n, fmt.Errorf("read object %d at %d: %w", object, offset, err)
		}
		got := copy(p[n:], r.Data[:r.result.Value])
		if n += got; got < len(r.Data) {
			return n, io.EOF
		}
	}
	return n, nil
}

// fileRead is a read of n bytes at offset.
func fileRead(object uint64, offset int64, n int) *Request {
	return &Request{Op: Read, Data: make([]byte, n), total: int64(n),
		header: op.Header{Object: object, Offset: uint64(offset)}}
}

// WriteFile makes the content of r the content of the file at path, which is created if it is not
// there. It returns the number of bytes. When it fails half-way, the file is incomplete.
func (c *Cell) WriteFile(ctx context.Context, path string, r io.Reader) (int64, error) {
	object, err := c.Create(ctx, path)
	if errors.Is(err, ErrExists) {
		var n op.Node
		if n, err = c.Stat(ctx, path); err != nil {
			return 0, err
		}
		if n.Kind != op.KindFile {
			return 0, pathError("write", path, ErrKind)
		}
		object, err = n.Object, c.truncate(ctx, n.Object, 0)
	}
	if err != nil {
		return 0, err
	}
	var total int64
	var parts []part
	defer func() { c.leave(parts) }()
	for end := false; !end || len(parts) > 0; {
		for !end && len(parts) < fileDepth {
			data := make([]byte, fileChunk)
			n, err := io.ReadFull(r, data)
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return total, fmt.Errorf("read what to write to %q: %w", path, err)
			}
			end = err != nil
			if n == 0 {
				break
			}
			w := &Request{Op: Write, Data: data[:n], total: int64(n), header: op.Header{
				Code: op.Write, Object: object, Offset: uint64(total), Length: uint64(n),
				Stamp: uint64(time.Now().UnixNano()),
			}}
			total += int64(n)
			parts = append(parts, part{w, c.start(w)})
		}
		if len(parts) == 0 {
			break
		}
		p := parts[0]
		parts = parts[1:]
		if err := c.join(ctx, p.req, p.done); err != nil {
			return total, pathError("write", path, err)
		}
	}
	return total, nil
}

// leave abandons what is under way.
func (c *Cell) leave(parts []part) {
	c.mu.Lock()
	for _, p := range parts {
		c.abandon(p.req)
	}
	c.unlock()
}
