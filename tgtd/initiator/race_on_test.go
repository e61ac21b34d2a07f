//go:build race

package initiator

const raceEnabled = true // sync.Pool drops at random, so that allocations can't be counted
