package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"

	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// What is staged outlives a break of the connection, another source and a restart. staging/list names the chunks that
// are there, one record for each PutChunk; the last one of a chunk counts:
//
//	 0  u32  magic "PSt1"
//	 4  u32  CRC32C of the bytes 8 to 31
//	 8  u64  object
//	16  u32  chunk
//	20  u32  CRC32C of the chunk's records as they are in the staged sums file; 0 without a file
//	24  u64  index of the last entry that changed the chunk; bit 63 says that it has a file
//
// A chunk's content is determined by the index of the last entry that changed it, since all servers apply the same
// entries. So a staged chunk is as good as one fetched now, from whichever source, exactly if the source's has the same
// index. The list is not synced, and a chunk may be written anew after its record was: so before a chunk of the
// list is used its records are held against the list and its blocks against its records, and its files are synced.
// Damage and traces of a crash only make a chunk be fetched again.

const (
	listName    = "list"
	listMagic   = 0x31745350 // "PSt1"
	listRecord  = 32
	maxListRead = 64 << 20 // bytes of a list that are read: 2 million chunks, 8 TiB. What is beyond is fetched again
)

// stagedChunk is a chunk that was staged before.
type stagedChunk struct {
	entry   uint64     // index, with hasFile if there is a file
	sums    recordSums // of a chunk of the list that was not used yet only that of all
	checked bool       // written by this process, whose writes did not fail
}

func (st *Staging) listFile() string { return st.s.inDir(stagingName) + "/" + listName }

// note adds a staged chunk to the list.
func (st *Staging) note(key stagedKey, entry uint64, sums recordSums) error {
	st.chunks[key] = entry
	st.sums[key] = sums
	if st.list == nil {
		if err := st.s.fs.MkdirAll(st.s.inDir(stagingName)); err != nil {
			return fmt.Errorf("making %s: %w", stagingName, err)
		}
		f, err := st.s.fs.Open(st.listFile(), disk.Create)
		if err != nil {
			return fmt.Errorf("listing what is staged: %w", err)
		}
		st.list = f
	}
	b := appendListRecord(nil, key, entry, sums.all)
	if _, err := st.list.WriteAt(b, st.listed); err != nil {
		return fmt.Errorf("listing what is staged: %w", err)
	}
	st.listed += listRecord
	return nil
}

func appendListRecord(b []byte, key stagedKey, entry uint64, sum uint32) []byte {
	le := binary.LittleEndian
	base := len(b)
	b = le.AppendUint32(b, listMagic)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, key.object)
	b = le.AppendUint32(b, key.chunk)
	b = le.AppendUint32(b, sum)
	b = le.AppendUint64(b, entry)
	le.PutUint32(b[base+4:], crc32.Checksum(b[base+8:], castagnoli))
	return b
}

// parseList reads a list, and passes over records that are damaged or were never written.
func parseList(b []byte) map[stagedKey]stagedChunk {
	le := binary.LittleEndian
	found := make(map[stagedKey]stagedChunk)
	for ; len(b) >= listRecord; b = b[listRecord:] {
		if le.Uint32(b) != listMagic || le.Uint32(b[4:]) != crc32.Checksum(b[8:listRecord], castagnoli) {
			continue
		}
		key, c := stagedKey{le.Uint64(b[8:]), le.Uint32(b[16:])}, stagedChunk{entry: le.Uint64(b[24:]), sums: recordSums{all: le.Uint32(b[20:])}}
		if key.chunk < MaxChunks && c.entry&^hasFile != 0 {
			found[key] = c
		}
	}
	return found
}

// resume takes up what was staged before, if anything.
func (st *Staging) resume() error {
	f, err := st.s.fs.Open(st.listFile(), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading what is staged: %w", err)
	}
	size, err := f.Size()
	b := make([]byte, min(size, maxListRead)/listRecord*listRecord)
	if err == nil {
		err = readFull(f, b, 0)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("reading what is staged: %w", err), f.Close())
	}
	st.kept, st.list, st.listed = parseList(b), f, int64(len(b))
	return nil
}

// closeList ends writing to the list.
func (st *Staging) closeList() {
	if st.list != nil {
		st.list.Close() // nothing in it is relied upon
		st.list = nil
	}
}

// Restart begins the staging anew, perhaps from another source: what is staged is of use where Has says so.
func (st *Staging) Restart() {
	if st.kept == nil {
		st.kept = make(map[stagedKey]stagedChunk)
	}
	for key, entry := range st.chunks {
		st.kept[key] = stagedChunk{entry, st.sums[key], true}
	}
	clear(st.chunks)
	clear(st.sums)
}

// Suspend ends the staging without effect, and leaves what is staged to the next one.
func (st *Staging) Suspend() {
	st.closeList()
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if st.s.staging == st {
		st.s.staging, st.s.leftover = nil, true
	}
}

// Has says whether a chunk is staged as it was after the entry at an index. If so it will be installed, and nothing of it
// has to be fetched. One goroutine at a time, as for PutChunk.
func (st *Staging) Has(object uint64, chunk uint32, index uint64) (bool, error) {
	if err := st.s.check(); err != nil {
		return false, err
	}
	key := stagedKey{object, chunk}
	if entry, ok := st.chunks[key]; ok {
		return entry&^hasFile == index, nil
	}
	c, ok := st.kept[key]
	if !ok || c.entry&^hasFile != index {
		return false, nil
	}
	if !c.checked && c.entry&hasFile != 0 {
		whole, err := st.verify(key, &c.sums)
		if err != nil {
			return false, err
		}
		if !whole {
			delete(st.kept, key)
			return false, nil
		}
	}
	st.chunks[key], st.sums[key] = c.entry, c.sums
	return true, nil
}

// verify says whether the files of a staged chunk hold what the list says, and makes them durable. It completes
// the sums.
func (st *Staging) verify(key stagedKey, want *recordSums) (bool, error) {
	s := st.s
	folder := s.stagingFolder(key.object)
	sums, err := s.fs.Open(chunkFolder(folder, uint16(key.chunk/chunksPerDir))+"/"+sumsName, 0)
	if err != nil {
		return false, ignoreMissing(err)
	}
	defer sums.Close()
	records := make([]byte, pagesPerChunk*pageSize)
	if err := readFull(sums, records, int64(key.chunk%chunksPerDir)*int64(len(records))); err != nil {
		return false, ignoreUnreadable(err)
	}
	found := sumRecords(records)
	if found.all != want.all {
		return false, nil
	}
	*want = found
	data, err := s.fs.Open(chunkFile(folder, key.chunk), 0)
	if err != nil {
		return false, ignoreMissing(err)
	}
	defer data.Close()
	var block [BlockSize]byte
	for i := range BlocksPerChunk {
		var r Record
		if _, _, ok := r.get(records[i*recordSize:], key.object, blockNumber(key.chunk, i)); !ok {
			return false, nil
		}
		if r.Kind != Data {
			continue
		}
		if err := readFull(data, block[:], int64(i)*BlockSize); err != nil || op.Sum(block[:]) != r.Sum {
			return false, ignoreUnreadable(err)
		}
	}
	if err := s.syncStaged(sums); err != nil {
		return false, err
	}
	return true, s.syncStaged(data)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func ignoreUnreadable(err error) error {
	if unreadable(err) {
		return nil
	}
	return err
}

// dropLeftover puts what was staged out of the way when the store makes a checkpoint of its own: the log
// has reached this server. The caller holds s.mu.
func (s *Store) dropLeftover() error {
	if !s.leftover {
		return nil
	}
	s.leftover = false
	return s.discardStaging()
}

// keepStaging says whether there is anything in the staging folder that a later Staging can use.
func (s *Store) keepStaging() (bool, error) {
	f, err := s.fs.Open(s.inDir(stagingName)+"/"+listName, 0)
	if err != nil {
		return false, ignoreMissing(err)
	}
	return true, f.Close()
}
