// Package testneed says what a test needs of the machine it runs on.
//
// A test that needs root, or a program that is not there, skips with the reason when it is run by hand. With
// DEWPOINT_REQUIRE=all in the environment, as under `make test`, it fails instead: on the machines that prove the
// project nothing is skipped.
package testneed

import (
	"os"
	"os/exec"
	"testing"
)

// Root needs the test to run as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "needs root")
	}
}

// Tools needs programs in PATH.
func Tools(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Missing(t, "needs the program "+name)
		}
	}
}

// Slow is for tests that run for real and take longer than a newcomer's `go test ./...` should: they run only under
// `make test`.
func Slow(t testing.TB) {
	t.Helper()
	if os.Getenv("DEWPOINT_REQUIRE") != "all" {
		t.Skip("takes long: runs under make test (DEWPOINT_REQUIRE=all)")
	}
}

// Missing ends the test: skipped by hand, failed where everything is required.
func Missing(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("DEWPOINT_REQUIRE") == "all" {
		t.Fatal(reason + " (DEWPOINT_REQUIRE=all)")
	}
	t.Skip(reason)
}
