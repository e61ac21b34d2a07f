// Package keep writes a configuration file so that no version of it is lost: what stood there before
// becomes a dated backup, of which the newest ten are kept, and the file is at any moment, after a power
// failure too, the old one or the new one as a whole.
//
// Order of steps: the new text goes to a temporary file beside it and is synced; the old file is linked
// into backup/ and that folder synced; the temporary file is renamed and the folder synced; then old
// backups go. A crash leaves at worst a temporary file and a backup that equals the file.
package keep

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// Backups is how many are kept.
	Backups = 10
	// Folder is where they are, beside the file.
	Folder = "backup"
	// stamp is the date in the name of a backup: names sort by age.
	stamp = "20060102T150405.000000000"
	// mode: the file holds secrets.
	mode = 0o600
)

// Write makes text the content of the file at path and returns the path of the backup, empty where there
// was no file or it held the same text, which then is left alone. now dates the backup. A link is
// followed: what it leads to is replaced.
func Write(path, text string, now time.Time) (backup string, err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	old, err := os.ReadFile(path)
	switch {
	case err == nil && string(old) == text:
		return "", nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("looking at the old configuration: %w", err)
	}
	existed := err == nil
	temporary, err := writeTemporary(path, text)
	if err != nil {
		return "", fmt.Errorf("writing the configuration: %w", err)
	}
	defer os.Remove(temporary) // after the rename there is nothing to remove
	if existed {
		if backup, err = keepOld(path, now); err != nil {
			return "", fmt.Errorf("keeping the old configuration: %w", err)
		}
	}
	if err := os.Rename(temporary, path); err != nil {
		return backup, fmt.Errorf("putting the configuration in its place: %w", err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return backup, fmt.Errorf("putting the configuration in its place: %w", err)
	}
	if existed {
		if err := prune(path); err != nil {
			return backup, fmt.Errorf("removing old backups: %w", err)
		}
	}
	return backup, nil
}

// writeTemporary writes and syncs a file beside path.
func writeTemporary(path, text string) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync())
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// keepOld links the old file into the folder of backups. Where two are made in one instant the later
// gets a number behind its date.
func keepOld(path string, now time.Time) (string, error) {
	folder := filepath.Join(filepath.Dir(path), Folder)
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	name := filepath.Join(folder, filepath.Base(path)+"-"+now.UTC().Format(stamp))
	to := name
	for n := 1; ; n++ {
		err := os.Link(path, to)
		if err == nil {
			return to, syncDir(folder)
		}
		if !errors.Is(err, fs.ErrExist) || n > Backups {
			return "", err
		}
		to = fmt.Sprintf("%s.%d", name, n)
	}
}

// prune removes all backups of path but the newest. Other files of the folder are left alone.
func prune(path string) error {
	folder := filepath.Join(filepath.Dir(path), Folder)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		date, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+"-")
		if !ok || len(date) < len(stamp) {
			continue
		}
		if _, err := time.Parse(stamp, date[:len(stamp)]); err == nil {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	var errs []error
	for _, name := range names[:max(len(names)-Backups, 0)] {
		errs = append(errs, os.Remove(filepath.Join(folder, name)))
	}
	return errors.Join(errs...)
}

// syncDir makes the entries of a folder durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
