package fakecompute_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/computetest"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
)

func TestContract(t *testing.T) {
	computetest.TestHypervisor(t, func(t *testing.T) computetest.Env {
		h := fakecompute.New(fakecompute.Config{})
		host := h.Host()
		return computetest.Env{
			Driver: h, Dir: "/console", Banner: "fakecompute: ",
			Machine: func() (compute.Machine, error) {
				m := machine(1)
				m.ID = uuid.NewString()
				m.ConsoleLog += m.ID
				return m, nil
			},
			PowerOff: host.PowerOff, Crash: host.Crash, Deaf: host.Deaf,
			Foreign: func() (string, func(), error) {
				id := uuid.NewString()
				host.AddForeign(compute.Domain{ID: id, Name: "theirs"})
				return id, func() { host.Remove(id) }, nil
			},
			Restart: func() error { host.Restart(); return nil },
		}
	})
}
