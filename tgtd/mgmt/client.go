package mgmt

import (
	"context"
	"fmt"
	"net"
	"time"
)

// Call sends one request to the daemon at socketPath and returns its answer. An answer with an
// error number is no error of Call. Errors wrap those of the socket (ENOENT, ECONNREFUSED,
// ECONNRESET, EPIPE, …), ErrNoAnswer, ErrPartial, ErrMalformed, ErrTooLarge or the context's.
// There is no timeout but the context's: a logical unit may take seconds to open.
func Call(ctx context.Context, socketPath string, r Request) (Response, error) {
	b, err := r.Append(nil)
	if err != nil {
		return Response{}, fmt.Errorf("encoding the request: %w", err)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socketPath)
	if err != nil {
		return Response{}, fmt.Errorf("connecting to the daemon: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	resp, err := exchange(c, b)
	if err != nil && ctx.Err() != nil {
		return Response{}, fmt.Errorf("waiting for the daemon: %w", context.Cause(ctx))
	}
	return resp, err
}

// exchange writes an encoded request and reads the answer.
func exchange(c net.Conn, request []byte) (Response, error) {
	if _, err := c.Write(request); err != nil {
		return Response{}, fmt.Errorf("sending the request: %w", err)
	}
	return ReadResponse(c)
}
