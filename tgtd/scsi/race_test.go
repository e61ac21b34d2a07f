//go:build race

package scsi

// raceEnabled: the race detector makes sync.Pool drop items at random, so allocations can't be counted.
const raceEnabled = true
