package linux

import (
	"testing"

	"github.com/dewpoint-cloud/dewpoint/internal/nodevm"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// The rows of the contract that are about VLANs run in a virtual machine.
func TestContractInNodeVM(t *testing.T) {
	testneed.Slow(t)
	nodevm.Run(t, nodevm.Config{Tests: "^TestContract$/VLAN"})
}
