package pdu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
)

// The errors that decoding returns; all mean that the peer sent something it should not have.
var (
	ErrAHS          = errors.New("malformed additional header segment")
	ErrText         = errors.New("malformed text key")
	ErrHeaderDigest = errors.New("header digest differs")
	ErrDataDigest   = errors.New("data digest differs")
	ErrTooLong      = errors.New("data segment too long")
)

// MaxCDB is the longest command descriptor block that an AHS can extend the header's to (SPC-4 4.2.3).
const MaxCDB = 260

// AHS types (RFC 7143 11.2.2.2).
const (
	ahsExtendedCDB = 1
	ahsReadLength  = 2
)

// AHS is what the additional header segments of a SCSI command say.
type AHS struct {
	ExtendedCDB   []byte // the bytes after the 16 in the header; refers to the segment
	ReadLength    uint32 // expected bytes of the read direction of a bidirectional command
	HasReadLength bool
}

// ParseAHS takes the additional header segments apart. It returns ErrAHS for a segment that is cut
// short, comes twice, is of an unknown type, or makes a CDB of more than MaxCDB bytes.
func ParseAHS(b []byte) (AHS, error) {
	var a AHS
	for len(b) > 0 {
		if len(b) < 4 {
			return a, fmt.Errorf("%w: %d bytes left", ErrAHS, len(b))
		}
		// The length counts what follows the type byte, without padding (RFC 7143 11.2.2.1).
		n, kind := int(binary.BigEndian.Uint16(b)), b[2]
		end := 3 + n
		if n < 1 || end > len(b) {
			return a, fmt.Errorf("%w: length %d of %d", ErrAHS, n, len(b))
		}
		body := b[4:max(end, 4)]
		switch {
		case kind == ahsExtendedCDB && a.ExtendedCDB == nil && len(body) > 0 && len(body) <= MaxCDB-16:
			a.ExtendedCDB = body
		case kind == ahsReadLength && !a.HasReadLength && len(body) == 4:
			a.ReadLength, a.HasReadLength = binary.BigEndian.Uint32(body), true
		default:
			return a, fmt.Errorf("%w: type %d, length %d", ErrAHS, kind, n)
		}
		b = b[min(end+Padding(end), len(b)):]
	}
	return a, nil
}

// AppendAHS appends the additional header segments for a CDB longer than 16 bytes and for a
// bidirectional read length; either may be absent (nil, hasRead false).
func AppendAHS(b []byte, extendedCDB []byte, readLength uint32, hasRead bool) []byte {
	if len(extendedCDB) > 0 {
		b = binary.BigEndian.AppendUint16(b, uint16(len(extendedCDB)+1))
		b = append(b, ahsExtendedCDB, 0)
		b = append(b, extendedCDB...)
		b = append(b, make([]byte, Padding(len(extendedCDB)))...)
	}
	if hasRead {
		b = append(b, 0, 5, ahsReadLength, 0)
		b = binary.BigEndian.AppendUint32(b, readLength)
	}
	return b
}

// maxKeyLength is the longest key name in bytes (RFC 7143 6.1).
const maxKeyLength = 63

// KeyValue is one text key (RFC 7143 6.1).
type KeyValue struct{ Key, Value string }

// AppendText appends key=value and its NUL.
func AppendText(b []byte, key, value string) []byte {
	b = append(b, key...)
	b = append(b, '=')
	b = append(b, value...)
	return append(b, 0)
}

// ParseText splits the data of text and login PDUs into keys, in their order. A missing last NUL is
// forgiven, as is padding. It returns ErrText for a key without a value, and for a name that is empty or
// longer than 63 bytes. What it allocates is bounded by the length of b, which the caller bounds.
func ParseText(b []byte) ([]KeyValue, error) {
	var kvs []KeyValue
	for len(b) > 0 {
		item := b
		if i := indexNUL(b); i >= 0 {
			item, b = b[:i], b[i+1:]
		} else {
			b = nil
		}
		if len(item) == 0 {
			continue
		}
		key, value, ok := strings.Cut(string(item), "=")
		switch {
		case !ok:
			return nil, fmt.Errorf("%w: no = in %.80q", ErrText, item)
		case key == "" || len(key) > maxKeyLength:
			return nil, fmt.Errorf("%w: name of %d bytes", ErrText, len(key))
		}
		kvs = append(kvs, KeyValue{key, value})
	}
	return kvs, nil
}

func indexNUL(b []byte) int {
	for i, c := range b {
		if c == 0 {
			return i
		}
	}
	return -1
}

// castagnoli is the polynomial of iSCSI's digests (RFC 7143 13.1).
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Digest continues the CRC32C crc, 0 at the start, over p.
func Digest(crc uint32, p []byte) uint32 { return crc32.Update(crc, castagnoli, p) }

// DigestSize is the length of a digest in bytes.
const DigestSize = 4

// PutDigest stores a digest as it travels, least significant byte first.
func PutDigest(b []byte, crc uint32) { binary.LittleEndian.PutUint32(b, crc) }

// GetDigest loads a digest as it travels.
func GetDigest(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// Digests says which digests a connection uses.
type Digests struct{ Header, Data bool }

// PDU is a whole protocol data unit.
type PDU struct {
	Header Header
	AHS    []byte
	Data   []byte // without padding
}

// Append appends the PDU as it travels, its lengths set, padded and with digests.
func (p *PDU) Append(b []byte, d Digests) []byte {
	p.Header.SetAHSLength(len(p.AHS))
	p.Header.SetDataLength(len(p.Data))
	at := len(b)
	b = append(b, p.Header[:]...)
	b = append(b, p.AHS...)
	if d.Header {
		b = binary.LittleEndian.AppendUint32(b, Digest(0, b[at:]))
	}
	if len(p.Data) == 0 {
		return b
	}
	at = len(b)
	b = append(b, p.Data...)
	b = append(b, make([]byte, Padding(len(p.Data)))...)
	if d.Data {
		b = binary.LittleEndian.AppendUint32(b, Digest(0, b[at:]))
	}
	return b
}

// Read reads one PDU whose data segment has at most maxData bytes. Besides the reader's errors it
// returns ErrTooLong, ErrHeaderDigest and ErrDataDigest. It allocates the PDU's segments.
func Read(r io.Reader, d Digests, maxData int) (*PDU, error) {
	p := new(PDU)
	if _, err := io.ReadFull(r, p.Header[:]); err != nil {
		return nil, fmt.Errorf("reading a PDU header: %w", err)
	}
	ahs := make([]byte, p.Header.AHSLength()+digestLength(d.Header))
	if _, err := io.ReadFull(r, ahs); err != nil {
		return nil, fmt.Errorf("reading additional headers: %w", err)
	}
	p.AHS = ahs[:p.Header.AHSLength()]
	if d.Header && Digest(Digest(0, p.Header[:]), p.AHS) != GetDigest(ahs[len(p.AHS):]) {
		return nil, ErrHeaderDigest
	}
	n := p.Header.DataLength()
	if n > maxData {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLong, n, maxData)
	}
	if n == 0 {
		return p, nil
	}
	padded := n + Padding(n)
	data := make([]byte, padded+digestLength(d.Data))
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("reading a data segment of %d bytes: %w", n, err)
	}
	if d.Data && Digest(0, data[:padded]) != GetDigest(data[padded:]) {
		return nil, ErrDataDigest
	}
	p.Data = data[:n]
	return p, nil
}

func digestLength(on bool) int {
	if on {
		return DigestSize
	}
	return 0
}
