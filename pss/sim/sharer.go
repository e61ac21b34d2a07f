package sim

import (
	"fmt"

	"github.com/anishathalye/porcupine"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// What those who share work on.
const (
	sharerCount = 2
	volumeName  = "/volume"
	volumeBytes = 2 * sectorBytes
	attrName    = "state"
	lockName    = "lock"
)

// sharer is a client that works on a volume which others take from it, or share with it, and on a lock that they want,
// too. It does not give up a volume that it has lost: it goes on to write under its old token now and then.
type sharer struct {
	*client
	volume  uint64
	token   uint64 // of the newest opening
	shared  bool   // that was to share
	version uint64 // of the attribute, as it was heard of last
	moved   bool   // the token moved on: renew it

	handle  uint64 // of the lock, or of the wait for it; 0: none
	held    bool
	locking bool // a request about the lock is under way
}

// turn is what a sharer asks of the volume, for its oracle. token is what it asks under.
type turn struct {
	code  op.Code
	flags uint16
	token uint64
	value uint64 // to be written; of an AttrSet: the version that it has to have
}

// outcome is what it was told.
type outcome struct {
	errno op.Errno
	token uint64
	value uint64 // read, or the attribute's version
}

// volumeState is what the oracle takes the volume for.
type volumeState struct {
	token   uint64
	sharers uint64 // the first token of those who share it; 0: one has it alone
	value   uint64 // of the sector
	version uint64 // of the attribute
}

// hold is what becomes of a change under a token.
func (v *volumeState) hold(token uint64) op.Errno {
	switch {
	case token != 0 && token == v.token:
		return op.OK
	case v.sharers != 0 && token >= v.sharers && token < v.token:
		return op.Moved
	}
	return op.Fenced
}

// step carries a turn out and says what it must be answered.
func (v *volumeState) step(t turn, told outcome) outcome {
	switch t.code {
	case 0:
		return outcome{value: v.value}
	case op.Write:
		errno := v.hold(t.token)
		if errno == op.OK {
			v.value = t.value
		}
		return outcome{errno: errno}
	case op.AttrSet:
		return v.set(t, told)
	}
	shared := t.flags&op.FlagShared != 0
	if t.flags&op.FlagRenew != 0 && v.hold(t.token) == op.Fenced {
		return outcome{errno: op.Fenced}
	}
	if !shared || v.sharers == 0 {
		v.token++
		v.sharers = 0
		if shared {
			v.sharers = v.token
		}
	}
	return outcome{token: v.token}
}

// set changes the attribute. Its new version is the index of an entry: greater than the one before, whatever it is.
func (v *volumeState) set(t turn, told outcome) outcome {
	errno := v.hold(t.token)
	if errno == op.OK && t.flags&op.FlagBump != 0 && v.sharers == 0 {
		errno = op.Invalid
	}
	switch {
	case errno != op.OK:
		return outcome{errno: errno}
	case v.version != t.value:
		return outcome{errno: op.Conflict, value: v.version}
	case told.value <= v.version:
		return outcome{}
	}
	v.version = told.value
	if t.flags&op.FlagBump != 0 {
		v.token++
	}
	return outcome{token: v.token, value: v.version}
}

// sharedVolume is the volume as all who share it must see it: one thing after the other.
var sharedVolume = porcupine.Model{
	Init: func() any { return volumeState{} },
	Step: func(state, input, output any) (bool, any) {
		v, told := state.(volumeState), output.(outcome)
		must := v.step(input.(turn), told)
		return must == told, v
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// choose is the next request: about the lock, or about the volume.
func (x *sharer) choose() *request {
	rng := x.w.rng
	if x.volume == 0 {
		return &request{code: op.VolumeCreate}
	}
	if !x.locking && rng.IntN(4) == 0 {
		return x.aboutLock()
	}
	kind := rng.IntN(10)
	switch {
	case x.token != 0 && x.moved && kind < 5:
		x.moved = false
		return &request{code: op.VolumeOpen, object: x.volume, flags: op.FlagShared | op.FlagRenew, token: x.token}
	case x.token == 0 || kind == 0:
		r := &request{code: op.VolumeOpen, object: x.volume}
		if rng.IntN(2) == 0 {
			r.flags = op.FlagShared
		}
		return r
	case kind == 1:
		r := &request{code: op.AttrSet, object: x.volume, token: x.token, old: x.version}
		if x.shared {
			r.flags = op.FlagBump
		}
		return r
	case kind < 5 && x.w.mayRead():
		return &request{object: x.volume, count: 1}
	}
	x.value++
	return &request{code: op.Write, object: x.volume, token: x.token, count: 1, value: x.value<<8 | uint64(x.id+1)}
}

// aboutLock takes the lock, asks whether it is there by now, or gives it or the wait for it back.
func (x *sharer) aboutLock() *request {
	x.locking = true
	if x.handle != 0 && (x.held || x.w.chance(4)) {
		if x.held {
			x.w.holder = nil // from here on another one may have it
		}
		return &request{code: op.LockRelease, object: x.handle}
	}
	r := &request{code: op.LockTake, flags: op.FlagWrite}
	if x.handle == 0 {
		x.handle = x.seq + 1 // of this session no other has it
		if x.w.chance(3) {
			r.flags |= op.FlagTry
		}
	}
	r.object = x.handle
	return r
}

// finish takes the answer to a request.
func (x *sharer) finish(r *request, res op.Result, values []uint64) {
	switch r.code {
	case op.VolumeCreate:
		x.volume = res.Object
		x.must(r, res, op.OK)
		return
	case op.LockTake, op.LockRelease:
		x.locking = false
		x.finishLock(r, res)
		return
	case op.VolumeOpen:
		x.must(r, res, op.OK, op.Fenced)
		if res.Errno == op.OK && res.Token > x.token {
			x.token, x.shared, x.moved = res.Token, r.flags&op.FlagShared != 0, false
		}
	case op.AttrSet:
		x.must(r, res, op.OK, op.Fenced, op.Moved, op.Conflict, op.Invalid)
		if res.Errno == op.OK || res.Errno == op.Conflict {
			x.version = max(x.version, res.Value)
		}
		x.token = max(x.token, res.Token)
	case op.Write:
		x.must(r, res, op.OK, op.Fenced, op.Moved)
	}
	x.moved = x.moved || res.Errno == op.Moved
	x.w.newest = max(x.w.newest, res.Token)
	x.note(r, res, values)
}

// must holds an answer against those that are possible at all.
func (x *sharer) must(r *request, res op.Result, possible ...op.Errno) {
	for _, e := range possible {
		if res.Errno == e {
			return
		}
	}
	x.w.fail("client %d: %v failed: %w", x.id, r.code, res.Errno)
}

// refused is finish for a request that was refused and has no effect.
func (x *sharer) refused(r *request) {
	switch r.code {
	case op.LockTake, op.LockRelease:
		x.locking = false
		if r.code == op.LockRelease && x.held {
			x.w.holder = x.client // it has it still
		}
	}
}

// note puts a request and its answer into the volume's history.
func (x *sharer) note(r *request, res op.Result, values []uint64) {
	t := turn{code: r.code, flags: r.flags, token: r.token, value: r.value}
	told := outcome{errno: res.Errno, token: res.Token}
	switch r.code {
	case 0:
		told.value = values[0]
	case op.AttrSet:
		t.value, told.value = r.old, res.Value
	}
	h := &x.w.history
	h.volume = append(h.volume, porcupine.Operation{ClientId: x.id, Input: t, Call: int64(r.started), Output: told,
		Return: int64(x.w.now)})
}

// finishLock takes an answer about the lock, and holds it against who has it.
func (x *sharer) finishLock(r *request, res op.Result) {
	w := x.w
	if w.o.Flaw == GrantWaiting && res.Errno == op.Waiting {
		res = op.Result{Value: w.granted + 1}
	}
	switch {
	case r.code == op.LockRelease:
		x.must(r, res, op.OK)
		x.handle, x.held = 0, false
	case res.Errno == op.Waiting:
	case res.Errno == op.Busy && r.flags&op.FlagTry != 0:
		x.handle = 0
	case res.Errno != op.OK:
		w.fail("client %d: %v failed: %w", x.id, r.code, res.Errno)
	case x.held:
	case w.holder != nil:
		w.fail("clients %d and %d have the lock at the same time", w.holder.id, x.id)
	case res.Value <= w.granted:
		w.fail("client %d got the lock with version %d after another had it with %d", x.id, res.Value, w.granted)
	default:
		x.held, w.holder, w.granted = true, x.client, res.Value
		w.grants++
	}
}

// checkVolume reports a history of the volume that no order explains.
func (h *history) checkVolume() error {
	return decide(sharedVolume, h.volume, "the shared volume")
}

// sharers adds the clients that share. They begin with the other clients.
func (w *world) sharers() {
	for range w.o.Sharers {
		c := newClient(w, len(w.clients))
		c.sharer = &sharer{client: c}
		w.clients = append(w.clients, c)
	}
}
