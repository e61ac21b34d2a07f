package replica

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"

	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pss/disk"
	"github.com/paxos-iscsi/paxos-iscsi/pss/wire"
)

// Identity says whose root it is: which server's, of which cell, and as which member. It is in the file
// `identity`, which is replaced as a whole: temporary file, sync, rename, sync of the folder.
//
//	 0  u32  magic "PSSi"
//	 4  u32  version, 1
//	 8  u32  size of the body in bytes
//	12       body, JSON
//	-4  u32  CRC32C of everything before
type Identity struct {
	ID       cell.ID     `json:"id"`
	Root     RootID      `json:"root"`
	Cell     wire.CellID `json:"cell"`               // zero: it belongs to no cell yet
	Number   uint64      `json:"number,omitempty"`   // as a member; 0: not taken in yet
	Founders []Founder   `json:"founders,omitempty"` // of the cell: who its members were at first
	// Refound: the cell is to be founded again on this root alone, as Cell, and that is not finished yet.
	Refound bool `json:"refound,omitempty"`
	// Discard: what the root holds is of no use, and to be removed before anything else.
	Discard bool `json:"discard,omitempty"`
	// Healed is when the server gave the root up by itself, in seconds since 1970; 0: never.
	Healed int64 `json:"healed,omitempty"`
}

const (
	identityName    = "identity"
	identityTemp    = "identity.new"
	identityMagic   = 0x69535350 // "PSSi"
	identityVersion = 1
	maxIdentity     = 16 << 10 // bytes of the file
)

// ErrIdentity is wrapped by errors about an identity that can't be read.
var ErrIdentity = errors.New("the root's identity can't be read")

// ErrIdentityDamaged is wrapped by those of them that damage explains, and nothing else: whose the root is can't be
// known, and the server can come back as a new member (Heals).
var ErrIdentityDamaged = fmt.Errorf("%w: it is damaged", ErrIdentity)

var identityTable = crc32.MakeTable(crc32.Castagnoli)

// AppendIdentity appends the byte form of an identity.
func AppendIdentity(b []byte, id *Identity) []byte {
	base := len(b)
	body, err := json.Marshal(id)
	if err != nil {
		panic("replica: an identity can't be encoded: " + err.Error()) // it has no type that could fail
	}
	le := binary.LittleEndian
	b = le.AppendUint32(b, identityMagic)
	b = le.AppendUint32(b, identityVersion)
	b = le.AppendUint32(b, uint32(len(body)))
	b = append(b, body...)
	return le.AppendUint32(b, crc32.Checksum(b[base:], identityTable))
}

// ParseIdentity reads what AppendIdentity wrote. Errors wrap ErrIdentity.
func ParseIdentity(b []byte) (Identity, error) {
	var id Identity
	le := binary.LittleEndian
	n := len(b) - 4
	switch {
	case n < 12 || len(b) > maxIdentity || le.Uint32(b) != identityMagic:
		return id, fmt.Errorf("%w: %d bytes that are none", ErrIdentityDamaged, len(b))
	case le.Uint32(b[n:]) != crc32.Checksum(b[:n], identityTable):
		return id, fmt.Errorf("%w: checksum", ErrIdentityDamaged)
	case le.Uint32(b[4:]) != identityVersion:
		return id, fmt.Errorf("%w: version %d", ErrIdentity, le.Uint32(b[4:]))
	case int(le.Uint32(b[8:])) != n-12:
		return id, fmt.Errorf("%w: %d bytes for %d", ErrIdentity, n-12, le.Uint32(b[8:]))
	}
	if err := json.Unmarshal(b[12:n], &id); err != nil {
		return id, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	if owner, ok := cell.FromRaft(id.Number); id.ID >= cell.MaxServers || id.Number != 0 && (!ok || owner != id.ID) {
		return id, fmt.Errorf("%w: member %d for server %d", ErrIdentity, id.Number, id.ID)
	}
	return id, nil
}

// NewIdentity is the identity of an empty root. random is where its 128 bits come from.
func NewIdentity(id cell.ID, random io.Reader) (Identity, error) {
	n := Identity{ID: id}
	if _, err := io.ReadFull(random, n.Root[:]); err != nil {
		return n, fmt.Errorf("random bits for the root's identity: %w", err)
	}
	return n, nil
}

// ReadIdentity reads the identity of a root. A root without one gives fs.ErrNotExist.
func ReadIdentity(root disk.FS) (Identity, error) {
	f, err := root.Open(identityName, 0)
	if err != nil {
		return Identity{}, err
	}
	defer f.Close() // only read from
	size, err := f.Size()
	if err != nil {
		return Identity{}, err
	}
	b := make([]byte, min(size, maxIdentity+1))
	if n, err := f.ReadAt(b, 0); err != nil && !(errors.Is(err, io.EOF) && n == len(b)) {
		return Identity{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	return ParseIdentity(b)
}

// WriteIdentity makes id the durable identity of a root.
func WriteIdentity(root disk.FS, id *Identity) error {
	err := writeWhole(root, identityTemp, AppendIdentity(nil, id))
	if err == nil {
		err = root.Rename(identityTemp, identityName)
	}
	if err == nil {
		err = root.SyncDir(".")
	}
	if err != nil {
		return fmt.Errorf("writing the root's identity: %w", err)
	}
	return nil
}

func writeWhole(root disk.FS, name string, b []byte) error {
	f, err := root.Open(name, disk.Create)
	if err != nil {
		return err
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// ErrForeign reports a root that is not what the server was started for.
var ErrForeign = errors.New("the root belongs elsewhere")

// OpenIdentity reads the identity of a server's root before its log and store are opened. An empty root is given one,
// and one that belongs to no member is made ready to join. random is where new identities come from.
func OpenIdentity(root disk.FS, id cell.ID, random io.Reader) (Identity, error) {
	found, err := openIdentity(root, id, random)
	if err == nil && found.Number == 0 {
		err = vacate(root, &found)
	}
	return found, err
}

// openIdentity reads the identity of a server's root, and gives an empty root one.
func openIdentity(root disk.FS, id cell.ID, random io.Reader) (Identity, error) {
	found, err := ReadIdentity(root)
	switch {
	case err == nil && found.ID != id:
		return found, fmt.Errorf("%w: it is server %d's", ErrForeign, found.ID)
	case err == nil || !errors.Is(err, fs.ErrNotExist):
		return found, err
	}
	used, err := HasData(root)
	if err != nil {
		return found, err
	}
	if used {
		return found, fmt.Errorf("%w: there is data, and no file %q to say whose", ErrIdentity, identityName)
	}
	if found, err = NewIdentity(id, random); err != nil {
		return found, err
	}
	return found, WriteIdentity(root, &found)
}

// HasData says whether anything was ever kept in a root.
func HasData(root disk.FS) (bool, error) {
	entries, err := root.ReadDir(".")
	if err != nil {
		return false, fmt.Errorf("looking into the root: %w", err)
	}
	for _, e := range entries {
		if e.Name == "log" || e.Name == "checkpoint" || e.Name == "data" || e.Name == "prepared" {
			return true, nil
		}
	}
	return false, nil
}

// hashFounders gives the same founders the same cell, whoever of them computes it.
func hashFounders(fs []Founder) (c wire.CellID) {
	h := sha256.New()
	h.Write([]byte("PSS cell founded by"))
	for _, f := range fs {
		h.Write([]byte{byte(f.ID)})
		h.Write(f.Root[:])
	}
	copy(c[:], h.Sum(nil))
	return c
}
