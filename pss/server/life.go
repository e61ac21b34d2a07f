package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/daemon"
	"github.com/paxos-iscsi/paxos-iscsi/pss/replica"
)

// hangs is how long a server's own clock may stand still before it counts as one that hangs: WatchdogSec of its unit.
const hangs = 30 * time.Second

// life tells systemd's watchdog that the process lives, from its start to its end: a server that waits to be healed
// runs no replica, and is alive all the same.
type life struct {
	look   atomic.Pointer[func() (doing string, alive bool)]
	cancel context.CancelFunc
	task   sync.WaitGroup
}

func startLife(logger *slog.Logger) *life {
	l := &life{}
	l.waits("starts")
	var ctx context.Context
	ctx, l.cancel = context.WithCancel(context.Background())
	l.task.Go(func() {
		daemon.Watchdog(ctx, logger, func() (string, bool) { return (*l.look.Load())() })
	})
	return l
}

// waits: there is no replica, and nothing that could hang.
func (l *life) waits(doing string) {
	look := func() (string, bool) { return doing, true }
	l.look.Store(&look)
}

// serves: the process lives as long as the replica does. Its lock can be taken, and its clock goes on.
func (l *life) serves(r *replica.Replica) {
	look := func() (string, bool) {
		st := r.Status() // waits for the lock: a server that hangs does not come back from here
		return fmt.Sprintf("%s, entry %d of %d", st.State, st.Applied, st.Commit), r.Ticked(hangs)
	}
	l.look.Store(&look)
}

func (l *life) end() {
	l.cancel()
	l.task.Wait()
}
