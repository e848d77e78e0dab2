package libvirt

import (
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"libvirt.org/go/libvirtxml"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

func TestConfig(t *testing.T) {
	for want, cfg := range map[string]Config{
		`Config.Socket "s" is not an absolute path`:               {Socket: "s"},
		`Config.Type is "xen", must be "kvm" or "qemu"`:           {Type: "xen"},
		`Config.Cache is "unsafe", must be "writeback" or "none"`: {Cache: "unsafe"},
		"Config.SparePorts is 17, must be 1 to 16":                {SparePorts: 17},
		"Config.Connections is -1":                                {Connections: -1},
		"Config.Timeout is -1s":                                   {Timeout: -time.Second},
	} {
		_, err := New(cfg)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, want)
	}
	h, err := New(Config{Socket: filepath.Join(t.TempDir(), "none")})
	require.NoError(t, err)
	defer h.Close()
	_, err = h.List(t.Context())
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
}

func fullMachine() compute.Machine {
	return compute.Machine{
		ID: "0b0e7f62-6a2c-4a3b-8f3d-1f0a5c0d9e11", Epoch: 1 << 40, Name: `a & "b" <c>`, VCPUs: 2, MemoryMiB: 512,
		Disks: []compute.Disk{
			{Path: "/i/disk.qcow2", Format: "qcow2", Serial: "root", Backing: []compute.BackingFile{
				{Path: "/i/middle.qcow2", Format: "qcow2"}, {Path: "/i/base & more.raw", Format: "raw"},
			}},
			{Path: "/i/config.iso", Format: "raw", ReadOnly: true},
			{Path: "/i/data.raw", Format: "raw", Serial: "data", Device: "sdc"},
		},
		NICs: []compute.NIC{
			{Tap: "tap0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, MTU: 1450}, {Tap: "tap1", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}},
		},
		ConsoleLog: "/i/console.log",
	}
}

// TestDomainXML compares what libvirt is told with files that were read by people. -update writes them.
func TestDomainXML(t *testing.T) {
	direct := fullMachine()
	direct.Kernel, direct.Ramdisk, direct.Cmdline, direct.Disks, direct.NICs = "/k", "/r", "console=ttyS0 a=<b>", nil, nil
	for name, c := range map[string]struct {
		m    compute.Machine
		cfg  Config
		arch string
	}{
		"disk-kvm":    {fullMachine(), Config{Type: "kvm", Cache: "none"}, "x86_64"},
		"kernel-qemu": {direct, Config{Type: "qemu", SparePorts: 1}, "x86_64"},
		"disk-arm":    {fullMachine(), Config{Type: "kvm"}, "aarch64"},
	} {
		require.NoError(t, c.m.Validate())
		h, err := New(c.cfg)
		require.NoError(t, err)
		h.arch = c.arch
		got, err := h.domainXML(c.m)
		require.NoError(t, err)
		file := filepath.Join("testdata", name+".xml")
		if *update {
			require.NoError(t, os.WriteFile(file, []byte(got+"\n"), 0o644))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, string(want), got+"\n", file)
		var d libvirtxml.Domain
		require.NoError(t, d.Unmarshal(got))
		require.Equal(t, c.m.Name, d.Title)
		i, err := parseIdentity(d.Metadata.XML, c.m.ID)
		require.NoError(t, err)
		require.Equal(t, c.m.Epoch, i.Epoch)
	}
}

var update = flag.Bool("update", false, "write testdata")

func TestNoFormatIsLeftOpen(t *testing.T) {
	h, err := New(Config{Type: "qemu"})
	require.NoError(t, err)
	text, err := h.domainXML(fullMachine())
	require.NoError(t, err)
	var d libvirtxml.Domain
	require.NoError(t, d.Unmarshal(text))
	for _, disk := range d.Devices.Disks {
		require.NotEmpty(t, disk.Driver.Type)
		below := disk.BackingStore
		for ; below != nil && below.BackingStore != nil; below = below.BackingStore {
			require.NotEmpty(t, below.Format.Type)
		}
		require.NotNil(t, below, "the chain of %s has no end", disk.Source.File.File)
		require.Nil(t, below.Format)
	}
}

func FuzzParseIdentity(f *testing.F) {
	id := fullMachine().ID
	f.Add(metadata(id, 7), id)
	f.Add(`<instance id="x" epoch="-1"/>`, "x")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, text, id string) {
		if i, err := parseIdentity(text, id); err == nil {
			require.Equal(t, id, i.ID)
		} else {
			require.Zero(t, i)
		}
	})
}

func FuzzConsoleLog(f *testing.F) {
	f.Add("<domain><devices><serial type='pty'><log file='/x' append='on'/></serial></devices></domain>")
	f.Add("<domain/>")
	f.Fuzz(func(t *testing.T, text string) {
		if log, err := consoleLog(text); err != nil {
			require.ErrorIs(t, err, errdefs.ErrInternal)
			require.Empty(t, log)
		}
	})
}

func FuzzVirtualizes(f *testing.F) {
	f.Add("flags\t\t: fpu vmx sse")
	f.Add("flags: fpu\nvmx flags : svm")
	f.Fuzz(func(t *testing.T, text string) {
		if virtualizes(strings.NewReader(text)) {
			require.Contains(t, text, "flags")
		}
	})
}

func TestVirtualizes(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                       false,
		"processor\t: 0\nflags\t\t: fpu vme sse": false,
		"processor\t: 0\nflags\t\t: fpu vmx sse\npower management:": true,
		"flags : svm":          true,
		"flags : svm_lock npt": false,
		"vmx flags\t: vmx":     false,
		"bugs : vmx":           false,
	} {
		require.Equal(t, want, virtualizes(strings.NewReader(text)), text)
	}
}

func TestConsoleAcrossAFileThatWasMoved(t *testing.T) {
	h, _ := overFake(t, Config{})
	m := testMachine(t.TempDir())
	require.NoError(t, h.Create(t.Context(), m))
	require.NoError(t, os.WriteFile(m.ConsoleLog+".0", []byte("before "), 0o600))
	require.NoError(t, os.WriteFile(m.ConsoleLog, []byte("now"), 0o600))
	for max, want := range map[int]string{1: "w", 3: "now", 5: "e now", 100: "before now"} {
		got, err := h.Console(t.Context(), m.ID, max)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	require.NoError(t, os.Remove(m.ConsoleLog))
	require.NoError(t, os.Mkdir(m.ConsoleLog, 0o700))
	_, err := h.Console(t.Context(), m.ID, 1)
	require.ErrorIs(t, err, errdefs.ErrInternal)
}
