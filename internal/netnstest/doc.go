// Package netnstest makes network namespaces for tests: what a test does in one reaches nothing else, and it is gone with
// the test, also when the test's process is killed, because nothing but an open file holds it.
package netnstest
