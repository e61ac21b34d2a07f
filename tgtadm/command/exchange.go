package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// awaitInterval is the pause between two looks at a daemon that is ending.
const awaitInterval = 100 * time.Millisecond

// errNoDaemon is how it is said that nobody listens on the management socket.
var errNoDaemon = errors.New("failed to send request hdr to tgt daemon, Transport endpoint is not connected")

// failure returns the text and the exit status for an exchange with the daemon that failed. That the
// daemon closed the connection without an answer counts as success, which is how the original ends when
// the daemon does.
func failure(err error) (text string, status int) {
	var number mgmt.Errno
	switch {
	case errors.As(err, &number):
		return number.Error(), StatusUsage
	case errors.Is(err, errNoDaemon), !wasConnected(err):
		return errNoDaemon.Error(), StatusNoDaemon
	case errors.Is(err, mgmt.ErrNoAnswer):
		return "tgtd closed the socket", 0
	case err == mgmt.ErrPartial: // within the head; wrapped, it is a text that was cut off
		return "a partial response", 0
	case errors.Is(err, mgmt.ErrTooLarge) && !wasSent(err):
		return err.Error(), StatusUsage
	case errors.Is(err, syscall.ECONNRESET) && wasSent(err):
		return "can't get the response, Connection reset by peer", statusReset
	case errors.Is(err, syscall.ECONNRESET):
		return "failed to send request hdr to tgt daemon, Connection reset by peer", statusReset
	case errors.Is(err, syscall.EPIPE):
		return "failed to send request hdr to tgt daemon, Broken pipe", statusReset
	}
	return err.Error(), statusReset
}

// wasConnected is false for the error of an attempt to connect.
func wasConnected(err error) bool {
	var op *net.OpError
	return !errors.As(err, &op) || op.Op != "dial"
}

// wasSent is false for the error of an exchange that did not come to reading the answer.
func wasSent(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op == "read"
	}
	return err == nil || errors.Is(err, mgmt.ErrNoAnswer) || errors.Is(err, mgmt.ErrPartial)
}

// awaitEnd returns when nobody listens on path any more, after a request that ends the daemon. The
// daemon may leave its socket file behind or remove it.
func awaitEnd(ctx context.Context, path string) error {
	ticker := time.NewTicker(awaitInterval)
	defer ticker.Stop()
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			conn.Close()
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the daemon on %s to end: %w", path, ctx.Err())
		case <-ticker.C:
		}
	}
}
