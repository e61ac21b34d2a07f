package main

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(goldenEnv); path != "" {
		os.Exit(playInside(path))
	}
	goleak.VerifyTestMain(m)
}
