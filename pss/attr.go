package pss

import (
	"bytes"
	"context"
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/pss/op"
)

// Those who share a volume agree through its attributes. A change of an attribute with Bump gives the volume a
// new token in the same step, so that a change of data which another sharer decided on by the old value and
// has under way fails with ErrMoved and has no effect: he calls Renew, reads the attribute, decides again.
// For reads, which carry no token, TokenCurrent asks afterwards whether the decision held.

// AttrOption changes what SetAttr does.
type AttrOption uint16

// The options of SetAttr; they may be combined.
const (
	Bump   = AttrOption(op.FlagBump)   // give those who share the volume a new token
	Remove = AttrOption(op.FlagRemove) // remove the attribute; the value is empty
)

// Attr reads an attribute: its value of op.MaxAttr bytes at most, and its version. The version of one that is
// not there is 0. The answer is as new as the call.
func (v *Volume) Attr(ctx context.Context, name string) (value []byte, version uint64, err error) {
	a, err := v.cell.ask(ctx, op.Query{Code: op.AttrGet, Object: v.object, Path: name})
	if err != nil {
		return nil, 0, fmt.Errorf("attribute %q of volume %q: %w", name, v.path, err)
	}
	return a.Value, a.Version, nil
}

// SetAttr sets an attribute if it has the version ifVersion, 0 meaning that it is not there, and returns its
// new version, which no attribute of the cell had before; 0 if it was removed. It is an operation under the
// volume's token: it fails with ErrFenced and ErrMoved as a write does, with ErrVersion if the attribute has
// another version, and with op.TooMany at the limits of 16 attributes of a volume and 16 MiB in the cell.
// With Bump, which only those who opened the volume Shared can ask for, requests of this Volume that are
// under way fail with ErrMoved too; later ones have the new token.
func (v *Volume) SetAttr(ctx context.Context, name string, value []byte, ifVersion uint64, opts ...AttrOption) (version uint64, err error) {
	h := op.Header{Code: op.AttrSet, Object: v.object, Token: v.token.Load(), Length: uint64(len(value))}
	for _, o := range opts {
		h.Flags |= uint16(o)
	}
	if len(value) > op.MaxAttr || len(name) > op.MaxName {
		return 0, fmt.Errorf("attribute %q of volume %q, %d bytes: %w", name, v.path, len(value), op.Invalid)
	}
	value = bytes.Clone(value) // a request that is abandoned may still be sent
	r := &Request{Op: opPropose, header: h, args: op.AttrArgs(name, ifVersion, value), Data: value, total: 1}
	if err := v.cell.do(ctx, r); err != nil {
		return 0, fmt.Errorf("set attribute %q of volume %q: %w", name, v.path, err)
	}
	v.advance(r.result.Token)
	return r.result.Value, nil
}

// Renew takes the present token of a volume that was opened Shared, after ErrMoved. It fails with ErrFenced
// if somebody has opened the volume for himself alone since.
func (v *Volume) Renew(ctx context.Context) error {
	h := op.Header{Code: op.VolumeOpen, Flags: op.FlagShared | op.FlagRenew, Object: v.object, Token: v.token.Load()}
	res, err := v.cell.proposePath(ctx, h, v.path)
	if err != nil {
		return fmt.Errorf("renew volume %q: %w", v.path, err)
	}
	v.advance(res.Token)
	v.size.Store(int64(res.Value))
	return nil
}

// advance takes a token if it is newer: answers may overtake each other on the way to their callers.
func (v *Volume) advance(token uint64) {
	for old := v.token.Load(); old < token && !v.token.CompareAndSwap(old, token); old = v.token.Load() {
	}
}

// TokenCurrent says whether the token that this Volume holds is the volume's at some moment between call and
// return. A read that was answered before the call and whose sharer gets true was answered before any change
// that he does not know of.
func (v *Volume) TokenCurrent(ctx context.Context) (bool, error) {
	held := v.token.Load()
	a, err := v.cell.ask(ctx, op.Query{Code: op.TokenGet, Object: v.object})
	if err != nil {
		return false, fmt.Errorf("token of volume %q: %w", v.path, err)
	}
	return a.Version == held, nil
}
