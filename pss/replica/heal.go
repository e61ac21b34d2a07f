package replica

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/agreement"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/log"
	"github.com/paxos-iscsi/paxos-iscsi/pss/store"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// Healing. A server whose log or state is damaged, differs from the others', or lacks what the server acknowledged,
// must neither vote nor acknowledge with it. It gives its place up (GiveUp) and comes back as a new member, which
// the others bring up to date. Why that loses nothing that was acknowledged:
//
//   - the server that ended says nothing more under its old number, so whatever it had promised is not broken;
//   - everything acknowledged is on a majority of the voters, the old number among them or not. Before the place is
//     given up the master has said that a majority of the voters is there without this server, and that none of them
//     lags behind the log. Taking the old number out needs agreement of a majority of the members before, which is of
//     those others alone, and the master that asks for it has every agreed entry;
//   - if more servers than a minority are damaged there is no such majority, so none of them gives up anything: they
//     wait, and what is left of them is there for an operator to look at.
//
// A root that is damaged again soon after has a cause that healing does not end, such as a failing disk: it waits
// for HealEvery, so that it does not load the others with copying.

const (
	// DefaultHealEvery is how long after a root was given up by its own server it may be given up again.
	DefaultHealEvery = 10 * time.Minute
	// healAsk is the time between two questions whether the cell can spare this server.
	healAsk = time.Second
	// statusTimeout is how long another server may take to say how it is.
	statusTimeout = 5 * time.Second
)

// Heals says whether a server that ended with err, from Open, Close or Err, can come back by giving its place up: its
// state can't be relied upon (HealError), its disk lacks what it acknowledged (LostLog), or its root does not say any
// more whose it is (ErrIdentityDamaged).
func Heals(err error) bool {
	var heal *HealError
	return errors.As(err, &heal) || LostLog(err) || errors.Is(err, ErrIdentityDamaged)
}

// LostLog says whether a server ended because its disk lacks what it acknowledged.
func LostLog(err error) bool { return errors.Is(err, agreement.ErrLostLog) }

// Heal gives the place of a server up that ended with because (Heals), so that Open makes it a new member. The
// checkpoint is kept as what only the difference is fetched to, unless it can't be opened or differs from the
// others'. Heal waits until the cell can do without what this root has promised, and until HealEvery has passed since
// the last time. It returns the context's error when that ends before; the root is as it was then.
func Heal(ctx context.Context, o Options, because error) error {
	o = o.withDefaults()
	if err := awaitTurn(ctx, &o); err != nil {
		return err
	}
	said := ""
	for {
		err := spareable(ctx, o.Cell, o.ID)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if said != err.Error() {
			said = err.Error()
			o.Logger.Warn("the server's state can't be used, and the cell can't spare it: it waits", "state", because, "because", err)
		}
		if !sleep(ctx, healAsk) {
			return ctx.Err()
		}
	}
	o.Logger.Warn("the server gives its place in the cell up and joins anew", "because", because)
	return giveUp(o.Root, o.ID, wire.CellID{}, rand.Reader, errors.Is(because, ErrDiverged), time.Now())
}

// awaitTurn waits until HealEvery has passed since the root was given up last. A clock that was set back meanwhile
// makes it wait no longer than that.
func awaitTurn(ctx context.Context, o *Options) error {
	dir, err := disk.Dir(o.Root)
	if err != nil {
		return err
	}
	id, err := ReadIdentity(dir)
	if err != nil || id.Healed == 0 {
		return nil // Open has said, or will say, what is wrong with it
	}
	wait := min(time.Until(time.Unix(id.Healed, 0).Add(o.HealEvery)), o.HealEvery)
	if wait <= 0 {
		return nil
	}
	o.Logger.Error("the root was given up a short while ago and is damaged again: look after its disk",
		"root", o.Root, "next", wait.Round(time.Second).String())
	if !sleep(ctx, wait) {
		return ctx.Err()
	}
	return nil
}

// sleep waits for d. It reports false when ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// StatusOf asks a server how it is. It takes statusTimeout at the most.
func StatusOf(ctx context.Context, conf *cell.Config, id cell.ID) (admin.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var st admin.Status
	err := admin.CallServer(ctx, conf, id, admin.MethodStatus, nil, &st)
	return st, err
}

// spareable says why the cell can't spare a server, or nothing if its master says that it can.
func spareable(ctx context.Context, conf *cell.Config, id cell.ID) error {
	var first error
	for _, other := range conf.Servers {
		if other.ID == id {
			continue
		}
		st, err := StatusOf(ctx, conf, other.ID)
		if err != nil {
			first = cmp.Or(first, error(fmt.Errorf("server %d can't be asked: %w", other.ID, err)))
			continue
		}
		if st.IsMaster {
			return CanSpare(&st, id)
		}
		if st.Master == nil || *st.Master == id || *st.Master == other.ID {
			continue
		}
		if st, err = StatusOf(ctx, conf, *st.Master); err == nil && st.IsMaster {
			return CanSpare(&st, id)
		}
	}
	return cmp.Or(first, errors.New("the cell has no master"))
}

// CanSpare says why a cell, whose master's status is given, needs a server's vote, or nothing. It can be spared
// while the others that vote, are there and have what the log holds are a majority with it and without it.
func CanSpare(master *admin.Status, id cell.ID) error {
	if !master.IsMaster || master.ID == id {
		return errors.New("the cell has no master")
	}
	voters, others, up := 0, 0, 0
	for _, m := range master.Members {
		if !m.Voter {
			continue
		}
		if voters++; m.ID == id {
			continue
		}
		if others++; m.Active && !m.Lagging {
			up++
		}
	}
	if need := max(voters, others)/2 + 1; up < need {
		return fmt.Errorf("of the other %d core servers that vote %d are up, and %d are needed", others, up, need)
	}
	return nil
}

// finishCheckpoint completes a checkpoint that was cut short, which needs the log, and shows that the store can be
// opened. A log that is damaged is none.
func finishCheckpoint(dir disk.FS) error {
	superseded, err := store.Checkpointed(dir, ".")
	if err != nil {
		return err
	}
	l, err := log.Open(dir, "log", log.Options{Superseded: superseded})
	var damage *log.DamageError
	if errors.As(err, &damage) {
		st, _, err := store.Open(dir, store.Options{MaxOverlayBytes: DefaultOverlayBytes})
		if err != nil {
			return err
		}
		return st.Close()
	}
	if err != nil {
		return err
	}
	defer l.Close() // only read from
	st, _, err := OpenStore(dir, l, DefaultOverlayBytes)
	if err != nil {
		return err
	}
	return st.Close()
}
