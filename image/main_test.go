package image

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain also is the process that the tests of kills start and end.
func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		os.Exit(victim(dir))
	}
	goleak.VerifyTestMain(m)
}
