package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLock(t *testing.T) {
	root := t.TempDir()
	first := must(Lock(root))(t)
	_, err := Lock(root)
	wantErr(t, err, ErrLocked)
	if want := fmt.Sprintf("process %d (", os.Getpid()); !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), root) {
		t.Errorf("the error %q does not name the folder and %q", err, want)
	}
	ok(t, first.Close())
	again := must(Lock(root))(t)
	ok(t, again.Close())
}

func TestLockUnsigned(t *testing.T) {
	root := t.TempDir()
	for _, text := range []string{"", "nonsense", "2000000000"} {
		held := must(Lock(root))(t)
		ok(t, os.WriteFile(filepath.Join(root, lockName), []byte(text), 0o600))
		_, err := Lock(root)
		wantErr(t, err, ErrLocked)
		if !strings.Contains(err.Error(), "another process") {
			t.Errorf("with %q in the lock file the error is %q", text, err)
		}
		ok(t, held.Close())
	}
}

func TestLockNoFolder(t *testing.T) {
	_, err := Lock(filepath.Join(t.TempDir(), "no"))
	wantErr(t, err, os.ErrNotExist)
}
