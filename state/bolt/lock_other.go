//go:build !unix

package bolt

import "os"

// lock leaves locking to bbolt.
func lock(*os.File) error { return nil }
