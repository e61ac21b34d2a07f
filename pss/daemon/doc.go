// Package daemon is what every daemon of the house needs around its work: a way to the background, and a way
// to the log. It knows nothing of what the daemon serves.
//
// # To the background
//
// A Go program can't fork, so its background half is the same program started again with the same arguments,
// which is also what ps shows. Start does that in the foreground half and waits for news: the other half finds
// its end of a pipe with TakeNews, writes its complaints there until it serves, and then says so with
// News.Ready. What Start returns is the foreground half's exit status and text.
//
// # To the log
//
// A daemon's slog.Handler makes lines, behind a Limit that lets only so many of each kind through; a Sink takes
// them. Syslog is the one for the background: a bounded queue that is never waited for, since a write to a stalled
// syslogd takes 40 ms. Stderr, behind a Queue of the same kind, is the one for the foreground, and what Syslog falls
// back on.
//
// # To systemd
//
// Notify tells systemd something, Watchdog that the daemon lives. Both are nothing where it does not ask for them.
package daemon
