// Package admin gives management requests their meaning: it finds the operation for a request's mode
// and op in a table, takes the parameter string apart as tgt does, calls the model (package target), and
// turns its errors into tgt's numbers. One line in the log says why a request was refused.
package admin

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt/detail"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/target"
)

// Model is what requests work on; *target.Model is the one there is.
type Model interface {
	DriverReady() bool
	StartDriver()
	StopDriver() error
	ShowDrivers() string

	ShowSystem() string
	Configuration() detail.Configuration
	StatSystem() string
	SetDebug(value string) error
	SetSystem([]target.Setting) error
	Stop() error

	NewTarget(tid int, name string) error
	DeleteTarget(tid int, force bool) error
	ShowTargets() string
	ShowTarget(tid int) (string, error)
	StatTarget(tid int) (string, error)
	SetTargetParam(tid int, name, value string) error
	Bind(tid int, r target.Rule) error
	Unbind(tid int, r target.Rule) error
	BindHost(tid int, host uint32) error
	UnbindHost(tid int, host uint32) error

	NewUnit(tid int, lun uint64, spec target.UnitSpec) error
	DeleteUnit(tid int, lun uint64) error
	UpdateUnit(tid int, lun uint64, params string) error
	StatUnit(tid int, lun, sid uint64) (string, error)

	AddPortals([]string) error
	DeletePortals([]string) error
	ShowPortals() string

	StatSession(sid uint64) (string, error)
	ShowConnections(tid int) (string, error)
	StatConnection(sid uint64, cid uint32) (string, error)
	CloseConnection(tid int, sid uint64, cid uint32) error

	NewAccount(user, secret string) error
	DeleteAccount(user string) error
	BindAccount(tid int, user string, outgoing bool) error
	UnbindAccount(tid int, user string, outgoing bool) error
	ShowAccounts() string
}

// operation carries out one kind of request and returns the text of its answer.
type operation func(m Model, r *mgmt.Request) (string, error)

// row is the operations of a mode and the error of a request that has none.
type row struct {
	ops   [mgmt.OpCount]operation
	other mgmt.Errno
}

// operations is the table of requests. It is never written.
var operations = [mgmt.ModeCount]row{
	mgmt.ModeSystem: {other: mgmt.ErrInvalid, ops: [mgmt.OpCount]operation{
		mgmt.OpDelete: done(func(m Model, _ *mgmt.Request) error { return m.Stop() }),
		mgmt.OpShow:   showSystem,
		mgmt.OpUpdate: done(updateSystem),
		mgmt.OpStat:   text(Model.StatSystem),
	}},
	mgmt.ModeTarget: {other: mgmt.ErrInvalid, ops: [mgmt.OpCount]operation{
		mgmt.OpNew:    done(newTarget),
		mgmt.OpDelete: done(func(m Model, r *mgmt.Request) error { return m.DeleteTarget(int(r.TID), r.Force) }),
		mgmt.OpShow:   showTarget,
		mgmt.OpBind:   done(bindTarget),
		mgmt.OpUnbind: done(unbindTarget),
		mgmt.OpUpdate: done(updateTarget),
		mgmt.OpStat:   func(m Model, r *mgmt.Request) (string, error) { return m.StatTarget(int(r.TID)) },
	}},
	mgmt.ModeUnit: {other: mgmt.ErrUnsupported, ops: [mgmt.OpCount]operation{
		mgmt.OpNew:    done(newUnit),
		mgmt.OpDelete: done(func(m Model, r *mgmt.Request) error { return m.DeleteUnit(int(r.TID), r.LUN) }),
		mgmt.OpUpdate: done(func(m Model, r *mgmt.Request) error {
			return m.UpdateUnit(int(r.TID), r.LUN, unitParams(r.Params))
		}),
		mgmt.OpStat: func(m Model, r *mgmt.Request) (string, error) { return m.StatUnit(int(r.TID), r.LUN, r.SID) },
	}},
	mgmt.ModePortal: {other: mgmt.ErrInvalid, ops: [mgmt.OpCount]operation{
		mgmt.OpNew:    done(func(m Model, r *mgmt.Request) error { return onPortals(r, "create", m.AddPortals) }),
		mgmt.OpDelete: done(func(m Model, r *mgmt.Request) error { return onPortals(r, "destroy", m.DeletePortals) }),
		mgmt.OpShow:   text(Model.ShowPortals),
	}},
	mgmt.ModeDriver: {other: mgmt.ErrInvalid, ops: [mgmt.OpCount]operation{
		mgmt.OpShow:  text(Model.ShowDrivers),
		mgmt.OpStart: done(startDriver),
		mgmt.OpStop:  done(stopDriver),
	}},
	mgmt.ModeSession: {other: mgmt.ErrInvalid, ops: [mgmt.OpCount]operation{
		mgmt.OpStat: func(m Model, r *mgmt.Request) (string, error) { return m.StatSession(r.SID) },
	}},
	mgmt.ModeConnection: {other: mgmt.ErrInvalid, ops: [mgmt.OpCount]operation{
		mgmt.OpDelete: done(func(m Model, r *mgmt.Request) error {
			return m.CloseConnection(int(r.TID), r.SID, r.CID)
		}),
		mgmt.OpShow: func(m Model, r *mgmt.Request) (string, error) { return m.ShowConnections(int(r.TID)) },
		mgmt.OpStat: func(m Model, r *mgmt.Request) (string, error) { return m.StatConnection(r.SID, r.CID) },
	}},
	mgmt.ModeAccount: {other: mgmt.ErrUnsupported, ops: [mgmt.OpCount]operation{
		mgmt.OpNew:    done(newAccount),
		mgmt.OpDelete: done(func(m Model, r *mgmt.Request) error { return onUser(r, m.DeleteAccount) }),
		mgmt.OpShow:   text(Model.ShowAccounts),
		mgmt.OpBind: done(func(m Model, r *mgmt.Request) error {
			return onUser(r, func(user string) error { return m.BindAccount(int(r.TID), user, outgoing(r)) })
		}),
		mgmt.OpUnbind: done(func(m Model, r *mgmt.Request) error {
			return onUser(r, func(user string) error { return m.UnbindAccount(int(r.TID), user, outgoing(r)) })
		}),
	}},
}

// text makes an operation of what cannot fail.
func text(show func(Model) string) operation {
	return func(m Model, _ *mgmt.Request) (string, error) { return show(m), nil }
}

// done makes an operation of what has no text.
func done(do func(Model, *mgmt.Request) error) operation {
	return func(m Model, r *mgmt.Request) (string, error) { return "", do(m, r) }
}

// Handler returns the handler of a daemon's management socket.
func Handler(m Model, log *slog.Logger) mgmt.Handler {
	return func(_ context.Context, r mgmt.Request) mgmt.Response {
		// Parameters may hold secrets and are not logged, except those of a new unit, which hold none.
		log.Debug("management request", "mode", r.Mode, "op", r.Op, "tid", r.TID, "lun", int64(r.LUN))
		if r.Mode == mgmt.ModeUnit && r.Op == mgmt.OpNew {
			log.Info(fmt.Sprintf("sz:%d params:%s", len(r.Params)+1, r.Params), target.OriginKey, "device_mgmt")
		}
		answer, err := execute(m, &r)
		if err != nil {
			target.LogRefusal(log, fmt.Sprintf("%v %v", r.Op, r.Mode), err)
			return mgmt.Response{Err: mgmt.ErrnoOf(err)}
		}
		return mgmt.Response{Text: answer}
	}
}

// execute finds the operation and does it: the driver is looked at first, then the mode, then the op.
func execute(m Model, r *mgmt.Request) (string, error) {
	if err := checkDriver(m, r); err != nil {
		return "", err
	}
	if int(r.Mode) >= len(operations) {
		if r.Op == mgmt.OpShow {
			return "", fmt.Errorf("%v: %w", r.Mode, mgmt.ErrNoTarget)
		}
		return "", fmt.Errorf("%v: %w", r.Mode, mgmt.ErrInvalid)
	}
	row := &operations[r.Mode]
	if int(r.Op) >= len(row.ops) || row.ops[r.Op] == nil {
		return "", row.other
	}
	return row.ops[r.Op](m, r)
}

// The drivers. iser is known and never usable: this daemon has no RDMA.
const (
	driverISCSI = "iscsi"
	driverISER  = "iser"
)

// checkDriver looks for the driver that a request names. None means the first, whatever its state.
func checkDriver(m Model, r *mgmt.Request) error {
	switch r.Driver {
	case "":
		return nil
	case driverISCSI:
		if r.Mode == mgmt.ModeDriver || m.DriverReady() {
			return nil
		}
	case driverISER:
		if r.Mode == mgmt.ModeDriver {
			return nil
		}
	default:
		return target.Worded(fmt.Errorf("driver %.63q: %w", r.Driver, mgmt.ErrNoDriver),
			"mtask_execute", fmt.Sprintf("can't find the driver %.63s", r.Driver))
	}
	return fmt.Errorf("driver %s is not ready: %w", r.Driver, mgmt.ErrNoDriver)
}

func startDriver(m Model, r *mgmt.Request) error {
	if r.Driver == driverISER {
		return fmt.Errorf("driver %s: no RDMA: %w", r.Driver, mgmt.ErrUnknown)
	}
	m.StartDriver()
	return nil
}

func stopDriver(m Model, r *mgmt.Request) error {
	if r.Driver == driverISER {
		return nil // it isn't ready, so there is nothing to stop
	}
	return m.StopDriver()
}

func outgoing(r *mgmt.Request) bool { return r.Direction != mgmt.Incoming }

// showSystem answers as tgt does or, where that is asked for, tells all there is.
func showSystem(m Model, r *mgmt.Request) (string, error) {
	if r.Params == detail.Ask {
		return detail.Encode(m.Configuration())
	}
	return m.ShowSystem(), nil
}

func showTarget(m Model, r *mgmt.Request) (string, error) {
	if r.TID < 0 {
		return m.ShowTargets(), nil
	}
	return m.ShowTarget(int(r.TID))
}

func newTarget(m Model, r *mgmt.Request) error {
	name, ok := lastValue(r.Params, "targetname")
	if !ok {
		return fmt.Errorf("target %d without a name: %w", r.TID, mgmt.ErrInvalid)
	}
	return m.NewTarget(int(r.TID), name)
}

func updateTarget(m Model, r *mgmt.Request) error {
	name, value, ok := nameValue(r.Params)
	if !ok {
		return fmt.Errorf("target %d: a parameter without a value: %w", r.TID, mgmt.ErrUnsupported)
	}
	return m.SetTargetParam(int(r.TID), name, value)
}

// Without parameters a host number is bound, with them an address, a name, or both.
func bindTarget(m Model, r *mgmt.Request) error {
	if !r.HasParams {
		return m.BindHost(int(r.TID), r.Host)
	}
	return m.Bind(int(r.TID), rule(r.Params))
}

func unbindTarget(m Model, r *mgmt.Request) error {
	if !r.HasParams {
		return m.UnbindHost(int(r.TID), r.Host)
	}
	return m.Unbind(int(r.TID), rule(r.Params))
}

func newUnit(m Model, r *mgmt.Request) error {
	spec := unitSpec(r.Params)
	spec.Device = r.Device
	return m.NewUnit(int(r.TID), r.LUN, spec)
}

func onPortals(r *mgmt.Request, verb string, do func([]string) error) error {
	list, ok := portals(r.Params)
	if !ok {
		return fmt.Errorf("no portal=ADDRESS among the parameters: %w", mgmt.ErrInvalid)
	}
	if err := do(list); err != nil {
		return target.Worded(err, "tgt_portal_"+verb, fmt.Sprintf("failed to %s portal %s", verb, strings.TrimPrefix(r.Params, "portalOps ")))
	}
	return nil
}

func newAccount(m Model, r *mgmt.Request) error {
	user, secret, ok := account(r.Params)
	if !ok {
		return fmt.Errorf("no user=NAME,password=SECRET among the parameters: %w", mgmt.ErrInvalid)
	}
	return m.NewAccount(user, secret)
}

func onUser(r *mgmt.Request, do func(user string) error) error {
	user, ok := rest(r.Params, "user=")
	if !ok {
		return fmt.Errorf("no user=NAME among the parameters: %w", mgmt.ErrInvalid)
	}
	return do(user)
}

// updateSystem sets debug, if that is what the string begins with, else the settings of the driver.
func updateSystem(m Model, r *mgmt.Request) error {
	name, value, ok := nameValue(r.Params)
	if ok && name == "debug" {
		return m.SetDebug(value)
	}
	settings, ok := systemSettings(r.Params)
	if !ok {
		return fmt.Errorf("a system parameter without a value: %w", mgmt.ErrInvalid)
	}
	return m.SetSystem(settings)
}
