package main

import "testing"

// The program has no effect outside its own temporary directory.
func TestItRuns(*testing.T) { main() }
