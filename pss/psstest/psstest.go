// Package psstest has a cell for tests of its clients: servers that listen on loopback and share one
// state in memory, and so never disagree, but lose connections, masters and answers as a test wants
// them to. It complains of clients that break the protocol.
package psstest

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// Verdict is what becomes of an operation that reached the master.
type Verdict int

// The verdicts.
const (
	Answer        Verdict = iota
	DropBefore            // the connection breaks, the operation is lost
	DropAfter             // it is executed, but the connection breaks before the answer
	ElectBefore           // it is lost, another server becomes master
	ElectAfter            // it is executed, another server becomes master, no answer
	Refuse                // NotMaster without a hint; then another server becomes master
	AnswerTwice           // the answer comes twice
	PauseAndElect         // it is executed, the master hangs and another one is elected
	Verdicts      = iota  // how many of those above there are
)

// ExpireAfter has the operation executed, then all sessions end and the connection breaks before the answer.
const ExpireAfter Verdict = 100

// Cell is a cell of servers that share one state. The mutex guards the exported fields.
type Cell struct {
	sync.Mutex
	Judge   func(o *op.Op) Verdict // decides about each operation with a sequence number; nil answers all
	Rotten  int                    // so many replies to reads carry wrong data
	Hold    chan struct{}          // while not nil, writes wait until it is closed
	TooMany bool                   // no further sessions are opened
	Claims  int                    // added to the ids that servers greet with

	Sessions map[uint64]*Session
	Ended    map[uint64]bool // sessions that were closed or have expired
	Names    map[string]*Object

	t       testing.TB
	objects map[uint64]*Object
	made    uint64 // objects ever
	servers []*server
	term    uint64
	master  uint8
	coord   coordinator
	wg      sync.WaitGroup
	errs    []string
}

// Session is what the cell knows of a client.
type Session struct {
	Epoch uint32
	Acked uint64 // all numbers below are answered
	Done  map[uint64]op.Result
	last  uint64 // highest number executed: a client sends in order
}

// Object is a folder, file or volume.
type Object struct {
	ID    uint64
	Kind  op.NodeKind
	Data  []byte
	Token uint64
	Attrs map[string]Attr
	since uint64 // the first token of those who share it; 0 while nobody does
}

// Attr is an attribute of a volume.
type Attr struct {
	Version uint64
	Value   []byte
}

// hold says what becomes of an operation under a token.
func (o *Object) hold(token uint64) op.Errno {
	switch {
	case token == o.Token:
		return op.OK
	case o.since != 0 && token >= o.since && token < o.Token:
		return op.Moved
	}
	return op.Fenced
}

func (o *Object) resize(n int) {
	o.Data = append(o.Data[:min(len(o.Data), n)], make([]byte, max(0, n-len(o.Data)))...)
}

type server struct {
	cell   *Cell
	id     uint8
	port   int
	l      net.Listener
	conns  map[*conn]bool
	paused chan struct{} // closed when it goes on; nil when it runs
}

type conn struct {
	s       *server
	nc      net.Conn
	mu      sync.Mutex // guards w
	w       *wire.Writer
	refused bool // a proposal was refused: so are all later ones
	session uint64
}

// New starts a cell of n servers without a master. It ends with the test.
func New(t testing.TB, n int) *Cell {
	f := &Cell{t: t, master: wire.None, term: 1,
		Sessions: map[uint64]*Session{}, Ended: map[uint64]bool{}, Names: map[string]*Object{}, objects: map[uint64]*Object{}}
	for i := range n {
		s := &server{cell: f, id: uint8(i), conns: map[*conn]bool{}}
		f.servers = append(f.servers, s)
		f.Start(i)
	}
	t.Cleanup(func() {
		for i := range n {
			f.Resume(i)
			f.Stop(i)
		}
		f.wg.Wait()
		for _, e := range f.errs {
			t.Error(e)
		}
	})
	return f
}

// ConfFile writes a server.conf that describes the cell and returns its name.
func (f *Cell) ConfFile() string {
	name := filepath.Join(f.t.TempDir(), "server.conf")
	var b bytes.Buffer
	for _, s := range f.servers {
		fmt.Fprintf(&b, "%d 127.0.0.1 %d %d /pss\n", s.id, s.port, s.port)
	}
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		f.t.Fatal(err)
	}
	return name
}

// Conf describes the cell to clients.
func (f *Cell) Conf() *cell.Config {
	c := &cell.Config{File: "test"}
	for _, s := range f.servers {
		c.Servers = append(c.Servers, cell.Server{ID: cell.ID(s.id), Host: "127.0.0.1", TCPPort: s.port})
	}
	return c
}

// Start makes server i listen, on the port it had.
func (f *Cell) Start(i int) {
	s := f.servers[i]
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err != nil {
		f.t.Fatal(err)
	}
	f.Lock()
	s.l, s.port = l, l.Addr().(*net.TCPAddr).Port
	f.Unlock()
	f.wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			k := &conn{s: s, nc: nc, w: wire.NewWriter(nc)}
			f.Lock()
			s.conns[k] = true
			f.Unlock()
			f.wg.Go(k.serve)
		}
	})
}

// Stop closes the port and all connections of server i.
func (f *Cell) Stop(i int) {
	f.Lock()
	defer f.Unlock()
	f.servers[i].l.Close()
	f.drop(i)
}

// drop closes all connections of server i. The cell is locked.
func (f *Cell) drop(i int) {
	for k := range f.servers[i].conns {
		k.nc.Close()
	}
}

// Pause makes server i hang, as SIGSTOP does.
func (f *Cell) Pause(i int) {
	f.Lock()
	defer f.Unlock()
	f.servers[i].paused = make(chan struct{})
}

// Resume lets a server that hangs go on.
func (f *Cell) Resume(i int) {
	f.Lock()
	defer f.Unlock()
	if p := f.servers[i].paused; p != nil {
		close(p)
		f.servers[i].paused = nil
	}
}

// Elect makes server i master in a new term and lets all servers that run say so.
func (f *Cell) Elect(i uint8) {
	f.Lock()
	defer f.Unlock()
	f.electLocked(i)
}

func (f *Cell) electLocked(i uint8) {
	f.term++
	f.master = i
	m := wire.Master{Term: f.term, Master: i}
	for _, s := range f.servers {
		for k := range s.conns {
			if s.paused == nil {
				f.wg.Go(func() { k.send(func(w *wire.Writer) error { return w.Notice(m) }) })
			}
		}
	}
}

// next is a server other than the master that runs.
func (f *Cell) next() uint8 {
	for i := 1; ; i++ {
		if s := f.servers[(int(f.master)+i)%len(f.servers)]; s.paused == nil {
			return s.id
		}
	}
}

func (k *conn) send(add func(*wire.Writer) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := add(k.w); err != nil {
		k.s.cell.t.Error(err)
	}
	if k.w.Flush() != nil {
		k.nc.Close()
	}
}

// wait blocks while the server is paused.
func (k *conn) wait() {
	f := k.s.cell
	for {
		f.Lock()
		p := k.s.paused
		f.Unlock()
		if p == nil {
			return
		}
		<-p
	}
}

func (k *conn) serve() {
	f := k.s.cell
	defer func() {
		k.nc.Close()
		f.Lock()
		delete(k.s.conns, k)
		f.Unlock()
	}()
	r := wire.NewReader(k.nc)
	for {
		h, err := r.Next()
		if err != nil {
			return
		}
		body := make([]byte, h.Size)
		if err := r.Body(body); err != nil {
			return
		}
		k.wait()
		switch h.Kind {
		case wire.KindHello:
			hello, err := wire.ParseHello(body)
			if err != nil {
				f.t.Errorf("hello: %v", err)
				return
			}
			f.Lock()
			k.session = hello.From
			m := wire.HelloReply{Master: wire.Master{Term: f.term, Master: f.master}, Protocol: wire.Protocol, Server: k.s.id + uint8(f.Claims)}
			f.Unlock()
			k.send(func(w *wire.Writer) error { return w.HelloReply(m) })
		case wire.KindPing:
			k.send(func(w *wire.Writer) error { return w.Pong(h.Tag) })
		case wire.KindPong:
		case wire.KindPropose:
			k.propose(h.Tag, body)
		case wire.KindRead:
			k.read(h.Tag, body)
		case wire.KindQuery:
			k.query(h.Tag, body)
		default:
			f.t.Errorf("unexpected %v", h.Kind)
		}
	}
}

func (k *conn) propose(tag uint64, body []byte) {
	f := k.s.cell
	o, err := op.Parse(body)
	if err == nil {
		err = o.Check()
	}
	if err != nil {
		f.t.Errorf("propose: %v", err)
		k.nc.Close()
		return
	}
	f.Lock()
	if hold := f.Hold; hold != nil && o.Code == op.Write {
		f.Unlock()
		<-hold
		f.Lock()
	}
	defer f.Unlock()
	m := wire.Master{Term: f.term, Master: f.master}
	if f.master != k.s.id || k.refused {
		k.refused = true
		k.send(func(w *wire.Writer) error { return w.NotMaster(tag, m) })
		return
	}
	v := Answer
	if o.Seq != 0 && f.Judge != nil {
		v = f.Judge(&o)
	}
	switch v {
	case DropBefore:
		f.drop(int(k.s.id))
		k.refused = true
		return
	case ElectBefore:
		k.refused = true
		f.electLocked(f.next())
		return
	case Refuse:
		k.refused = true
		k.send(func(w *wire.Writer) error { return w.NotMaster(tag, wire.Master{Term: f.term, Master: wire.None}) })
		f.electLocked(f.next())
		return
	}
	res := f.apply(&o)
	switch v {
	case ExpireAfter:
		for id := range f.Sessions {
			f.end(id)
		}
		fallthrough
	case DropAfter:
		f.drop(int(k.s.id))
		k.refused = true
		return
	case ElectAfter:
		k.refused = true
		f.electLocked(f.next())
		return
	case PauseAndElect:
		for _, s := range f.servers {
			if p := s.paused; p != nil { // one at a time
				close(p)
				s.paused = nil
			}
		}
		k.s.paused = make(chan struct{})
		f.electLocked(f.next())
		return
	case AnswerTwice:
		k.send(func(w *wire.Writer) error { return w.Result(tag, res) })
	}
	k.send(func(w *wire.Writer) error { return w.Result(tag, res) })
}

// apply is the state machine.
func (f *Cell) apply(o *op.Op) op.Result {
	s := f.Sessions[o.Session]
	switch {
	case o.Code == op.SessionOpen && s == nil && f.TooMany:
		return op.Result{Errno: op.TooMany}
	case o.Code == op.SessionOpen && s == nil && (f.Ended[o.Session] || o.Epoch > 1 && o.Flags&op.FlagFirst == 0):
		return op.Result{Errno: op.NoSession}
	case o.Code == op.SessionOpen && s == nil:
		f.coord.apply(op.Header{Code: op.SessionOpen, Session: o.Session, Epoch: 1}, nil, nil)
		f.Sessions[o.Session] = &Session{Epoch: o.Epoch, Acked: 1, Done: map[uint64]op.Result{}}
		return op.Result{}
	case s == nil:
		return op.Result{Errno: op.NoSession}
	case o.Code == op.SessionOpen && o.Epoch >= s.Epoch:
		s.Epoch = o.Epoch
		return op.Result{}
	case o.Seq == 0 && o.Code != op.SessionOpen || o.Acked > o.Seq:
		f.errs = append(f.errs, fmt.Sprintf("%v with seq %d, acked %d", o.Code, o.Seq, o.Acked))
		return op.Result{Errno: op.Invalid}
	case o.Epoch != s.Epoch:
		if res, ok := s.Done[o.Seq]; ok && o.Code != op.SessionOpen {
			return res
		}
		return op.Result{Errno: op.StaleEpoch}
	case o.Code == op.SessionClose:
		f.end(o.Session)
		return op.Result{}
	}
	s.Acked = max(s.Acked, o.Acked)
	maps.DeleteFunc(s.Done, func(seq uint64, _ op.Result) bool { return seq < s.Acked })
	switch res, ok := s.Done[o.Seq]; {
	case o.Seq < s.Acked:
		f.errs = append(f.errs, fmt.Sprintf("%v with seq %d is too old: %d acked", o.Code, o.Seq, s.Acked))
		return op.Result{Errno: op.TooOld}
	case o.Seq-s.Acked >= op.Window:
		f.errs = append(f.errs, fmt.Sprintf("%v with seq %d: %d acked", o.Code, o.Seq, s.Acked))
		return op.Result{Errno: op.TooMany}
	case ok:
		return res
	}
	if o.Seq < s.last {
		f.errs = append(f.errs, fmt.Sprintf("%v with seq %d executed after %d", o.Code, o.Seq, s.last))
	}
	s.last = o.Seq
	res := f.execute(o)
	s.Done[o.Seq] = res
	return res
}

func (f *Cell) execute(o *op.Op) op.Result {
	fail := func(e op.Errno) op.Result { return op.Result{Errno: e} }
	if o.Code.HasToken() || o.Code == op.Truncate {
		obj := f.objects[o.Object]
		switch {
		case obj == nil:
			return fail(op.NotFound)
		case o.Code == op.Truncate:
			obj.resize(int(o.Length))
			return op.Result{}
		case obj.Kind == op.KindVolume && obj.hold(o.Token) != op.OK:
			return fail(obj.hold(o.Token))
		case obj.Kind == op.KindFile && int(o.Offset+o.Length) > len(obj.Data):
			obj.resize(int(o.Offset + o.Length))
		case int(o.Offset+o.Length) > len(obj.Data):
			return fail(op.OutOfRange)
		}
		there := obj.Data[o.Offset : o.Offset+o.Length]
		switch o.Code {
		case op.Write:
			copy(there, o.Payload)
		case op.CompareAndWrite:
			for i := range there {
				if there[i] != o.Payload[i] {
					return op.Result{Errno: op.Miscompare, Value: uint64(i)}
				}
			}
			copy(there, o.Payload[o.Length:])
		default:
			clear(there)
		}
		return op.Result{}
	}
	switch {
	case o.Code == op.AttrSet:
		return f.setAttr(o)
	case o.Code >= op.LockTake && o.Code <= op.EventAck:
		h := o.Header
		h.Epoch = 1
		return f.wake(f.coord.apply(h, o.Args, o.Payload))
	}
	name, rest, err := op.String(o.Args)
	if err != nil {
		return fail(op.Invalid)
	}
	name = strings.TrimPrefix(name, "/")
	obj := f.Names[name]
	switch o.Code {
	case op.Mkdir, op.CreateFile, op.VolumeCreate:
		if obj != nil && o.Code == op.VolumeCreate && int(o.Length) != len(obj.Data) {
			return op.Result{Errno: op.Exists, Value: uint64(len(obj.Data))}
		}
		if obj != nil && o.Code == op.CreateFile {
			return fail(op.Exists)
		}
		if obj == nil {
			f.made++
			obj = &Object{ID: f.made, Kind: op.KindFile, Data: make([]byte, o.Length)}
			switch o.Code {
			case op.Mkdir:
				obj.Kind = op.KindDir
			case op.VolumeCreate:
				obj.Kind = op.KindVolume
			}
			f.Names[name], f.objects[obj.ID] = obj, obj
		}
		return op.Result{Object: obj.ID}
	case op.Rename:
		to, _, err := op.String(rest)
		if err != nil || obj == nil {
			return fail(op.NotFound)
		}
		f.Names[to] = obj
	}
	switch {
	case obj == nil:
		return fail(op.NotFound)
	case o.Code == op.VolumeOpen && obj.Kind != op.KindVolume:
		return fail(op.Kind)
	case o.Code == op.VolumeOpen && o.Flags&op.FlagRenew != 0 && obj.hold(o.Token) == op.Fenced:
		return fail(op.Fenced)
	case o.Code == op.VolumeOpen:
		if shared := o.Flags&op.FlagShared != 0; !shared || obj.since == 0 {
			obj.Token++
			obj.since = 0
			if shared {
				obj.since = obj.Token
			}
		}
		return op.Result{Object: obj.ID, Token: obj.Token, Value: uint64(len(obj.Data))}
	case o.Code == op.VolumeGrow && int(o.Length) < len(obj.Data):
		return fail(op.Invalid)
	case o.Code == op.VolumeGrow:
		obj.resize(int(o.Length))
	default: // Rmdir, Delete, VolumeDelete, Rename
		delete(f.Names, name)
		if o.Code != op.Rename {
			delete(f.objects, obj.ID)
		}
	}
	return op.Result{}
}

func (f *Cell) setAttr(o *op.Op) op.Result {
	obj := f.objects[o.Object]
	name, version, err := o.Attr()
	switch {
	case err != nil:
		return op.Result{Errno: op.Invalid}
	case obj == nil:
		return op.Result{Errno: op.NotFound}
	case obj.hold(o.Token) != op.OK:
		return op.Result{Errno: obj.hold(o.Token)}
	case obj.Attrs[name].Version != version:
		return op.Result{Errno: op.Conflict, Value: obj.Attrs[name].Version}
	}
	if obj.Attrs == nil {
		obj.Attrs = map[string]Attr{}
	}
	f.made++
	obj.Attrs[name] = Attr{f.made, bytes.Clone(o.Payload)}
	if o.Flags&op.FlagRemove != 0 {
		delete(obj.Attrs, name)
	}
	if o.Flags&op.FlagBump != 0 {
		obj.Token++
	}
	return op.Result{Token: obj.Token, Value: obj.Attrs[name].Version}
}

func (k *conn) read(tag uint64, body []byte) {
	f := k.s.cell
	r, err := wire.ParseRead(body)
	if err != nil {
		f.t.Errorf("read: %v", err)
		return
	}
	f.Lock()
	defer f.Unlock()
	if f.master != k.s.id {
		m := wire.Master{Term: f.term, Master: f.master}
		k.send(func(w *wire.Writer) error { return w.NotMaster(tag, m) })
		return
	}
	obj := f.objects[r.Object]
	if obj == nil {
		k.send(func(w *wire.Writer) error { return w.ReadReply(tag, op.NotFound, nil, nil) })
		return
	}
	data := bytes.Clone(obj.Data[min(int(r.Offset), len(obj.Data)):min(int(r.Offset)+int(r.Length), len(obj.Data))])
	var sums []byte
	for _, s := range op.AppendSums(nil, r.Offset, data) {
		sums = append(sums, byte(s), byte(s>>8), byte(s>>16), byte(s>>24))
	}
	if f.Rotten > 0 {
		f.Rotten--
		data[0] ^= 1
	}
	k.send(func(w *wire.Writer) error { return w.ReadReply(tag, op.OK, sums, data) })
}

func (k *conn) query(tag uint64, body []byte) {
	f := k.s.cell
	q, err := op.ParseQuery(body)
	if err != nil {
		f.t.Errorf("query: %v", err)
		return
	}
	f.Lock()
	defer f.Unlock()
	if f.master != k.s.id {
		m := wire.Master{Term: f.term, Master: f.master}
		k.send(func(w *wire.Writer) error { return w.NotMaster(tag, m) })
		return
	}
	q.Path = strings.TrimPrefix(q.Path, "/")
	node := func(name string) op.Node {
		o := f.Names[name]
		return op.Node{Name: name, Kind: o.Kind, Object: o.ID, Bytes: uint64(len(o.Data))}
	}
	var a op.Answer
	obj := f.objects[q.Object]
	switch {
	case q.Code == op.QueueGet || q.Code == op.EventGet:
		a = f.coord.query(q)
	case q.Code == op.TokenGet || q.Code == op.AttrGet:
		switch {
		case obj == nil:
			a.Errno = op.NotFound
		case q.Code == op.TokenGet:
			a.Version = obj.Token
		default:
			a.Version, a.Value = obj.Attrs[q.Path].Version, obj.Attrs[q.Path].Value
		}
	case q.Code == op.ReadDir:
		var nodes []op.Node
		for _, name := range slices.Sorted(maps.Keys(f.Names)) {
			if strings.HasPrefix(name, q.Path+"/") {
				n := node(name)
				n.Name = name[len(q.Path)+1:]
				nodes = append(nodes, n)
			}
		}
		for _, name := range f.chunksBelow(q.Path) {
			nodes = append(nodes, op.Node{Name: name, Kind: op.KindFile})
		}
		for _, n := range nodes {
			if n.Name <= q.Cursor {
				continue
			}
			if len(a.Nodes) == 2 { // short answers, so that the client has to ask again
				a.More = true
				break
			}
			a.Nodes = append(a.Nodes, n)
		}
	case f.Names[q.Path] == nil:
		if a.Errno = f.chunk(q.Path); a.Errno == op.OK {
			a.Nodes = []op.Node{{Name: path.Base(q.Path), Kind: op.KindFile}}
		}
	default:
		a.Nodes = []op.Node{node(q.Path)}
	}
	k.send(func(w *wire.Writer) error { return w.QueryReply(tag, a) })
}

// chunksBelow lists the digits of the chunks that hold data below a volume, or below one of its folders.
func (f *Cell) chunksBelow(folder string) (names []string) {
	for name, o := range f.Names {
		if o.Kind != op.KindVolume || folder != name && !strings.HasPrefix(folder, name+"/") {
			continue
		}
		for c := range (len(o.Data) + 4<<20 - 1) >> 22 {
			chunk := fmt.Sprintf("%s/%02x/%02x/%02x", name, c>>16, c>>8&0xff, c&0xff)
			if !strings.HasPrefix(chunk, folder+"/") || f.chunk(chunk) != op.OK {
				continue
			}
			if digit := chunk[len(folder)+1:][:2]; !slices.Contains(names, digit) {
				names = append(names, digit)
			}
		}
	}
	return names
}

// chunk says whether the path of a volume's chunk, VOLUME/00/00/01, is one that holds data.
func (f *Cell) chunk(name string) op.Errno {
	at := len(name) - len("/00/00/00")
	if at < 0 || f.Names[name[:at]] == nil {
		return op.NotFound
	}
	var a, b, c int
	if _, err := fmt.Sscanf(name[at:], "/%02x/%02x/%02x", &a, &b, &c); err != nil {
		return op.NotFound
	}
	data := f.Names[name[:at]].Data
	data = data[min(len(data), (a<<16|b<<8|c)<<22):]
	if len(bytes.Trim(data[:min(len(data), 4<<20)], "\x00")) == 0 {
		return op.NotFound
	}
	return op.OK
}
