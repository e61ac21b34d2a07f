package auth

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// FileName is the name of the key file, which is in the folder of server.conf.
const FileName = "cell.key"

// EnvFile is the environment variable that names another key file. That file must be there.
const EnvFile = "PSS_KEY"

// File is the key file that goes with a server.conf: what the environment names in PSS_KEY, else
// cell.key in the folder of conf.
func File(conf string) string {
	return cmp.Or(os.Getenv(EnvFile), filepath.Join(filepath.Dir(conf), FileName))
}

// LoadBeside loads the key file that goes with a server.conf. Where there is none the cell is open, and the
// Keys are nil; only a file that PSS_KEY names must be there.
func LoadBeside(conf string) (*Keys, error) {
	k, err := Load(File(conf))
	if errors.Is(err, fs.ErrNotExist) && os.Getenv(EnvFile) == "" {
		return nil, nil
	}
	return k, err
}

// ErrExposed is wrapped by the error about a key file that more people can read than should.
var ErrExposed = errors.New("the cell's key is exposed")

// forbidden are the permissions a key file may not give: its group may read it (a daemon that runs under a
// user of its own), nobody else.
const forbidden = 0o037

// readKeys reads and checks a key file, and says which state of it that was.
func readKeys(file string) ([]Key, fileState, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fileState{}, fmt.Errorf("open the cell's key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fileState{}, fmt.Errorf("look at the cell's key: %w", err)
	}
	state := stateOf(info)
	if !info.Mode().IsRegular() {
		return nil, state, &SyntaxError{File: file, Text: "the cell's key is not a regular file"}
	}
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return nil, state, fmt.Errorf("%w: %s has mode %04o; want 0640 or less (chmod 0640 %s), and better a new key",
			ErrExposed, file, mode, file)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, state, fmt.Errorf("read the cell's key: %w", err)
	}
	keys, err := Parse(file, b)
	return keys, state, err
}

// fileState tells one state of a file from another.
type fileState struct {
	inode    uint64
	size     int64
	modified time.Time
	mode     fs.FileMode
}

func stateOf(info fs.FileInfo) fileState {
	s := fileState{size: info.Size(), modified: info.ModTime(), mode: info.Mode()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = st.Ino
	}
	return s
}

// Generate makes a new key file with one key, readable by its owner only, and returns the key. It is an error if
// the file exists: a cell that lost its key is locked out.
func Generate(file string) (Key, error) {
	k, err := newKey(time.Now())
	if err != nil {
		return Key{}, err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return Key{}, fmt.Errorf("make a cell key: %w", err)
	}
	if err := finish(f, format([]Key{k})); err != nil {
		return Key{}, errors.Join(fmt.Errorf("make a cell key: %w", err), os.Remove(file))
	}
	return k, syncFolder(file)
}

// finish writes b to f, syncs and closes it.
func finish(f *os.File, b []byte) error {
	_, err := f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncFolder(file string) error {
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return fmt.Errorf("sync the folder of %s: %w", file, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync the folder of %s: %w", file, err)
	}
	return nil
}

// Step is a step of rolling the key.
type Step int

// The steps of rolling the key, in order. After each one the file has to be copied to every server, client
// and tool of the cell, and to have been taken up there (Status.Keys of each server), before the next.
const (
	RollAdd  Step = iota + 1 // a new key is added behind the old one: accepted, not used yet
	RollUse                  // the new key comes first: it signs and seals from now on; the old one is still accepted
	RollDrop                 // the old keys are dropped, and with them whoever still uses one
)

// Roll does one step of rolling the key in a key file, and returns the key that comes in (RollAdd), is to be
// used (RollUse) or stays (RollDrop). The file is replaced in one piece; owner and mode stay. A step
// that is not the next one is an error, so that none is done twice by mistake.
func Roll(file string, step Step) (Key, error) {
	keys, _, err := readKeys(file)
	if err != nil {
		return Key{}, err
	}
	newest := keys[0]
	for _, k := range keys[1:] {
		if k.Created.After(newest.Created) {
			newest = k
		}
	}
	first := keys[0].ID == newest.ID
	switch {
	case step == RollAdd && len(keys) == 1:
		if newest, err = newKey(time.Now()); err != nil {
			return Key{}, err
		}
		if !newest.Created.After(keys[0].Created) {
			newest.Created = keys[0].Created.Add(time.Second) // a clock that was set back: the dates tell which is newer
		}
		keys = append(keys, newest)
	case step == RollUse && !first:
		keys = slices.DeleteFunc(keys, func(k Key) bool { return k.ID == newest.ID })
		keys = slices.Insert(keys, 0, newest)
	case step == RollDrop && first && len(keys) > 1:
		keys = keys[:1]
	default:
		return Key{}, fmt.Errorf("roll the key in %s: %s", file, nextStep(len(keys), first))
	}
	return newest, replace(file, format(keys))
}

// nextStep says what would be the next step.
func nextStep(keys int, newestFirst bool) string {
	switch {
	case keys == 1:
		return "the next step is to add a key"
	case !newestFirst:
		return "the next step is to use the new key"
	}
	return "the next step is to drop the old key"
}

// replace gives a file another content, whole or not at all, and leaves it owner and mode.
func replace(file string, b []byte) error {
	info, err := os.Stat(file)
	if err != nil {
		return fmt.Errorf("replace the cell's key: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+FileName+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("replace the cell's key: %w", err)
	}
	err = f.Chmod(info.Mode().Perm())
	if st, ok := info.Sys().(*syscall.Stat_t); ok && err == nil && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		err = f.Chown(int(st.Uid), int(st.Gid)) // or the daemon could not read it any more
	}
	if err != nil {
		err = errors.Join(err, f.Close())
	} else if err = finish(f, b); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("replace the cell's key: %w", err), os.Remove(f.Name()))
	}
	return syncFolder(file)
}
