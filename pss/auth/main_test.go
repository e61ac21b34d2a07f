package auth

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for; nothing is expected to take so long.
const patience = 30 * time.Second

func check(t interface {
	Helper()
	Fatal(...any)
}, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newFile makes a key file.
func newFile(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), FileName)
	_, err := Generate(file)
	check(t, err)
	return file
}

func load(t testing.TB, file string) *Keys {
	t.Helper()
	k, err := Load(file)
	check(t, err)
	return k
}

// cellKeys are the same new key in two parties.
func cellKeys(t testing.TB) (a, b *Keys) {
	t.Helper()
	file := newFile(t)
	return load(t, file), load(t, file)
}

// share copies a key file over another one, as an operator does.
func share(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	check(t, err)
	temp := to + ".new"
	check(t, os.WriteFile(temp, b, 0o600))
	check(t, os.Rename(temp, to))
}
