package linux

import (
	"testing"

	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/networktest"
)

func TestContract(t *testing.T) {
	networktest.TestManager(t, func(t *testing.T) networktest.Open {
		ns := netnstest.New(t)
		return func() (network.Manager, error) { return New(Config{NetNS: ns.Path()}) }
	})
}
