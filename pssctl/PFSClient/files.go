package main

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

// st_mode of what names stand for. A volume shows as a folder.
const (
	modeDir   = 0x41ed
	modeFile  = 0x81a4
	dirBytes  = 4096 // what the original shows for folders
	readBatch = 20   // names that the original asks for at once
)

func session(k *client) error {
	k.printf("SessionOpen ENT: Master is 0.\n")
	err := k.do(k.Sync)
	k.printf("SessionOpen:Ret[%d] errno[%d]\n", ret(err), errno(err))
	if err != nil {
		return err
	}
	k.printf("%s.\n", k.master())
	err = k.Close()
	k.printf("SessionClose:Ret[%d] errno[%d]\n", ret(err), errno(err))
	return err
}

func mkdir(k *client) error {
	err := k.do(func(ctx context.Context) error { return k.Mkdir(ctx, k.args[0]) })
	if err != nil {
		k.printf("Mkdir:Ret[-1] errno[%d] dir[%s]\n", errno(err), k.args[0])
	}
	return err
}

func rmdir(k *client) error {
	err := k.do(func(ctx context.Context) error { return k.Rmdir(ctx, k.args[0]) })
	if err != nil {
		k.printf("Rmdir:Ret[-1] errno[%d] dir[%s]\n", errno(err), k.args[0])
	}
	return err
}

func readdir(k *client) error {
	var nodes []op.Node
	err := k.do(func(ctx context.Context) (err error) {
		nodes, err = k.ReadDir(ctx, k.args[0])
		return err
	})
	for i, n := range nodes {
		k.printf("%d [%s]\n", i, n.Name)
	}
	if err != nil {
		k.printf("ReadDir:Ret[-1] errno[%d] Number[%d]\n", errno(err), readBatch)
	}
	return err
}

// printStat prints the stat line of a name.
func (k *client) printStat(name string) (op.Node, error) {
	var n op.Node
	err := k.do(func(ctx context.Context) (err error) {
		n, err = k.Stat(ctx, name)
		return err
	})
	if err != nil {
		k.printf("PFSStat:Ret=-1 errno=%d\n", errno(err))
		return n, err
	}
	mode, size := modeDir, n.Bytes
	switch n.Kind {
	case op.KindFile:
		mode = modeFile
	case op.KindDir:
		size = dirBytes
	}
	k.printf("PFSStat:[%s] type=0x%x size=%d mtime=%d\n", name, mode, size, time.Duration(n.Modified)/time.Second)
	return n, nil
}

func stat(k *client) error {
	k.printf("SessionOpen:Ret[0]\n")
	_, err := k.printStat(k.args[0])
	return err
}

// remote is the name in the cell of a local file: the second argument, or the file's own name.
func (k *client) remote() string {
	if r := k.argument(1); r != "" {
		return r
	}
	return filepath.Base(k.args[0])
}

func write(k *client) error {
	_, err := k.copyIn(k.args[0], k.remote(), false)
	return err
}

// copyIn copies a local file in and prints what became of it. The folder is made if it is not there.
func (k *client) copyIn(local, remote string, ephemeral bool) (written int64, err error) {
	f, err := os.Open(local)
	if err == nil {
		defer f.Close()
		var info os.FileInfo
		if info, err = f.Stat(); err == nil {
			k.printf("PID[%d] File size=%d\n", os.Getpid(), info.Size())
		}
	}
	if err == nil {
		err = k.do(func(ctx context.Context) error { return k.prepare(ctx, remote, ephemeral) })
	}
	if err == nil {
		written, err = k.WriteFile(k.ctx, remote, f)
	}
	k.printf("PFSWrite:Ret[%d] errno[%d] W_File[%s] %s\n", ret(err), errno(err), remote, k.master())
	return written, err
}

// prepare makes the folder of a file, and the file if it is to end with the session.
func (k *client) prepare(ctx context.Context, remote string, ephemeral bool) error {
	if dir := path.Dir(strings.TrimPrefix(remote, "/")); dir != "." {
		if err := k.Mkdir(ctx, dir); err != nil {
			return err
		}
	}
	if !ephemeral {
		return k.Sync(ctx)
	}
	_, err := k.CreateEphemeral(ctx, remote)
	return err
}

func read(k *client) error {
	local := k.argument(1)
	if local == "" {
		local = path.Base(k.args[0])
	}
	return k.copyOut(k.args[0], local)
}

// copyOut copies a file out and prints what became of it. The local file is replaced when all is there, and
// nothing is left behind otherwise.
func (k *client) copyOut(remote, local string) (err error) {
	var size int64
	defer func() {
		k.printf("PFSRead:Ret[%d] errno[%d] %s. File-size=%d\n", ret(err), errno(err), k.master(), size)
	}()
	if err := k.do(func(ctx context.Context) error { _, err := k.Stat(ctx, remote); return err }); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(local), "."+filepath.Base(local)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone when all went well
	n, err := k.ReadFile(k.ctx, remote, f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), local); err == nil {
		size = n
	}
	return err
}

func remove(k *client) error {
	err := k.do(func(ctx context.Context) error { return k.Delete(ctx, k.args[0]) })
	if err != nil {
		k.printf("PFSDelete:Ret[-1] File[%s]\n", k.args[0])
	}
	return err
}

func truncate(k *client) error {
	size, err := strconv.ParseInt(k.args[1], 10, 64)
	if err != nil || size < 0 {
		return console.Usagef("%q is no size in bytes", k.args[1])
	}
	if _, err := k.printStat(k.args[0]); err != nil {
		return err
	}
	if err := k.do(func(ctx context.Context) error { return k.Truncate(ctx, k.args[0], size) }); err != nil {
		k.printf("PFSTruncate:Ret=-1 errno=%d\n", errno(err))
		return err
	}
	_, err = k.printStat(k.args[0])
	return err
}

// ephemeral writes a file that ends with the session, and holds it.
func ephemeral(hold time.Duration) func(*client) error {
	return func(k *client) error {
		remote := path.Join("/", k.argument(1), strconv.Itoa(os.Getpid()))
		_, err := k.copyIn(k.args[0], remote, true)
		if err != nil {
			return err
		}
		if k.hold >= 0 {
			hold = k.hold
		}
		k.sleep(hold)
		return nil
	}
}

// abort opens a session and leaves it as a client does that is killed: the cell ends it when its lease is over, and
// with it what it holds.
func abort(k *client) error {
	if err := k.do(k.Sync); err != nil {
		return err
	}
	k.printf("SessionOpen:Ret[0] %s.\n", k.master())
	hold := defaultAborted
	if k.hold >= 0 {
		hold = k.hold
	}
	k.sleep(hold)
	k.Abort()
	return nil
}

// locked runs what with the lock of a name held.
func (k *client) locked(name string, mode pss.LockMode, what func() error) error {
	if err := k.do(k.Sync); err != nil {
		return err
	}
	l, err := k.Lock(k.ctx, name, mode)
	if err != nil {
		return err
	}
	err = what()
	return errors.Join(err, k.do(l.Unlock))
}
