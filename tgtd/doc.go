// Command tgtd is the target daemon: it offers the logical units of its targets over iSCSI, and is driven
// by tgtadm over the management socket. It is a drop-in replacement for the tgtd of the Linux SCSI target
// framework 1.0.85: same options, same files, same protocol, same texts.
//
// # From start to end
//
//  1. options.go reads the command line as getopt_long would and refuses it in tgt's words.
//  2. Unless -f or -D is given, main.go starts the daemon as a session of its own and waits until it is
//     ready. (A Go program can't fork: it runs itself again, see pss/daemon.)
//  3. daemon.go takes the lock and opens the management socket, raises limits, opens the
//     portals, and only then serves requests and tells systemd that it is ready.
//  4. It runs until `tgtadm --op delete --mode sys` has succeeded. SIGTERM and SIGPIPE are ignored as tgt
//     ignores them; SIGINT and SIGHUP end it at once.
//
// # Who owns what
//
// target.Model is the one place of truth; mgmt.Server calls it through mgmt/admin, iscsi.Server asks it
// at login. Model.Close waits for sessions and stores, mgmt.Server.Close for requests, and logger.Close
// for the lines that are still to be written; run calls them in this order and then returns.
package main
