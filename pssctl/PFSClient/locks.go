package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

// lockPrefix stands before the name of a file in the name of the lock that guards it.
const lockPrefix = "LCK"

// maxFiles is how many files a loop writes or reads.
const maxFiles = 9999

// lock takes a lock and holds it.
func lock(mode pss.LockMode, timed bool) func(*client) error {
	return func(k *client) error {
		hold := defaultHold
		if k.hold >= 0 {
			hold = k.hold
		}
		if timed {
			n, err := strconv.ParseUint(k.args[1], 10, 31)
			if err != nil {
				return console.Usagef("%q is no number of seconds", k.args[1])
			}
			hold = time.Duration(n) * time.Second
		}
		letter := "R"
		if mode == pss.WriteLock {
			letter = "W"
		}
		err := k.do(k.Sync)
		k.printf("SessionOpen EXT: Ret[%d].\n", ret(err))
		if err != nil {
			return err
		}
		l, err := k.Lock(k.ctx, k.args[0], mode)
		k.printf("PFSLock%s EXT: Ret[%d].\n%s.\n", letter, ret(err), k.master())
		if err != nil {
			return err
		}
		k.printf("sleep %d\n", int(hold/time.Second))
		k.sleep(hold)
		k.printf("%s.\n", k.master())
		err = l.Unlock(context.WithoutCancel(k.ctx)) // also after an interrupt
		k.printf("PFSUnlock EXT: Ret[%d].\n", ret(err))
		closed := k.Close()
		k.printf("SessionClose EXT: Ret[%d].\n", ret(closed))
		return errors.Join(err, closed)
	}
}

// under runs write or read with the lock of the remote file held.
func under(mode pss.LockMode, what func(*client) error) func(*client) error {
	return func(k *client) error {
		name := k.args[0]
		if mode == pss.WriteLock {
			name = k.remote()
		}
		return k.locked(lockName(name), mode, func() error { return what(k) })
	}
}

// lockName is the name of the lock of a file, the same however its path is written.
func lockName(remote string) string { return lockPrefix + path.Join("/", remote) }

// loop writes a local file, or reads one of the cell, many times.
func loop(writes, oneSession bool) func(*client) error {
	return func(k *client) error {
		n, err := strconv.ParseUint(k.args[2], 10, 31)
		if err != nil || n == 0 || n > maxFiles {
			return console.Usagef("%q is no number of files from 1 to %d", k.args[2], maxFiles)
		}
		for i := range n {
			name := fmt.Sprintf("%s-%04d", k.args[1], i+1)
			if i > 0 && !oneSession {
				k.Close()
				if k.Cell, err = k.open(); err != nil {
					return err
				}
			}
			if writes {
				err = k.locked(lockName(name), pss.WriteLock, func() error {
					_, err := k.copyIn(k.args[0], name, false)
					return err
				})
			} else {
				err = k.locked(lockName(k.args[0]), pss.ReadLock, func() error { return k.copyOut(k.args[0], name) })
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}
