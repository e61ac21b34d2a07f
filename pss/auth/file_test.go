package auth

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestParse runs the files in testdata/keys. A secret of the input is written as SECRET-n, and its id as ID-n.
func TestParse(t *testing.T) {
	replace := strings.NewReplacer(placeholders()...)
	datadriven.RunTest(t, "testdata/keys", func(t *testing.T, d *datadriven.TestData) string {
		keys, err := Parse("cell.key", []byte(replace.Replace(d.Input)))
		if err != nil {
			if leaked := strings.Contains(err.Error(), fixedKey(1).secretText()); leaked {
				t.Errorf("the error tells the secret: %v", err)
			}
			return err.Error() + "\n"
		}
		var b strings.Builder
		for _, k := range keys {
			fmt.Fprintf(&b, "%v of %s\n", k, k.Created.Format(time.RFC3339))
		}
		return b.String()
	})
}

// fixedKey is a key that is always the same.
func fixedKey(n byte) Key {
	k := Key{Created: time.Date(2026, 11, 22, 0, 0, int(n), 0, time.UTC)}
	for i := range k.secret {
		k.secret[i] = n
	}
	k.ID = idOf(&k.secret)
	return k
}

func (k Key) secretText() string { return fmt.Sprintf("%x", k.secret[:]) }

func placeholders() []string {
	var pairs []string
	for n := byte(1); n <= 5; n++ {
		k := fixedKey(n)
		pairs = append(pairs, fmt.Sprintf("SECRET-%d", n), k.secretText(), fmt.Sprintf("ID-%d", n), k.ID.String())
	}
	return append(pairs, "LONG", strings.Repeat("x", maxLine), "HUGE", strings.Repeat("#\n", maxFile))
}

// TestDerivedOnce: what is derived from a key may never change, or the parties of different versions part.
func TestDerivedOnce(t *testing.T) {
	k := fixedKey(1)
	got := fmt.Sprintf("%v %x", k.ID, signer(&k).Public())
	const want = "36f225ff f37b1abc27747a8000065c646c2471b524a4afb4ee6cb8a0031bd1cb80d61f87"
	if got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

func TestGenerate(t *testing.T) {
	file := newFile(t)
	info, err := os.Stat(file)
	check(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if _, err := Generate(file); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second key: %v", err)
	}
	other := load(t, newFile(t))
	if k := load(t, file); k.Status().Keys[0] == other.Status().Keys[0] || k.Status().Mode != ModeKey {
		t.Errorf("%+v", k.Status())
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
		k := fixedKey(7)
		if text := fmt.Sprintf(verb, k); strings.Contains(text, "7 7 7") || strings.Contains(text, "0707") {
			t.Errorf("%s prints the secret: %s", verb, text)
		}
	}
}

func TestMode(t *testing.T) {
	for mode, good := range map[fs.FileMode]bool{0o600: true, 0o400: true, 0o640: true, 0o440: true,
		0o644: false, 0o660: false, 0o604: false, 0o602: false, 0o610: false} {
		file := newFile(t)
		check(t, os.Chmod(file, mode))
		_, err := Load(file)
		if errors.Is(err, ErrExposed) == good || good && err != nil {
			t.Errorf("%04o: %v", mode, err)
		}
		if !good && !strings.Contains(err.Error(), file) {
			t.Errorf("%v: no word of the file", err)
		}
	}
	if _, err := Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}
}

func TestBeside(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "server.conf")
	t.Setenv(EnvFile, "")
	if k, err := LoadBeside(conf); k != nil || err != nil {
		t.Errorf("no file: %v, %v", k, err)
	}
	_, err := Generate(File(conf))
	check(t, err)
	if k, err := LoadBeside(conf); err != nil || k.file != filepath.Join(dir, FileName) {
		t.Errorf("beside: %v, %v", k, err)
	}
	elsewhere := newFile(t)
	t.Setenv(EnvFile, elsewhere)
	if k, err := LoadBeside(conf); err != nil || k.file != elsewhere {
		t.Errorf("elsewhere: %v, %v", k, err)
	}
	t.Setenv(EnvFile, filepath.Join(dir, "nowhere"))
	if k, err := LoadBeside(conf); k != nil || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that was named and is not there: %v, %v", k, err)
	}
}

// TestRoll goes through the steps, and through those that are not the next ones.
func TestRoll(t *testing.T) {
	file := newFile(t)
	check(t, os.Chmod(file, 0o640))
	if os.Geteuid() == 0 { // an operator rolls the key of a daemon that has a user of its own
		check(t, os.Chown(file, 65534, 65534))
	}
	owner := func() [2]uint32 {
		info, err := os.Stat(file)
		check(t, err)
		st := info.Sys().(*syscall.Stat_t)
		return [2]uint32{st.Uid, st.Gid}
	}
	ownerBefore := owner()
	ids := func() []KeyID { return load(t, file).Status().Keys }
	wrong := func(steps ...Step) {
		t.Helper()
		before := ids()
		for _, s := range append(steps, 0, 77) {
			if _, err := Roll(file, s); err == nil || !strings.Contains(err.Error(), "the next step is to ") {
				t.Errorf("step %d: %v", s, err)
			}
		}
		if after := ids(); !slices.Equal(before, after) {
			t.Errorf("%v became %v", before, after)
		}
	}
	for range 3 { // several times in one second
		old := ids()[0]
		wrong(RollUse, RollDrop)
		k, err := Roll(file, RollAdd)
		check(t, err)
		if got := ids(); !slices.Equal(got, []KeyID{old, k.ID}) {
			t.Fatalf("added %v: %v", k, got)
		}
		wrong(RollAdd, RollDrop)
		u, err := Roll(file, RollUse)
		check(t, err)
		if got := ids(); u.ID != k.ID || !slices.Equal(got, []KeyID{k.ID, old}) {
			t.Fatalf("used %v: %v", u, got)
		}
		wrong(RollAdd, RollUse)
		d, err := Roll(file, RollDrop)
		check(t, err)
		if got := ids(); d.ID != k.ID || !slices.Equal(got, []KeyID{k.ID}) {
			t.Fatalf("dropped all but %v: %v", d, got)
		}
	}
	info, err := os.Stat(file)
	check(t, err)
	if info.Mode().Perm() != 0o640 || owner() != ownerBefore {
		t.Errorf("mode became %v, owner %v", info.Mode(), owner())
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := Roll(filepath.Join(t.TempDir(), "none"), RollAdd); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestRefresh: changes are taken up, mistakes are reported once and change nothing.
func TestRefresh(t *testing.T) {
	file := newFile(t)
	k := load(t, file)
	expect := func(what string, changed bool, complaint string) {
		t.Helper()
		got, err := k.Refresh()
		if got != changed || (err == nil) != (complaint == "") || err != nil && !strings.Contains(err.Error(), complaint) {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	expect("nothing", false, "")
	added, err := Roll(file, RollAdd)
	check(t, err)
	expect("a key more", true, "")
	expect("the same", false, "")
	if ids := k.Status().Keys; len(ids) != 2 || ids[1] != added.ID {
		t.Errorf("%v", ids)
	}
	good, err := os.ReadFile(file)
	check(t, err)
	check(t, os.WriteFile(file, []byte("rubbish\n"), 0o600))
	expect("rubbish", false, file+":1: ")
	expect("the same rubbish", false, "")
	check(t, os.Remove(file))
	expect("gone", false, "no such file")
	expect("still gone", false, "")
	if ids := k.Status().Keys; len(ids) != 2 {
		t.Errorf("%v", ids)
	}
	check(t, os.WriteFile(file, good, 0o644))
	expect("exposed", false, "exposed")
	check(t, os.Chmod(file, 0o600))
	expect("back", true, "")
	if changed, err := (*Keys)(nil).Refresh(); changed || err != nil {
		t.Error(changed, err)
	}
}

// TestMistakeWhileDialling: a file with mistakes keeps nobody from dialling. Whoever looks hears of it, and so does who
// can't connect.
func TestMistakeWhileDialling(t *testing.T) {
	file := newFile(t)
	mine, theirs := load(t, file), load(t, file)
	stranger, _ := cellKeys(t)
	check(t, os.WriteFile(file, []byte("rubbish\n"), 0o600))
	c, s := shake(t, mine, theirs)
	check(t, c.err)
	check(t, s.err)
	if _, err := mine.Refresh(); err == nil || !strings.Contains(err.Error(), file+":1: ") {
		t.Errorf("after dialling: %v", err)
	}
	if _, err := mine.Refresh(); err != nil {
		t.Errorf("again: %v", err)
	}
	if c, _ := shake(t, mine, stranger); !errors.Is(c.err, ErrStranger) || !strings.Contains(c.err.Error(), file+":1: ") {
		t.Errorf("to a stranger: %v", c.err)
	}
}

// FuzzParse: a file is refused with its name, or is what format makes of its keys.
func FuzzParse(f *testing.F) {
	one, two := fixedKey(1), fixedKey(2)
	f.Add(format([]Key{one}))
	f.Add(format([]Key{one, two}))
	f.Add([]byte("pss-cell-key 1\nkey"))
	f.Add([]byte("pss-cell-key 2\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := Parse("cell.key", b)
		var bad *SyntaxError
		if errors.As(err, &bad) {
			if bad.File != "cell.key" || len(keys) > 0 {
				t.Fatal(err, keys)
			}
			return
		}
		check(t, err)
		if len(keys) == 0 || len(keys) > MaxKeys {
			t.Fatal(keys)
		}
		again, err := Parse("cell.key", format(keys))
		if err != nil || !slices.Equal(again, keys) {
			t.Fatalf("%v, %v, %v", keys, again, err)
		}
	})
}
