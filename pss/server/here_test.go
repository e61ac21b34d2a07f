package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
)

func TestLocal(t *testing.T) {
	conf, err := cell.Parse("server.conf", strings.NewReader("0 127.0.0.1 /a\n1 198.51.100.1 /b\n6 localhost /c\n2 198.51.100.2 /d\n3 198.51.100.3 /d\n"))
	check(t, err)
	var out, errs bytes.Buffer
	check(t, printLocal(conf, &out, &errs))
	if out.String() != "0 /a/PFS-0\n6 /c/PFS-6\n" || errs.Len() > 0 {
		t.Errorf("%q, %q", &out, &errs)
	}
	out.Reset()
	check(t, printRoot(conf, "2", &out))
	if out.String() != "/d/PFS-2\n" {
		t.Errorf("%q", &out)
	}
	for _, id := range []string{"7", "8", "x"} {
		if err := printRoot(conf, id, &out); err == nil {
			t.Errorf("a root of server %s", id)
		}
	}
}

// TestBeside: while a server is up its process number is in the file and its metrics are shown.
func TestBeside(t *testing.T) {
	s := newSite(t)
	name, err := binary()
	check(t, err)
	pidFile := filepath.Join(t.TempDir(), "pid")
	port := strconv.Itoa(s.tcp + 1000)
	cmd := exec.Command(name, "--foreground", "--conf", s.conf, "--pid-file", pidFile, "--metrics", "127.0.0.1:"+port, "0", s.root)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	check(t, cmd.Start())
	eventually(t, "the number is there", func() bool {
		b, err := os.ReadFile(pidFile)
		return err == nil && strings.TrimSpace(string(b)) == strconv.Itoa(cmd.Process.Pid)
	})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var body []byte
	eventually(t, "metrics are shown", func() bool {
		r, err := client.Get("http://127.0.0.1:" + port + "/metrics")
		if err != nil {
			return false
		}
		defer r.Body.Close()
		body, err = io.ReadAll(r.Body)
		return err == nil
	})
	if !strings.Contains(string(body), `pss_is_master{server="0"} 0`) {
		t.Errorf("%s", body)
	}
	check(t, cmd.Process.Signal(os.Interrupt))
	check(t, cmd.Wait())
	if _, err := os.Stat(pidFile); !os.IsNotExist(err) {
		t.Errorf("the number stays: %v", err)
	}
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after %v: %s", patience, what)
		}
	}
}
