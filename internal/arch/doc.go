// Package arch holds the architecture as a test: which package may import which, which libraries from outside and why, and
// the habits that every file keeps.
//
// The house is the table in table_test.go, from the ground up. A package imports what its line names and nothing else; a line
// names only lines above it, so imports run downwards and can't run in a circle. A driver, a fake or a suite lives in the
// directory of its interface and imports that one package of ours alone. A package that has no line fails the test: to
// add one is to decide where it belongs.
//
// The test reads the tree by itself, all systems and build tags at once, instead of asking `go list`, whose answer the test
// cache does not see change.
package arch
