package pss

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// The attributes of a volume that units use. The names are part of the format.
const (
	stateAttr    = "scsi.state"    // what backstore.StateKeeper keeps
	identityAttr = "scsi.identity" // 16 bytes that name a shared volume to initiators
	identityLen  = 16
)

// errOlder is a request that was decided on by another state than the one there is.
var errOlder = fmt.Errorf("%w: before the request was submitted", backstore.ErrStateChanged)

// identify reads the identity of a shared volume, and gives it one if it has none.
func identify(ctx context.Context, v *pss.Volume) (string, error) {
	for {
		id, version, err := v.Attr(ctx, identityAttr)
		switch {
		case err != nil:
			return "", err
		case version > 0 && len(id) != identityLen:
			return "", fmt.Errorf("attribute %s has %d bytes, not %d", identityAttr, len(id), identityLen)
		case version > 0:
			return string(id), nil
		}
		id = make([]byte, identityLen)
		rand.Read(id)
		_, err = v.SetAttr(ctx, identityAttr, id, 0)
		switch {
		case errors.Is(err, pss.ErrMoved):
			err = v.Renew(ctx)
		case errors.Is(err, pss.ErrVersion):
			err = nil // somebody else was faster
		}
		if err != nil {
			return "", err
		}
	}
}

// LoadState implements backstore.StateKeeper.
func (s *store) LoadState(ctx context.Context) ([]byte, uint64, error) {
	v := s.volume.Load()
	if v == nil {
		return nil, 0, fmt.Errorf("%w: %s", backstore.ErrBusy, *s.waiting.Load())
	}
	ctx, cancel := s.limited(ctx)
	defer cancel()
	if !s.shared {
		value, version, err := v.Attr(ctx, stateAttr)
		return value, version, translate(err)
	}
	s.suspend()
	// A token that is still the volume's need not be renewed, which would cost the cell an operation.
	same, err := v.TokenCurrent(ctx)
	if err == nil && !same {
		err = v.Renew(ctx)
	}
	if err != nil {
		return nil, 0, translate(err)
	}
	// The token first, then the state: should the state change in between, the token is too old already.
	value, version, err := v.Attr(ctx, stateAttr)
	if err != nil {
		return nil, 0, translate(err)
	}
	s.resume(version)
	return value, version, nil
}

// SaveState implements backstore.StateKeeper.
func (s *store) SaveState(ctx context.Context, value []byte, ifVersion uint64) (uint64, error) {
	v := s.volume.Load()
	if v == nil {
		return 0, fmt.Errorf("%w: %s", backstore.ErrBusy, *s.waiting.Load())
	}
	ctx, cancel := s.limited(ctx)
	defer cancel()
	if !s.shared {
		version, err := v.SetAttr(ctx, stateAttr, value, ifVersion)
		return version, translate(err)
	}
	s.suspend()
	version, err := v.SetAttr(ctx, stateAttr, value, ifVersion, pss.Bump)
	if err != nil {
		return 0, translate(err)
	}
	s.resume(version)
	return version, nil
}

// limited is a context that ends with the unit's time-out, if it has one.
func (s *store) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.timeout > 0 {
		return context.WithTimeout(ctx, s.timeout)
	}
	return context.WithCancel(ctx)
}

// enter says whether a request that was allowed by a version of the state may be submitted now; then left has to
// be called when it was. The volume keeps its token in between.
func (s *store) enter(version uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.current || s.version != version {
		return false
	}
	s.entering++
	return true
}

func (s *store) left() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entering--; s.entering == 0 {
		s.idle.Broadcast()
	}
}

// suspend lets no request through until resume, and returns when none is being submitted.
func (s *store) suspend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = false
	for s.entering > 0 {
		s.idle.Wait()
	}
}

// resume lets requests through that are allowed by this version of the state.
func (s *store) resume(version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version, s.current = version, true
}

// stillAllowed says, after a read was answered, whether the state by which it was allowed was the volume's until
// then.
func (s *store) stillAllowed(version uint64) error {
	ctx, cancel := s.limited(s.ctx)
	defer cancel()
	same, err := s.volume.Load().TokenCurrent(ctx)
	if err != nil {
		return translate(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The token that was asked about belongs to this version only if the version has not changed meanwhile.
	if !same || !s.current || s.version != version {
		return fmt.Errorf("%w: before the data was read", backstore.ErrStateChanged)
	}
	return nil
}
