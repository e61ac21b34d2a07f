//go:build race

package store

// raceEnabled says that the race detector is on: it makes sync.Pool forget, and so allocate.
const raceEnabled = true
