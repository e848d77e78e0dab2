package guest

import (
	"fmt"
	"os"
)

// diskBytes is the size of the guest's disk; it takes almost no space.
const diskBytes = 64 << 20

// writeDisk writes the machine's disk: all zeros, but for a first sector that says what it is. The guest keeps its count of
// boots in the second.
func writeDisk(file string) error {
	content := []byte("dewpoint guest disk: no partitions, no file system; the guest runs from its ramdisk\n")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	if err := os.Truncate(file, diskBytes); err != nil {
		return fmt.Errorf("guest: %w", err)
	}
	return nil
}
