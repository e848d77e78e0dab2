package compute_test

import (
	"net"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

func goodMachine() compute.Machine {
	return compute.Machine{
		ID: "0b0e7f62-6a2c-4a3b-8f3d-1f0a5c0d9e11", Epoch: 1, Name: "web", VCPUs: 1, MemoryMiB: 64,
		Kernel: "/k", Ramdisk: "/r", Cmdline: "console=ttyS0", ConsoleLog: "/log",
		Disks: []compute.Disk{{Path: "/d", Format: "qcow2", Serial: "vol-1", Backing: []compute.BackingFile{{Path: "/b", Format: "raw"}}}},
		NICs:  []compute.NIC{{Tap: "tap0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, MTU: 1450}},
	}
}

func TestValidate(t *testing.T) {
	require.NoError(t, goodMachine().Validate())
	for _, c := range []struct {
		want  string
		spoil func(*compute.Machine)
	}{
		{`ID "x" is not a UUID`, func(m *compute.Machine) { m.ID = "x" }},
		{"is not a UUID", func(m *compute.Machine) { m.ID = strings.ToUpper(m.ID) }},
		{"is not a UUID", func(m *compute.Machine) { m.ID = strings.Replace(m.ID, "-", "0", 1) }},
		{"Name is 256 bytes long, at most 255", func(m *compute.Machine) { m.Name = strings.Repeat("n", 256) }},
		{"Name has control characters", func(m *compute.Machine) { m.Name = "a\x00" }},
		{"Name has control characters", func(m *compute.Machine) { m.Name = "a\xff" }},
		{"VCPUs is 0, must be 1 to 1024", func(m *compute.Machine) { m.VCPUs = 0 }},
		{"MemoryMiB is -1, must be 1 to", func(m *compute.Machine) { m.MemoryMiB = -1 }},
		{"Ramdisk needs a Kernel", func(m *compute.Machine) { m.Kernel = "" }},
		{"Cmdline needs a Kernel", func(m *compute.Machine) { m.Kernel, m.Ramdisk = "", "" }},
		{"nothing to boot from", func(m *compute.Machine) { m.Kernel, m.Ramdisk, m.Cmdline, m.Disks = "", "", "", nil }},
		{`Kernel "k" is not an absolute path`, func(m *compute.Machine) { m.Kernel = "k" }},
		{`Ramdisk "r" is not an absolute path`, func(m *compute.Machine) { m.Ramdisk = "r" }},
		{"Cmdline is 2048 bytes long, at most 2047", func(m *compute.Machine) { m.Cmdline = strings.Repeat("c", 2048) }},
		{"Cmdline has control characters", func(m *compute.Machine) { m.Cmdline = "a\nb" }},
		{`ConsoleLog "log" is not`, func(m *compute.Machine) { m.ConsoleLog = "log" }},
		{"27 Disks, at most 26", func(m *compute.Machine) { m.Disks = make([]compute.Disk, 27) }},
		{"27 NICs, at most 26", func(m *compute.Machine) { m.NICs = make([]compute.NIC, 27) }},
		{`Disks[0].Path "" is not`, func(m *compute.Machine) { m.Disks[0].Path = "" }},
		{`Disks[0].Format is "", must be "raw" or "qcow2"`, func(m *compute.Machine) { m.Disks[0].Format = "" }},
		{"Serial is 21 characters long, at most 20", func(m *compute.Machine) { m.Disks[0].Serial = strings.Repeat("s", 21) }},
		{"has other characters", func(m *compute.Machine) { m.Disks[0].Serial = "a/b" }},
		{"Disks[0].Backing[1] is below a raw file", func(m *compute.Machine) {
			m.Disks[0].Backing = []compute.BackingFile{{Path: "/b", Format: "raw"}, {Path: "/c", Format: "raw"}}
		}},
		{"Backing[0] is below a raw file", func(m *compute.Machine) {
			m.Disks[0].Format, m.Disks[0].Backing = "raw", []compute.BackingFile{{Path: "/b", Format: "raw"}}
		}},
		{`Backing[0].Path "b" is not`, func(m *compute.Machine) { m.Disks[0].Backing = []compute.BackingFile{{Path: "b", Format: "raw"}} }},
		{`Backing[0].Format is "", must be`, func(m *compute.Machine) { m.Disks[0].Backing = []compute.BackingFile{{Path: "/b"}} }},
		{"9 Backing files, at most 8", func(m *compute.Machine) { m.Disks[0].Backing = make([]compute.BackingFile, 9) }},
		{`NICs[0].Tap "" is not`, func(m *compute.Machine) { m.NICs[0].Tap = "" }},
		{`NICs[0].Tap`, func(m *compute.Machine) { m.NICs[0].Tap = "sixteen-chars-xx" }},
		{`NICs[0].Tap`, func(m *compute.Machine) { m.NICs[0].Tap = ".." }},
		{"NICs[0].MAC", func(m *compute.Machine) { m.NICs[0].MAC = nil }},
		{"NICs[0].MAC", func(m *compute.Machine) { m.NICs[0].MAC = make(net.HardwareAddr, 6) }},
		{"NICs[0].MAC", func(m *compute.Machine) { m.NICs[0].MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} }},
		{"NICs[0].MTU is 67, must be 68 to 65535", func(m *compute.Machine) { m.NICs[0].MTU = 67 }},
	} {
		m := goodMachine()
		c.spoil(&m)
		err := m.Validate()
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, c.want)
	}
}
