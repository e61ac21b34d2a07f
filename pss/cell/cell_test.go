package cell

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
)

func TestIDs(t *testing.T) {
	for id := range ID(MaxServers) {
		if id.Core() != (id <= 4) {
			t.Errorf("id %d: core is %v", id, id.Core())
		}
		if back, ok := FromRaft(id.Raft()); id.Raft() == 0 || !ok || back != id {
			t.Errorf("id %d: %d and back is %d, %v", id, id.Raft(), back, ok)
		}
		for _, n := range []uint64{0, 1, 255, 1 << 40} {
			m := id.Member(n)
			if back, ok := FromRaft(m); !ok || back != id || Incarnation(m) != n || n > 0 && m <= id.Member(n-1) {
				t.Errorf("incarnation %d of %d is %d, and back %d, %v", n, id, m, back, ok)
			}
		}
		if got, err := ParseID(fmt.Sprint(id)); err != nil || got != id {
			t.Errorf("ParseID(%d) = %d, %v", id, got, err)
		}
	}
	for _, n := range []uint64{0, 9, 256, 7<<8 | 9, 1 << 63, ^uint64(0)} {
		if id, ok := FromRaft(n); ok {
			t.Errorf("FromRaft(%d) = %d", n, id)
		}
	}
	for _, s := range []string{"", "8", "9", "-1", "+1", "00", " 1", "a", "1.", "256"} {
		if id, err := ParseID(s); err == nil {
			t.Errorf("ParseID(%q) = %d", s, id)
		}
	}
}

// The example of the manual is what gets installed.
func TestInstalledExample(t *testing.T) {
	c, err := Load("../../etc/pss/server.conf")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Servers) != 8 || len(c.Core()) != 5 || len(c.Replicas()) != 3 {
		t.Fatalf("%d servers, %d core, %d replicas", len(c.Servers), len(c.Core()), len(c.Replicas()))
	}
	for i, s := range c.Servers {
		want := Server{ID(i), fmt.Sprintf("paxos%02d", i), 4000 + i, 4010 + i, "/pss"}
		if s != want {
			t.Errorf("server %d: %+v", i, s)
		}
		if got, ok := c.Server(ID(i)); !ok || got != want {
			t.Errorf("Server(%d) = %+v, %v", i, got, ok)
		}
		if s.Root() != fmt.Sprintf("/pss/PFS-%d", i) {
			t.Errorf("root %s", s.Root())
		}
	}
}

func TestLoadMissingFile(t *testing.T) {
	if _, err := Load(t.TempDir() + "/server.conf"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestFile(t *testing.T) {
	t.Setenv(EnvFile, "")
	if got := File(""); got != "/etc/pss/server.conf" {
		t.Errorf("nothing said: %s", got)
	}
	t.Setenv(EnvFile, "/env")
	if got := File(""); got != "/env" {
		t.Errorf("environment: %s", got)
	}
	if got := File("/option"); got != "/option" {
		t.Errorf("option: %s", got)
	}
}

func TestLookups(t *testing.T) {
	c, err := Parse("f", strings.NewReader("7 g /d\n2 c /b\n5 f /c/\n1 b /x/../b\n0 [2001:db8::1] 60000 60001 /a\n"))
	if err != nil {
		t.Fatal(err)
	}
	var ids []ID
	for _, s := range c.Servers {
		ids = append(ids, s.ID)
	}
	if !slices.Equal(ids, []ID{0, 1, 2, 5, 7}) || len(c.Core()) != 3 || len(c.Replicas()) != 2 {
		t.Fatalf("ids %v, %d core, %d replicas", ids, len(c.Core()), len(c.Replicas()))
	}
	if s, ok := c.Server(3); ok {
		t.Errorf("Server(3) = %+v", s)
	}
	s, _ := c.Server(0)
	if s.UDPAddr() != "[2001:db8::1]:60000" || s.TCPAddr() != "[2001:db8::1]:60001" || s.Host != "2001:db8::1" {
		t.Errorf("%+v: %s %s", s, s.UDPAddr(), s.TCPAddr())
	}
	if s, _ := c.Server(5); s.Path != "/c" || s.Root() != "/c/PFS-5" || s.UDPAddr() != "f:4005" || s.TCPAddr() != "f:4015" {
		t.Errorf("%+v: %s", s, s.Root())
	}
	if s, _ := c.Server(1); s.Path != "/b" {
		t.Errorf("%+v", s)
	}
}

// TestLoadKey: the key comes with the configuration that it lies beside.
func TestLoadKey(t *testing.T) {
	t.Setenv(auth.EnvFile, "")
	conf := filepath.Join(t.TempDir(), "server.conf")
	if err := os.WriteFile(conf, []byte("0 a /d\n1 b /d\n2 c /d\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if c, err := Load(conf); err != nil || c.Auth != nil {
		t.Fatalf("without a key: %v, %v", c, err)
	}
	key := filepath.Join(filepath.Dir(conf), auth.FileName)
	k, err := auth.Generate(key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := Load(conf); err != nil || !slices.Equal(c.Auth.Status().Keys, []auth.KeyID{k.ID}) {
		t.Fatalf("with a key: %v, %v", c, err)
	}
	if err := os.WriteFile(key, []byte("pss-cell-key 1\nkey\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(conf); err == nil || !strings.HasPrefix(err.Error(), key+":2: ") {
		t.Fatalf("with a bad one: %v", err)
	}
}
