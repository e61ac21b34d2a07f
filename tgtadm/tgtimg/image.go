package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore/ssc"
)

const (
	megabyte          = 1 << 20
	defaultTapeMB     = 8000
	maxDiskMB         = 1 << 32 // 4 PiB
	imageMode         = 0o640
	emptyTapeNextByte = 1152 // what the original prints of an empty tape
)

// create makes the file, empty, whatever was there before.
func (c *command) create() (*os.File, error) {
	f, err := os.OpenFile(*c.file, os.O_CREATE|os.O_TRUNC|os.O_RDWR, imageMode)
	if err == nil {
		if err = f.Chmod(imageMode); err == nil {
			return f, nil
		}
		f.Close()
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		fmt.Fprintf(c.err, "Failed creating file: %s\n", systemText(errno))
	} else {
		fmt.Fprintf(c.err, "Failed creating file: %v\n", err)
	}
	return nil, refusal(statusCreate)
}

// systemText is an error in the words of the C library, which begin with a capital.
func systemText(errno unix.Errno) string {
	text := errno.Error()
	if text != "" && text[0] >= 'a' && text[0] <= 'z' {
		text = string(text[0]-'a'+'A') + text[1:]
	}
	return text
}

// finish closes a new image durably, or takes it away if it did not become one.
func (c *command) finish(f *os.File, err error) error {
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return errors.Join(err, os.Remove(*c.file))
	}
	return nil
}

// newDisk makes a disk of zeros.
func (c *command) newDisk() error {
	if _, err := c.medium("disk", "DISK", "disk"); err != nil {
		return err
	}
	n, err := c.megabytes()
	if err != nil {
		return err
	}
	if n <= 0 || n > maxDiskMB {
		fmt.Fprintln(c.out, "Capacity must be > 0")
		return refusal(statusCapacity)
	}
	f, err := c.create()
	if err != nil {
		return err
	}
	if c.thin {
		err = f.Truncate(n * megabyte)
	} else if err = allocate(f, n*megabyte); err != nil {
		fmt.Fprintf(c.err, "posix_fallocate failed\n")
		return errors.Join(refusal(statusCapacity), c.finish(f, err))
	}
	if err := c.finish(f, err); err != nil {
		return fmt.Errorf("make the disk %s: %w", *c.file, err)
	}
	fmt.Fprintf(c.out, "Created blank DISK image file : %s\n", *c.file)
	return nil
}

// allocate gives a file its size and its space, by writing zeros where the file system has no better way.
func allocate(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	for err == unix.EINTR {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if err != unix.EOPNOTSUPP {
		return err
	}
	zeros := make([]byte, megabyte)
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err != nil {
			return err
		}
	}
	return nil
}

// newDisc makes a blank DVD: an empty file.
func (c *command) newDisc() error {
	if _, err := c.medium("cd", "DVD+R", "dvd+r"); err != nil {
		return err
	}
	f, err := c.create()
	if err != nil {
		return err
	}
	if err := c.finish(f, nil); err != nil {
		return fmt.Errorf("make the disc %s: %w", *c.file, err)
	}
	fmt.Fprintf(c.out, "Created blank DVD+R image file : %s\n", *c.file)
	return nil
}

// newTape makes an empty cartridge.
func (c *command) newTape() error {
	i, err := c.medium("tape", "WORM, CLEAN or DATA", "data", "clean", "worm")
	if err != nil {
		return err
	}
	if c.barcode == nil {
		return c.refuse(statusUsage, true, "Missing the barcode param")
	}
	n, err := c.megabytes()
	if err != nil {
		return err
	}
	if n == 0 {
		n = defaultTapeMB
	}
	kind := [...]ssc.Medium{ssc.DataMedium, ssc.CleaningMedium, ssc.WORMMedium}[i]
	b, err := ssc.Blank(*c.barcode, kind, n, c.now())
	if err != nil {
		return c.refuse(statusUsage, true, "%v", err)
	}
	fmt.Fprintf(c.out, "blk_sz: %d, next %d, %d\nSizeof(mam): %d, sizeof(h): %d\n", n, emptyTapeNextByte,
		emptyTapeNextByte, ssc.MemoryBytes, ssc.HeaderBytes)
	f, err := c.create()
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := c.finish(f, err); err != nil {
		return fmt.Errorf("make the tape %s: %w", *c.file, err)
	}
	return nil
}

// show lists a tape.
func (c *command) show() error {
	err := ssc.List(*c.file, c.showMemory, c.showObject)
	var path *fs.PathError
	var version *ssc.VersionError
	var damage *ssc.DamageError
	var errno unix.Errno
	switch {
	case err == nil:
		return nil
	case errors.As(err, &version):
		fmt.Fprintf(c.out, "%v\n", version)
		fmt.Fprintln(c.err, "crc error")
		return refusal(statusFailed)
	case errors.As(err, &damage) && damage.Offset == 0:
		fmt.Fprintln(c.err, "crc error")
		return refusal(statusFailed)
	case errors.As(err, &path) && path.Op == "open" && errors.As(err, &errno):
		return c.refuse(statusFailed, false, "can't open %s, %s", *c.file, systemText(errno))
	}
	return fmt.Errorf("list %s: %w", *c.file, err)
}

func (c *command) showMemory(m ssc.Memory) {
	fmt.Fprintf(c.out, "Media     : %s\n type     : %s\n", m.Barcode, m.Medium)
	made := "at an unknown time"
	if t, ok := m.Created(); ok {
		made = t.Format("Mon Jan _2 15:04:05 2006")
	}
	fmt.Fprintf(c.out, "Media serial number : %s, created %s\n\n", m.Serial, made)
}

func (c *command) showObject(h ssc.Header) error {
	var err error
	if h.Kind == ssc.Begin {
		_, err = fmt.Fprintf(c.out, "%17s(%d): Capacity %d MB, Blk No.: %d, prev %d, curr %d, next %d\n",
			h.Kind, h.Kind, h.Size, h.Number, h.Previous, h.Self, h.Next)
	} else {
		_, err = fmt.Fprintf(c.out, "%17s(%d): Blk No. %d, prev %d, curr %d,  next %d, sz %d\n",
			" "+h.Kind.String(), h.Kind, h.Number, h.Previous, h.Self, h.Next, h.Size)
	}
	return err
}
