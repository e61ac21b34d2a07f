package store

// OpenFile is a file that the store keeps open.
type OpenFile struct {
	Object uint64
	Label  string
	Name   string // relative to the server's root
	Meta   bool   // it holds records or an index, not blocks
	Users  int    // calls that use it at this moment
}

// OpenFiles lists the files that are kept open, and tells how many are kept at most. Any goroutine may call it.
func (s *Store) OpenFiles() (open []OpenFile, limit int) {
	type found struct {
		key   fileKey
		users int
	}
	var all []found
	for i := range s.files.shards {
		h := &s.files.shards[i]
		h.mu.Lock()
		limit += h.limit
		for _, sl := range h.ring {
			all = append(all, found{sl.key, sl.pins})
		}
		h.mu.Unlock()
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, f := range all {
		o := s.objects[f.key.object]
		if o == nil {
			continue // deleted, and not closed yet
		}
		open = append(open, OpenFile{f.key.object, o.label, f.key.name(o), f.key.kind != fileChunk, f.users})
	}
	return open, limit
}

// CachedRecords tells how many pages of block records are in memory, how many may be, and how large each is in
// bytes. Any goroutine may call it.
func (s *Store) CachedRecords() (pages, limit, pageBytes int) {
	for i := range s.sums.shards {
		h := &s.sums.shards[i]
		h.mu.Lock()
		pages, limit = pages+len(h.ring), limit+h.limit
		h.mu.Unlock()
	}
	return pages, limit, pageSize
}
