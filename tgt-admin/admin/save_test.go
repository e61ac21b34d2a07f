package admin

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/paxos-iscsi/paxos-iscsi/tgt-admin/conf"
	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/command"
	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/modeltest"
	"github.com/paxos-iscsi/paxos-iscsi/tgtadm/running"
)

// theDay is the date of what tests save.
func theDay() time.Time { return time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC) }

// modelEnv is an environment with a daemon of the test behind it.
func modelEnv(d *modeltest.Daemon, out *bytes.Buffer) Env {
	env := System()
	env.Stdout, env.Stderr = out, out
	env.UID = func() int { return 0 }
	env.LookupEnv = func(string) (string, bool) { return "", false }
	env.Users = func(string) (bool, error) { return false, nil }
	env.Now = theDay
	env.Call = d.CallAt
	return env
}

// tgtadm runs a command line, of words, on a daemon; a failure is left to show in what comes of it.
func tgtadm(t testing.TB, d *modeltest.Daemon, words ...string) int {
	var out bytes.Buffer
	return command.Run(t.Context(), append([]string{"tgtadm"}, words...), modelEnv(d, &out).Env)
}

func tgtAdmin(t testing.TB, d *modeltest.Daemon, words ...string) (string, int) {
	var out bytes.Buffer
	status := Run(t.Context(), append([]string{Name}, words...), modelEnv(d, &out))
	return out.String(), status
}

// read is what a daemon has, without what two daemons cannot have in common.
func read(t testing.TB, d *modeltest.Daemon) *running.Config {
	t.Helper()
	c, err := running.Read(t.Context(), d.Call)
	if err != nil {
		t.Fatal(err)
	}
	c.Portals = nil
	slices.SortFunc(c.Accounts, func(a, b running.Account) int { return strings.Compare(a.User, b.User) })
	slices.Sort(c.Discovery.Incoming)
	for _, tg := range c.Targets {
		for _, u := range tg.Units {
			if u.Made != nil && u.LUN == 0 {
				u.Made = nil
			}
		}
	}
	return c
}

// TestSaveProperty: whatever a daemon was told, what --save writes makes an empty daemon the same.
func TestSaveProperty(t *testing.T) {
	dir := t.TempDir()
	disks := []string{"disk", "disk with blanks", "disk3"}
	for i, name := range disks {
		disks[i] = filepath.Join(dir, name)
		if err := os.WriteFile(disks[i], make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "targets.conf")
	rapid.Check(t, func(rt *rapid.T) {
		one, two := modeltest.Start(t), modeltest.Start(t)
		// both cannot listen at one place
		tgtadm(t, one, "--op", "delete", "--mode", "portal", "--params", "portal="+one.Portal)
		number := func(label string, n int) string { return fmt.Sprint(rapid.IntRange(1, n).Draw(rt, label)) }
		pick := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(rt, label) }
		tgtadm(t, one, "--op", "new", "--mode", "target", "--tid", "1", "-T", "iqn.x:1")
		for range rapid.IntRange(0, 40).Draw(rt, "steps") {
			tid, user := number("tid", 4), pick("user", "joe", "ann", "x#y", `q"\`)
			switch rapid.IntRange(0, 8).Draw(rt, "step") {
			case 0:
				tgtadm(t, one, "--op", "new", "--mode", "target", "--tid", tid, "-T", "iqn.x:"+number("name", 5))
			case 1:
				tgtadm(t, one, "--op", "new", "--mode", "account", "--user", user, "--password",
					pick("secret", "secret$12345", `"quoted"`, `back\slash\`, "#hash", "/x/"))
			case 2:
				words := []string{"--op", "bind", "--mode", "account", "--user", user}
				if rapid.Bool().Draw(rt, "to a target") {
					words = append(words, "--tid", tid)
				}
				if rapid.Bool().Draw(rt, "outgoing") {
					words = append(words, "--outgoing")
				}
				tgtadm(t, one, words...)
			case 3:
				tgtadm(t, one, "--op", "bind", "--mode", "target", "--tid", tid, pick("kind", "-I", "-Q"),
					pick("rule", "ALL", "10.0.0.0/8", "iqn.q:i", "[::1]"))
			case 4:
				tgtadm(t, one, "--op", "new", "--mode", "lu", "--tid", tid, "--lun", number("lun", 3),
					"-b", rapid.SampledFrom(disks).Draw(rt, "path"), "-E", pick("type", "rdwr", "null"),
					"-y", pick("block", "512", "4096", "junk"))
			case 5:
				tgtadm(t, one, "--op", "new", "--mode", "lu", "--tid", tid, "--lun", number("lun", 3))
			case 6:
				tgtadm(t, one, "--op", "update", "--mode", "lu", "--tid", tid, "--lun", number("lun", 3), "--params",
					pick("params", "vendor_id=A B,product_id=#1", "removable=1", "readonly=1", "online=0", "online=1",
						"path="+disks[0], "scsi_sn=0", "mode_page=3:0:2:1:1", "thin_provisioning=1"))
			case 7:
				tgtadm(t, one, "--op", "update", "--mode", "target", "--tid", tid, "--name",
					pick("name", "MaxBurstLength", "nop_interval", "MaxQueueCmd", "state", "RedirectAddress", "HeaderDigest"),
					"--value", pick("value", "512", "offline", "CRC32C,None", "10.0.0.1"))
			case 8:
				tgtadm(t, one, "--op", "delete", "--mode", "lu", "--tid", tid, "--lun", number("lun", 3))
			}
		}
		text, status := tgtAdmin(t, one, "--save", file)
		before := read(t, one)
		if status != 0 {
			if len(oddities(before)) > 0 {
				return // it says why
			}
			rt.Fatalf("status %d: %s", status, text)
		}
		saved, err := os.ReadFile(file)
		if err != nil {
			rt.Fatal(err)
		}
		if text, status := tgtAdmin(t, two, "-e", "-c", file); status != 0 {
			rt.Fatalf("status %d: %s\n%s", status, text, saved)
		}
		if after := read(t, two); !reflect.DeepEqual(before, after) {
			var b strings.Builder
			running.Print(&b, running.Diff(after, before))
			rt.Errorf("of\n%s\n%+v\ncame\n%+v\ndifferences:\n%s", saved, before, after, b.String())
		}
		if text, status := tgtAdmin(t, one, "--update", "ALL", "--diff", "-c", file); status != 0 {
			rt.Errorf("status %d: the file and the daemon that it is of differ:\n%s\n%s", status, text, saved)
		}
	})
}

// TestSaveRefuses: nothing is touched where something would be lost.
func TestSaveRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "targets.conf")
	d := modeltest.Start(t)
	refused := func(words string) {
		t.Helper()
		if text, status := tgtAdmin(t, d, "--save", file); status != statusError || !strings.Contains(text, words) {
			t.Errorf("status %d: %s", status, text)
		}
		if _, err := os.Stat(file); err == nil {
			t.Error("the file was written")
		}
	}
	refused("no target")
	tgtadm(t, d, "--op", "new", "--mode", "target", "--tid", "1", "-T", "iqn.x:1")
	tgtadm(t, d, "--op", "new", "--mode", "account", "--user", "joe", "--password", "two words")
	tgtadm(t, d, "--op", "bind", "--mode", "account", "--user", "joe", "--tid", "1")
	refused("account joe: targets.conf can't hold it")
	tgtadm(t, d, "--op", "delete", "--mode", "account", "--user", "joe")
	for _, lun := range []string{"1", "2"} {
		tgtadm(t, d, "--op", "new", "--mode", "lu", "--tid", "1", "--lun", lun, "-b", "same", "-E", "null")
	}
	refused("LUN 1 and LUN 2 have one path")
	if text, status := tgtAdmin(t, d, "--save", file, "--force"); status != 0 {
		t.Fatalf("status %d: %s", status, text)
	}
	saved, _ := os.ReadFile(file)
	if !bytes.Contains(saved, []byte("# NOT SAVED: target iqn.x:1: LUN 1 and LUN 2 have one path, same")) {
		t.Errorf("%s", saved)
	}
}

// TestSaveFromTgt: of a daemon that keeps its secrets the old file's are taken.
func TestSaveFromTgt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "targets.conf")
	d := modeltest.Start(t)
	d.Plain = true
	tgtadm(t, d, "--op", "new", "--mode", "target", "--tid", "1", "-T", "iqn.x:1")
	tgtadm(t, d, "--op", "new", "--mode", "account", "--user", "joe", "--password", "real-secret")
	tgtadm(t, d, "--op", "bind", "--mode", "account", "--user", "joe", "--tid", "1")
	if text, status := tgtAdmin(t, d, "--save", file); status != statusError || !strings.Contains(text, "account joe") {
		t.Errorf("status %d: %s", status, text)
	}
	old := "# mine\n<target iqn.x:1>\nincominguser joe real-secret\n</target>\n"
	if err := os.WriteFile(file, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	text, status := tgtAdmin(t, d, "--save", file)
	if status != 0 {
		t.Fatalf("status %d: %s", status, text)
	}
	root, err := conf.Parse(file, conf.System{}, func(string) {})
	if err != nil || root.Blocks["target"]["iqn.x:1"].Values["incominguser"][0].Text != "joe real-secret" {
		t.Errorf("%v, %+v", err, root)
	}
	kept, err := os.ReadFile(filepath.Join(filepath.Dir(file), "backup", "targets.conf-20261122T010203.000000000"))
	if err != nil || string(kept) != old {
		t.Errorf("%v, %q", err, kept)
	}
}
