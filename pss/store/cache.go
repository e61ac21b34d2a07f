package store

import "sync"

// cache is a bounded map of things that are costly to get, shared by any number of goroutines.
// What is pinned stays; of the rest, what was not used for longest, about, makes room (CLOCK).
// Values are made empty and filled by whoever pins them, under a lock of their own; an evicted
// value is emptied by drop and used again for another key.
type cache[K comparable, V any] struct {
	shards []shard[K, V]
	hash   func(K) uint64
	drop   func(*V)
}

type shard[K comparable, V any] struct {
	mu    sync.Mutex
	slots map[K]*slot[K, V]
	ring  []*slot[K, V] // every slot of the map, in no order
	hand  int           // the next of ring to look at
	limit int           // slots to keep; more only while they are pinned
}

type slot[K comparable, V any] struct {
	key   K
	place int // in ring; -1 when taken out
	pins  int
	used  bool // since the hand last passed
	value V
}

// newCache makes a cache that keeps up to limit values, spread over some shards.
func newCache[K comparable, V any](limit, shards int, hash func(K) uint64, drop func(*V)) *cache[K, V] {
	shards = max(1, min(shards, limit/4))
	c := &cache[K, V]{shards: make([]shard[K, V], shards), hash: hash, drop: drop}
	for i := range c.shards {
		c.shards[i].limit = max(1, limit/shards)
	}
	return c
}

func (c *cache[K, V]) shard(k K) *shard[K, V] {
	if len(c.shards) == 1 {
		return &c.shards[0]
	}
	return &c.shards[c.hash(k)%uint64(len(c.shards))]
}

// pin returns the slot of k, which may be new and then holds an empty value. It stays until unpin.
func (c *cache[K, V]) pin(k K) *slot[K, V] {
	h := c.shard(k)
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.slots[k]
	if s == nil {
		s = h.room()
		if s == nil {
			s = &slot[K, V]{place: len(h.ring)}
			h.ring = append(h.ring, s)
		} else {
			delete(h.slots, s.key)
			c.drop(&s.value)
		}
		if h.slots == nil {
			h.slots = make(map[K]*slot[K, V])
		}
		s.key = k
		h.slots[k] = s
	}
	s.used = true
	s.pins++
	return s
}

// room finds a slot that can be used for another key, or nil if there is to be a new one.
func (h *shard[K, V]) room() *slot[K, V] {
	if len(h.ring) < h.limit {
		return nil
	}
	for range 2 * len(h.ring) {
		s := h.ring[h.hand]
		h.hand = (h.hand + 1) % len(h.ring)
		switch {
		case s.pins > 0:
		case s.used:
			s.used = false
		default:
			return s
		}
	}
	return nil
}

// unpin gives back what pin returned.
func (c *cache[K, V]) unpin(s *slot[K, V]) {
	h := c.shard(s.key)
	h.mu.Lock()
	defer h.mu.Unlock()
	s.pins--
	if s.pins > 0 {
		return
	}
	if s.place >= 0 && len(h.ring) > h.limit {
		h.take(s)
	}
	if s.place < 0 {
		c.drop(&s.value)
	}
}

// take takes s out of the map and the ring.
func (h *shard[K, V]) take(s *slot[K, V]) {
	last := len(h.ring) - 1
	h.ring[s.place] = h.ring[last]
	h.ring[s.place].place = s.place
	h.ring[last] = nil
	h.ring = h.ring[:last]
	s.place = -1
	if h.hand >= last {
		h.hand = 0
	}
	delete(h.slots, s.key)
}

// remove forgets k. Its value is dropped when it is no longer pinned.
func (c *cache[K, V]) remove(k K) {
	h := c.shard(k)
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.slots[k]; s != nil {
		h.take(s)
		if s.pins == 0 {
			c.drop(&s.value)
		}
	}
}

// mix spreads the bits of a key over a hash (the finalizer of splitmix64).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// clear forgets everything.
func (c *cache[K, V]) clear() { c.removeIf(func(K) bool { return true }) }

// removeIf forgets every key that f picks.
func (c *cache[K, V]) removeIf(f func(K) bool) {
	for i := range c.shards {
		h := &c.shards[i]
		h.mu.Lock()
		for j := len(h.ring) - 1; j >= 0; j-- {
			if s := h.ring[j]; f(s.key) {
				h.take(s)
				if s.pins == 0 {
					c.drop(&s.value)
				}
			}
		}
		h.mu.Unlock()
	}
}
