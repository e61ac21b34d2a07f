package scsi

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// Service actions of SANITIZE (SBC-3 5.24), and bits of byte 1.
const (
	sanitizeOverwrite       = 0x01
	sanitizeBlockErase      = 0x02
	sanitizeExitFailureMode = 0x1f

	sanitizeImmed = 0x80
	sanitizeAUSE  = 0x20 // EXIT FAILURE MODE may end a failure
)

// sanitizeJob is a sanitize operation (SBC-3 4.11). It belongs to the unit, not to the command that asked for
// it: aborts, resets and the end of the session leave it alone. While it runs, or after it failed, only commands
// marked so in the table get through; it fails for good when the unit is closed or loses its medium
// underneath it.
type sanitizeJob struct {
	unit   *Unit
	medium *medium
	exit   bool // AUSE
	cancel context.CancelFunc

	// What is written: a pattern, or nothing where blocks are erased.
	pattern []byte
	invert  bool // every other pass
	passes  int64
	total   int64 // bytes of one pass

	done   atomic.Int64 // bytes of all passes
	failed atomic.Bool

	over    chan struct{} // closed at its end
	waiting *parking      // the command, unless IMMED; guarded by Unit.mu
}

// sense is what other commands, and REQUEST SENSE, get (SBC-3 4.11.3).
func (j *sanitizeJob) sense(descriptor bool) []byte {
	if j.failed.Load() {
		return sanitizeFailed.bytes(descriptor)
	}
	progress := float64(j.done.Load()) / float64(max(1, j.total*j.passes)) * 65536
	return sanitizeInProgress.bytesWithProgress(descriptor, uint16(min(progress, 65535)))
}

func (t *task) checkSanitizing() outcome {
	job := t.unit.sanitizing.Load()
	if job == nil {
		return t.check(sanitizeInProgress) // over at this moment; the next try gets through
	}
	return t.checkSense(job.sense(t.attrs.descriptorSense))
}

// sanitize is SANITIZE (SBC-3 5.24).
func sanitize(t *task) outcome {
	cdb := t.command.CDB
	service, length := cdb[1]&0x1f, int(binary.BigEndian.Uint16(cdb[7:]))
	for _, reserved := range append([]byte{cdb[1] & 0x40}, cdb[2:7]...) {
		if reserved != 0 {
			return t.check(invalidFieldInCDB)
		}
	}
	job := &sanitizeJob{unit: t.unit, medium: t.medium, exit: cdb[1]&sanitizeAUSE != 0, passes: 1,
		total: int64(t.blocks()) * t.unit.blockSize}
	switch service {
	case sanitizeExitFailureMode:
		if length != 0 {
			return t.check(invalidFieldInCDB)
		}
		return t.exitFailureMode()
	case sanitizeBlockErase:
		if length != 0 {
			return t.check(invalidFieldInCDB)
		}
	case sanitizeOverwrite:
		if !job.overwrite(t, length) {
			return t.check(invalidFieldInCDB)
		}
	}
	t.moved = uint64(length)
	return t.startSanitizing(job, cdb[1]&sanitizeImmed != 0)
}

// overwrite reads the parameter list of OVERWRITE (SBC-3 5.24.2.2), and says whether it is good.
func (j *sanitizeJob) overwrite(t *task, length int) bool {
	size := int(t.unit.blockSize)
	list := t.command.DataOut
	if length < 5 || length > size+4 || len(list) < length {
		return false
	}
	list = list[:length]
	n := int(binary.BigEndian.Uint16(list[2:]))
	if n == 0 || n > size || n > length-4 || list[0]&0x1f == 0 {
		return false
	}
	j.invert, j.passes = list[0]&0x80 != 0, int64(list[0]&0x1f)
	// The pattern is repeated in each block, from the block's beginning.
	block := make([]byte, size)
	for i := range block {
		block[i] = list[4+i%n]
	}
	j.pattern = make([]byte, max(size, chunkBytes))
	for i := 0; i < len(j.pattern); i += size {
		copy(j.pattern[i:], block)
	}
	return true
}

// exitFailureMode ends a failure that AUSE allows to be ended so. The medium is as the operation left it.
func (t *task) exitFailureMode() outcome {
	u := t.unit
	u.mu.Lock()
	defer u.mu.Unlock()
	job := u.sanitizing.Load()
	switch {
	case job == nil:
		return t.good()
	case !job.failed.Load() || !job.exit:
		return t.checkSense(job.sense(t.attrs.descriptorSense))
	}
	u.sanitizing.Store(nil)
	return t.good()
}

// startSanitizing begins the operation, and completes the command at once or with it.
func (t *task) startSanitizing(j *sanitizeJob, immediate bool) outcome {
	u := t.unit
	u.mu.Lock()
	defer u.mu.Unlock()
	if old := u.sanitizing.Load(); old != nil && !old.failed.Load() {
		return t.checkSense(old.sense(t.attrs.descriptorSense))
	}
	if u.medium != j.medium {
		return t.check(mediumNotPresent) // taken out since
	}
	result := outcome(finished)
	if !immediate {
		if j.waiting, result = u.park(t, sanitizeDone); j.waiting == nil {
			return result
		}
	}
	var ctx context.Context
	ctx, j.cancel = context.WithCancel(context.Background())
	j.medium.users++
	j.over = make(chan struct{})
	u.sanitizing.Store(j)
	u.background.Add(1)
	go j.run(ctx)
	if immediate {
		return t.good()
	}
	return result
}

// sanitizeDone completes a SANITIZE that waited for its end.
func sanitizeDone(t *task) outcome {
	if job := t.unit.sanitizing.Load(); job != nil {
		return t.checkSense(job.sense(t.attrs.descriptorSense))
	}
	return t.good()
}

// run carries the operation out.
func (j *sanitizeJob) run(ctx context.Context) {
	u := j.unit
	defer u.background.Done()
	defer j.cancel()
	defer close(j.over)
	err := j.sanitize(ctx)
	j.failed.Store(err != nil)
	u.leave(j.medium)
	u.mu.Lock()
	if err == nil {
		u.sanitizing.Store(nil)
	}
	if j.waiting != nil {
		j.waiting.unpark(nil)
	}
	u.mu.Unlock()
	u.runReady()
}

func (j *sanitizeJob) sanitize(ctx context.Context) error {
	io := &backstore.IO{}
	for pass := range j.passes {
		if pass > 0 && j.invert {
			for i := range j.pattern {
				j.pattern[i] = ^j.pattern[i]
			}
		}
		for at := int64(0); at < j.total; at += io.Length {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			io.Offset, io.State = at, j.medium.version.Load()
			if j.pattern != nil {
				io.Op, io.Length = backstore.Write, min(int64(len(j.pattern)), j.total-at)
				io.Data = j.pattern[:io.Length]
			} else {
				io.Op, io.Length = backstore.WriteZeroes, min(eraseBytes, j.total-at)
				if j.medium.info.Thin {
					io.Op = backstore.Unmap // which reads as zeros too
				}
			}
			if err := await(j.medium.store, io); err != nil {
				return fmt.Errorf("sanitize: %w", err)
			}
			j.done.Add(io.Length)
		}
	}
	io.Op, io.Offset, io.Length, io.Data = backstore.Flush, 0, 0, nil
	if err := await(j.medium.store, io); err != nil {
		return fmt.Errorf("sanitize: %w", err)
	}
	return nil
}

// await submits a request and waits for it. A store without an operation says so, and then nothing was done.
func await(store backstore.Store, io *backstore.IO) error {
	done := make(chan struct{})
	io.Err, io.Done = nil, func(*backstore.IO) { close(done) }
	store.Submit(io)
	<-done
	return io.Err
}

// stopSanitizing makes an operation under way fail and returns when it has ended.
func (u *Unit) stopSanitizing() {
	if job := u.sanitizing.Load(); job != nil {
		job.cancel()
		<-job.over
	}
}
