package mgmt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of the server.
const (
	// MaxConnections are served at a time; more wait in the socket's backlog.
	MaxConnections = 64
	// RequestTimeout is how long a client may take to send a whole request.
	RequestTimeout = 30 * time.Second
	// AnswerTimeout is how long a client may take to read the whole answer.
	AnswerTimeout = 30 * time.Second
)

// The ways in which Listen fails.
var (
	ErrLockFile = errors.New("failed to open lock file for management IPC")
	ErrLocked   = errors.New("another tgtd holds the lock")
)

// Handler carries out a request. It is called from many goroutines, one for each connection, so
// that a request that waits holds up no other. The context ends when the server is closed.
type Handler func(context.Context, Request) Response

// Peer is who speaks at the other end of a connection.
type Peer struct {
	UID, GID uint32
}

// Options configure a Server.
type Options struct {
	Handler Handler
	Log     *slog.Logger
	// Allow says whether a peer may speak. Nil means: only who has the daemon's own user and group.
	Allow func(Peer) bool
	// RequestTimeout and AnswerTimeout replace the constants of these names when not 0.
	RequestTimeout, AnswerTimeout time.Duration
}

// Server serves the management socket.
type Server struct {
	o    Options
	ln   *net.UnixListener
	lock *os.File

	ctx    context.Context // ends with Close: requests under way are told
	cancel context.CancelFunc
	slots  chan struct{} // one token for each connection being served
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	waiting map[net.Conn]struct{} // connections whose request is not complete yet
}

// Listen takes the lock beside the socket's path, replaces a socket left behind by a daemon that is gone,
// and listens. Clients wait from then on; they are served after Serve. It returns ErrLockFile when
// the lock can't be opened and ErrLocked when another daemon holds it.
func Listen(path string, o Options) (*Server, error) {
	if o.Allow == nil {
		o.Allow = sameUser
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = RequestTimeout
	}
	if o.AnswerTimeout == 0 {
		o.AnswerTimeout = AnswerTimeout
	}
	lock, err := takeLock(path + ".lock")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		lock.Close()
		return nil, fmt.Errorf("removing the socket of an earlier daemon: %w", err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("opening the management socket: %w", err)
	}
	// tgtadm --op delete --mode sys connects until it is refused. With the file gone it would get
	// ENOENT and try for ever.
	ln.SetUnlinkOnClose(false)
	s := &Server{o: o, ln: ln, lock: lock, slots: make(chan struct{}, MaxConnections),
		waiting: make(map[net.Conn]struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// takeLock opens the lock file and locks its first byte. The lock ends with the process or with
// the file.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLockFile, err)
	}
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: 0, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &l); err != nil {
		f.Close()
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return nil, fmt.Errorf("%w: %s", ErrLocked, path)
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f, nil
}

// sameUser lets in who runs with the real user and group of this process, and no one else: not even
// root with another group.
func sameUser(p Peer) bool {
	return p.UID == uint32(os.Getuid()) && p.GID == uint32(os.Getgid())
}

// Serve begins to serve; it does not wait.
func (s *Server) Serve() {
	s.wg.Go(s.accept)
}

// accept takes connections until the server is closed, as many at a time as there are slots.
func (s *Server) accept() {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		c, err := s.ln.AcceptUnix()
		if err != nil {
			<-s.slots
			if s.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			s.o.Log.Error("accepting a management connection failed", "err", err)
			// Out of descriptors or memory: give the others a moment to end.
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.ctx.Done():
				return
			}
			continue
		}
		s.wg.Go(func() {
			defer func() { <-s.slots }()
			defer c.Close()
			s.serve(c)
		})
	}
}

// serve has one exchange with a client.
func (s *Server) serve(c *net.UnixConn) {
	peer, err := peerOf(c)
	if err != nil {
		s.o.Log.Error("who is at the management socket can't be told", "err", err)
		return
	}
	if !s.o.Allow(peer) {
		s.o.Log.Warn("management request refused: another user or group", "uid", peer.UID, "gid", peer.GID)
		return
	}
	r, err := s.read(c)
	if err != nil {
		if err != io.EOF && s.ctx.Err() == nil {
			s.o.Log.Warn("management request not read", "err", err)
		}
		return
	}
	answer := s.o.Handler(s.ctx, r)
	c.SetWriteDeadline(time.Now().Add(s.o.AnswerTimeout))
	if _, err := c.Write(answer.Append(nil)); err != nil {
		s.o.Log.Warn("management answer not delivered", "mode", r.Mode, "op", r.Op, "err", err)
	}
}

// read reads the request of a connection. While it does, Close may break in.
func (s *Server) read(c net.Conn) (Request, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return Request{}, net.ErrClosed
	}
	s.waiting[c] = struct{}{}
	c.SetReadDeadline(time.Now().Add(s.o.RequestTimeout))
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiting, c)
		s.mu.Unlock()
	}()
	return ReadRequest(c)
}

// peerOf asks the kernel who connected (SO_PEERCRED).
func peerOf(c *net.UnixConn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("credentials of a peer: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return Peer{}, fmt.Errorf("credentials of a peer: %w", err)
	}
	return Peer{UID: cred.Uid, GID: cred.Gid}, nil
}

// Close stops listening, drops clients that have not sent their whole request, and waits until the
// requests under way are answered. The socket's file and the lock file stay.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.wg.Wait()
		return nil
	}
	s.closed = true
	for c := range s.waiting {
		c.SetReadDeadline(time.Unix(1, 0))
	}
	s.mu.Unlock()
	s.cancel()
	err := s.ln.Close()
	s.wg.Wait()
	return errors.Join(err, s.lock.Close())
}
