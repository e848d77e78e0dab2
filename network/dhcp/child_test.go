//go:build linux

package dhcp

// childMain is what the test binary does when a test runs it as a program of its own.
func childMain() {}
