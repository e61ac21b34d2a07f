package wire

import (
	"fmt"
	"hash/crc32"
	"net"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire/socket"
)

const (
	// copyBelow is up to how many bytes a body is copied beside its header: cheaper than an element
	// of the writev's vector.
	copyBelow = 256
	// keepHeads is how much memory for headers a Writer keeps after a flush, in bytes.
	keepHeads = 256 << 10
)

// Writer collects frames and writes all of them to a connection at once. Large bodies are kept by
// reference: they must not change until Flush has returned. The frame methods fail for what the other
// side would refuse, and then leave the Writer as it was. A Writer is used by one goroutine at a time.
type Writer struct {
	// Timeout, when not 0, is how long one Flush may take.
	Timeout time.Duration

	conn    net.Conn
	heads   []byte    // headers and copied bodies; heads[open:] is not in bufs yet
	open    int       // index into heads
	bufs    [][]byte  // what to write before heads[open:]
	done    int       // of bufs, written by TryFlush
	try     tryWriter // set by the first TryFlush
	kept    bool      // the connection keeps bytes of the last TryFlush that it could not write
	size    int       // bytes of all
	vector  net.Buffers
	scratch []byte
	err     error // of the first Flush that failed
}

// tryWriter is a connection that writes without waiting: it takes as many bytes as it may, and returns how many.
// With socket.ErrWouldBlock it may keep some of these for the next write.
type tryWriter interface {
	TryWrite(bufs [][]byte) (int, error)
}

// bufferWriter is a connection that writes many pieces better together than one by one: it makes records of
// them. *net.TCPConn is known to net.Buffers instead.
type bufferWriter interface {
	WriteBuffers(bufs [][]byte) error
}

// NewWriter returns a Writer to conn.
func NewWriter(conn net.Conn) *Writer { return &Writer{conn: conn} }

// Buffered is the number of bytes the next Flush writes.
func (w *Writer) Buffered() int { return w.size }

// Frame adds a frame: sealed is the part of the body that the header's sum shall cover, parts are the
// rest. The typed methods below are made of it.
func (w *Writer) Frame(kind Kind, code uint16, tag uint64, sealed []byte, parts ...[]byte) error {
	size := len(sealed)
	for _, p := range parts {
		size += len(p)
	}
	if err := w.header(kind, code, tag, sealed, size); err != nil {
		return err
	}
	w.body(sealed)
	for _, p := range parts {
		w.body(p)
	}
	return nil
}

func (w *Writer) header(kind Kind, code uint16, tag uint64, sealed []byte, size int) error {
	if !kind.known() || uint64(size) > uint64(kinds[kind].limit) {
		return fmt.Errorf("%w: %v of %d bytes to be sent", ErrProtocol, kind, size)
	}
	base := len(w.heads)
	w.heads = slices.Grow(w.heads, HeaderSize)[:base+HeaderSize]
	putHeader(w.heads[base:], &Header{
		Size: uint32(size), Kind: kind, Code: code, Tag: tag,
		Sealed: uint32(len(sealed)), Sum: crc32.Checksum(sealed, castagnoli),
	})
	w.size += HeaderSize
	return nil
}

// small adds a frame whose whole body is sealed and in the scratch, so it has to be copied.
func (w *Writer) small(kind Kind, tag uint64) error {
	if err := w.header(kind, 0, tag, w.scratch, len(w.scratch)); err != nil {
		return err
	}
	w.heads = append(w.heads, w.scratch...)
	w.size += len(w.scratch)
	return nil
}

func (w *Writer) body(b []byte) {
	w.size += len(b)
	if len(b) <= copyBelow {
		w.heads = append(w.heads, b...)
		return
	}
	w.cut()
	w.bufs = append(w.bufs, b)
}

// cut puts the headers collected so far into the vector. Growing heads later leaves them behind in
// the old array, unchanged, where the vector still finds them.
func (w *Writer) cut() {
	if w.open < len(w.heads) {
		w.bufs = append(w.bufs, w.heads[w.open:len(w.heads):len(w.heads)])
		w.open = len(w.heads)
	}
}

// Flush writes everything collected with as few system calls as the system's vector allows. After an
// error the connection is of no further use and every later Flush returns the same error.
func (w *Writer) Flush() error {
	if w.size == 0 && !w.kept || w.err != nil {
		return w.err
	}
	w.kept = false
	w.cut()
	if w.Timeout > 0 {
		if err := w.conn.SetWriteDeadline(time.Now().Add(w.Timeout)); err != nil {
			w.err = err
		}
	}
	if w.err == nil {
		if b, ok := w.conn.(bufferWriter); ok {
			w.err = b.WriteBuffers(w.bufs[w.done:])
		} else {
			w.vector = net.Buffers(w.bufs[w.done:])
			_, w.err = w.vector.WriteTo(w.conn)
			w.vector = nil
		}
		if w.try != nil && w.Timeout > 0 && w.err == nil {
			// A deadline that passes meanwhile would end the next TryFlush.
			w.err = w.conn.SetWriteDeadline(time.Time{})
		}
	}
	w.Reset()
	return w.err
}

// TryFlush is Flush for those who must not wait: it writes as much as the connection has room for. If
// that is not everything it returns socket.ErrWouldBlock; the rest stays, for Flush and nothing else to
// go on with. On a connection that can't do without waiting it writes nothing.
func (w *Writer) TryFlush() error {
	if w.size == 0 || w.err != nil {
		return w.err
	}
	if w.try == nil && !w.findTry() {
		return socket.ErrWouldBlock
	}
	w.cut()
	for w.done < len(w.bufs) {
		n, err := w.try.TryWrite(w.bufs[w.done:])
		w.consume(n)
		if err == socket.ErrWouldBlock {
			w.kept = true
			return err
		}
		if err != nil {
			w.err = err
			break
		}
	}
	w.Reset()
	return w.err
}

// findTry sets try, if the connection has a way to write without waiting.
func (w *Writer) findTry() bool {
	if t, ok := w.conn.(tryWriter); ok {
		w.try = t
	} else if s := socket.Of(w.conn); s != nil {
		w.try = s
	}
	return w.try != nil
}

// consume notes that n bytes were written.
func (w *Writer) consume(n int) {
	w.size -= n
	for n > 0 {
		if b := w.bufs[w.done]; n < len(b) {
			w.bufs[w.done] = b[n:]
			return
		}
		n -= len(w.bufs[w.done])
		w.bufs[w.done] = nil
		w.done++
	}
}

// Reset forgets everything collected.
func (w *Writer) Reset() {
	clear(w.bufs) // so that bodies can be freed
	w.bufs, w.done, w.open, w.size = w.bufs[:0], 0, 0, 0
	if cap(w.heads) > keepHeads {
		w.heads = nil
	}
	w.heads = w.heads[:0]
}

// Hello adds a Hello.
func (w *Writer) Hello(h Hello) error {
	w.scratch = AppendHello(w.scratch[:0], h)
	return w.small(KindHello, 0)
}

// HelloReply adds a HelloReply.
func (w *Writer) HelloReply(h HelloReply) error {
	w.scratch = AppendHelloReply(w.scratch[:0], h)
	return w.small(KindHelloReply, 0)
}

// Propose adds an operation, in any number of parts.
func (w *Writer) Propose(tag uint64, parts ...[]byte) error {
	return w.Frame(KindPropose, 0, tag, nil, parts...)
}

// Result adds the answer to the Propose with this tag.
func (w *Writer) Result(tag uint64, r op.Result) error {
	w.scratch = op.AppendResult(w.scratch[:0], r)
	return w.small(KindResult, tag)
}

// Read adds a Read.
func (w *Writer) Read(tag uint64, r Read) error {
	w.scratch = AppendRead(w.scratch[:0], r)
	return w.small(KindRead, tag)
}

// ReadReply adds the answer to the Read with this tag: the block sums of data (op.Pieces of them, in
// little-endian bytes) and the data. Both are nil unless errno is op.OK.
func (w *Writer) ReadReply(tag uint64, errno op.Errno, sums, data []byte) error {
	return w.Frame(KindReadReply, uint16(errno), tag, sums, data)
}

// Query adds a query about the tree.
func (w *Writer) Query(tag uint64, q op.Query) error {
	w.scratch = op.AppendQuery(w.scratch[:0], q)
	return w.small(KindQuery, tag)
}

// QueryReply adds the answer to the Query with this tag.
func (w *Writer) QueryReply(tag uint64, a op.Answer) error {
	// Not in the scratch: a large body is kept by reference until Flush.
	return w.Frame(KindQueryReply, uint16(a.Errno), tag, op.AppendAnswer(nil, a))
}

// Notice adds news of who is master.
func (w *Writer) Notice(m Master) error {
	w.scratch = AppendMaster(w.scratch[:0], m)
	return w.small(KindNotice, 0)
}

// NotMaster adds the refusal of the request with this tag, and who to ask instead.
func (w *Writer) NotMaster(tag uint64, m Master) error {
	w.scratch = AppendMaster(w.scratch[:0], m)
	return w.small(KindNotMaster, tag)
}

// Ping adds a Ping.
func (w *Writer) Ping(tag uint64) error { return w.Frame(KindPing, 0, tag, nil) }

// Pong adds the answer to the Ping with this tag.
func (w *Writer) Pong(tag uint64) error { return w.Frame(KindPong, 0, tag, nil) }

// Wake tells a client that something its session waits for is there.
func (w *Writer) Wake(session uint64) error { return w.Frame(KindWake, 0, session, nil) }

// Servers tells a client where the servers are.
func (w *Writer) Servers(s *Servers) error {
	return w.Frame(KindServers, 0, 0, AppendServers(nil, s))
}

// Status asks for a report.
func (w *Writer) Status(tag uint64, what string) error {
	return w.Frame(KindStatus, 0, tag, []byte(what))
}

// StatusReply adds the answer to the Status with this tag.
func (w *Writer) StatusReply(tag uint64, errno op.Errno, report []byte) error {
	return w.Frame(KindStatusReply, uint16(errno), tag, report)
}

// Goodbye adds why the connection is going to be closed; a long reason is cut.
func (w *Writer) Goodbye(reason string) error {
	return w.Frame(KindGoodbye, 0, 0, []byte(reason[:min(len(reason), maxText)]))
}

// Raft adds a raft message. Its entries' data is kept by reference.
func (w *Writer) Raft(m *raftpb.Message) error {
	head, err := AppendRaftHead(w.scratch[:0], m)
	w.scratch = head[:0]
	if err != nil {
		return err
	}
	if err := w.header(KindRaft, 0, 0, head, RaftSize(m)); err != nil {
		return err
	}
	w.heads = append(w.heads, head...)
	w.size += len(head)
	for i := range m.Entries {
		w.body(m.Entries[i].Data)
	}
	return nil
}
