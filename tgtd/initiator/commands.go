package initiator

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi/pdu"
)

// Found is a target that discovery told of.
type Found struct {
	Name      string
	Addresses []string // host:port,tag
}

// Discover asks a portal for its targets (SendTargets=All, RFC 7143 appendix C).
func Discover(ctx context.Context, o Options) ([]Found, error) {
	o.Target = ""
	c, err := dial(ctx, &o, newISID(), 0, nil)
	if err != nil {
		return nil, err
	}
	defer c.nc.Close()
	stop := context.AfterFunc(ctx, func() { c.nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := c.nc.SetDeadline(time.Now().Add(loginTimeout)); err != nil {
		return nil, err
	}
	text, err := c.sendTargets()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its targets: %w", o.Portal, err)
	}
	return parseTargets(text)
}

// parseTargets reads the answer to SendTargets, which may have more keys than a negotiation.
func parseTargets(text []byte) ([]Found, error) {
	var found []Found
	for item := range bytes.SplitSeq(text, []byte{0}) {
		key, value, ok := strings.Cut(string(item), "=")
		switch {
		case key == "TargetName" && ok:
			found = append(found, Found{Name: value})
		case key == "TargetAddress" && ok && len(found) > 0:
			at := &found[len(found)-1]
			at.Addresses = append(at.Addresses, value)
		case len(item) > 0:
			return nil, fmt.Errorf("%w: %.80q in a list of targets", ErrProtocol, item)
		}
	}
	return found, nil
}

func (c *conn) sendTargets() ([]byte, error) {
	req := pdu.TextRequest{Final: true, InitiatorTag: 1, TargetTag: pdu.NoTag, CmdSN: c.cmdSN, ExpStatSN: c.expStatSN}
	var all []byte
	data := pdu.AppendText(nil, "SendTargets", "All")
	for len(all) < maxDiscoveryText {
		u := pdu.PDU{Data: data}
		req.Encode(&u.Header)
		if _, err := c.nc.Write(u.Append(nil, c.digests)); err != nil {
			return nil, err
		}
		r, err := pdu.Read(c.r, c.digests, maxRecvSegment)
		if err != nil {
			return nil, err
		}
		if r.Header.Opcode() != pdu.OpTextResponse {
			return nil, fmt.Errorf("%w: opcode %#x for a text response", ErrProtocol, r.Header.Opcode())
		}
		var resp pdu.TextResponse
		resp.Decode(&r.Header)
		all = append(all, r.Data...)
		if resp.Final {
			return all, nil
		}
		req.TargetTag, req.ExpStatSN, data = resp.TargetTag, resp.StatSN+1, nil
		req.CmdSN++
	}
	return nil, fmt.Errorf("%w: a SendTargets answer of more than %d bytes", ErrProtocol, maxDiscoveryText)
}

// SetRead makes t a READ(16) of len(buf) bytes at a block address.
func (t *Task) SetRead(lba uint64, blocks uint32, buf []byte) {
	t.transfer(0x88, lba, blocks)
	t.In, t.Out = buf, nil
}

// SetWrite makes t a WRITE(16).
func (t *Task) SetWrite(lba uint64, blocks uint32, buf []byte) {
	t.transfer(0x8a, lba, blocks)
	t.In, t.Out = nil, buf
}

// SetCompareAndWrite makes t a COMPARE AND WRITE: buf is what to compare, then what to write.
func (t *Task) SetCompareAndWrite(lba uint64, blocks uint8, buf []byte) {
	t.transfer(0x89, lba, 0)
	t.CDB[13] = blocks
	t.In, t.Out = nil, buf
}

// SetFlush makes t a SYNCHRONIZE CACHE(16) of the whole unit.
func (t *Task) SetFlush() {
	t.transfer(0x91, 0, 0)
	t.In, t.Out = nil, nil
}

func (t *Task) transfer(code byte, lba uint64, blocks uint32) {
	t.CDB = [16]byte{0: code}
	binary.BigEndian.PutUint64(t.CDB[2:], lba)
	binary.BigEndian.PutUint32(t.CDB[10:], blocks)
}

// maxAttentions is how many unit attentions Ready clears before it gives up.
const maxAttentions = 8

// Ready clears the unit attentions of a unit with TEST UNIT READY and reports whether it is ready.
func (s *Session) Ready(lun uint64) error {
	var err error
	for range maxAttentions {
		err = s.Do(&Task{LUN: lun})
		var status *StatusError
		if !errors.As(err, &status) || status.Key()>>16 != 6 {
			return err
		}
	}
	return err
}

// Capacity is READ CAPACITY(16): the number of blocks of a unit and their size in bytes.
func (s *Session) Capacity(lun uint64) (blocks uint64, blockBytes int, err error) {
	t := &Task{LUN: lun, CDB: [16]byte{0: 0x9e, 1: 0x10, 13: 32}, In: make([]byte, 32)}
	if err := s.Do(t); err != nil {
		return 0, 0, err
	}
	if t.Moved < 12 {
		return 0, 0, fmt.Errorf("%w: %d bytes of capacity", ErrProtocol, t.Moved)
	}
	return binary.BigEndian.Uint64(t.In) + 1, int(binary.BigEndian.Uint32(t.In[8:])), nil
}

// maxLUNs is how many units LUNs asks for.
const maxLUNs = 256

// LUNs is REPORT LUNS: the numbers of the target's units, in the target's order.
func (s *Session) LUNs() ([]uint64, error) {
	t := &Task{CDB: [16]byte{0: 0xa0}, In: make([]byte, 8+8*maxLUNs)}
	binary.BigEndian.PutUint32(t.CDB[6:], uint32(len(t.In)))
	if err := s.Do(t); err != nil {
		return nil, err
	}
	if t.Moved < 8 {
		return nil, fmt.Errorf("%w: %d bytes of LUNs", ErrProtocol, t.Moved)
	}
	var luns []uint64
	for b := t.In[8:min(t.Moved, 8+int(binary.BigEndian.Uint32(t.In)))]; len(b) >= 8; b = b[8:] {
		n, ok := pdu.DecodeLUN(binary.BigEndian.Uint64(b))
		if !ok {
			return nil, fmt.Errorf("%w: LUN % x", ErrProtocol, b[:8])
		}
		luns = append(luns, n)
	}
	return luns, nil
}

// Inquiry returns the vendor and the product of a unit.
func (s *Session) Inquiry(lun uint64) (vendor, product string, err error) {
	t := &Task{LUN: lun, CDB: [16]byte{0: 0x12, 4: 36}, In: make([]byte, 36)}
	if err := s.Do(t); err != nil {
		return "", "", err
	}
	if t.Moved < 32 {
		return "", "", fmt.Errorf("%w: %d bytes of INQUIRY data", ErrProtocol, t.Moved)
	}
	return strings.TrimSpace(string(t.In[8:16])), strings.TrimSpace(string(t.In[16:32])), nil
}

// ModeSelect6 sends a MODE SELECT(6) with the page format bit and this parameter list.
func (s *Session) ModeSelect6(lun uint64, list []byte) error {
	return s.Do(&Task{LUN: lun, CDB: [16]byte{0: 0x15, 1: 0x10, 4: byte(len(list))}, Out: list})
}

// UnmapBlocks sends an UNMAP of one range.
func (s *Session) UnmapBlocks(lun uint64, lba uint64, blocks uint32) error {
	list := make([]byte, 24)
	binary.BigEndian.PutUint16(list, 22)
	binary.BigEndian.PutUint16(list[2:], 16)
	binary.BigEndian.PutUint64(list[8:], lba)
	binary.BigEndian.PutUint32(list[16:], blocks)
	return s.Do(&Task{LUN: lun, CDB: [16]byte{0: 0x42, 8: 24}, Out: list})
}
