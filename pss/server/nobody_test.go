package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/ask"
	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

// nobody is a user without any right. Who is not root runs the server as himself.
const nobody = 65534

// TestNobody runs a server with a key as nobody: it needs its folder and its key, and no right beyond.
func TestNobody(t *testing.T) {
	s := newSite(t)
	name, err := binary()
	check(t, err)
	dir, err := os.MkdirTemp("", "nobody") // t.TempDir is for one's own eyes
	check(t, err)
	defer os.RemoveAll(dir)
	conf, key, log := filepath.Join(dir, "server.conf"), filepath.Join(dir, auth.FileName), filepath.Join(dir, "log")
	text, err := os.ReadFile(s.conf)
	check(t, err)
	check(t, os.WriteFile(conf, []byte(strings.ReplaceAll(string(text), filepath.Dir(s.conf), dir)), 0o644))
	_, err = auth.Generate(key)
	check(t, err)
	out, err := os.Create(log)
	check(t, err)
	defer out.Close()
	cmd := s.command("--foreground", "--conf", conf, "0")
	cmd.Stderr = out
	if os.Geteuid() == 0 {
		check(t, os.Chmod(filepath.Dir(name), 0o755))
		for _, file := range []string{dir, key} {
			check(t, os.Chown(file, nobody, nobody))
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	check(t, cmd.Start())
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()

	loaded, err := cell.Load(conf)
	check(t, err)
	var status struct {
		ID   cell.ID     `json:"id"`
		Auth auth.Status `json:"auth"`
	}
	for end := time.Now().Add(patience); ; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		b, err := ask.Status(ctx, loaded, 0)
		cancel()
		if err == nil {
			check(t, json.Unmarshal(b, &status))
			break
		}
		if time.Now().After(end) {
			said, _ := os.ReadFile(log)
			t.Fatalf("%v\n%s", err, said)
		}
	}
	if status.ID != 0 || status.Auth.Mode != auth.ModeKey {
		t.Errorf("%+v", status)
	}
	proc, err := os.Stat("/proc/" + strconv.Itoa(cmd.Process.Pid))
	check(t, err)
	if st, ok := proc.Sys().(*syscall.Stat_t); !ok || st.Uid == 0 {
		t.Errorf("it runs as %+v", proc.Sys())
	}
}
