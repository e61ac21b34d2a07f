package daemon

import (
	"context"
	"log/slog"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// pingsPerInterval is how often the watchdog is told within the time after which it acts: a ping may be late.
const pingsPerInterval = 3

// Watchdog tells systemd's watchdog that the daemon lives, until ctx ends. It asks alive each time: that comes back
// with a line on what the daemon is doing, and false when the daemon does not do what it is there for; or it does not
// come back, since what it looks at hangs. In either case systemd is told nothing and restarts the daemon. Where no
// watchdog is wanted (WatchdogSec) Watchdog returns at once.
func Watchdog(ctx context.Context, log *slog.Logger, alive func() (doing string, ok bool)) {
	interval, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("systemd's watchdog can't be fed", "error", err)
	}
	if err != nil || interval <= 0 {
		return
	}
	t := time.NewTicker(interval / pingsPerInterval)
	defer t.Stop()
	for ctx.Err() == nil {
		if doing, ok := alive(); ok {
			Notify(log, sd.SdNotifyWatchdog+"\nSTATUS="+doing)
		} else {
			log.Warn("the daemon does not do its work, and systemd will restart it", "doing", doing)
		}
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
}

// Notify tells systemd something, for example daemon.SdNotifyReady. Without systemd nothing happens; that systemd can't
// be told is told to the log, since there is nothing else to do about it.
func Notify(log *slog.Logger, state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		log.Warn("systemd can't be told", "state", state, "error", err)
	}
}
