package libvirt

import (
	"fmt"
	"net"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// domainXML describes m to libvirt.
func (h *Hypervisor) domainXML(m compute.Machine) (string, error) {
	d := libvirtxml.Domain{
		Type: h.cfg.Type, Name: "instance-" + m.ID, UUID: m.ID, Title: m.Name,
		Metadata: &libvirtxml.DomainMetadata{XML: metadata(m.ID, m.Epoch)},
		Memory:   &libvirtxml.DomainMemory{Value: uint(m.MemoryMiB), Unit: "MiB"},
		VCPU:     &libvirtxml.DomainVCPU{Placement: "static", Value: uint(m.VCPUs)},
		OS: &libvirtxml.DomainOS{
			Type:   &libvirtxml.DomainOSType{Type: "hvm", Arch: h.arch},
			Kernel: m.Kernel, Initrd: m.Ramdisk, Cmdline: m.Cmdline,
		},
		Features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}},
		CPU:      &libvirtxml.DomainCPU{Mode: "host-model"},
		Clock:    &libvirtxml.DomainClock{Offset: "utc"},
		// A guest must not sleep where only a host can wake it.
		PM: &libvirtxml.DomainPM{
			SuspendToMem: &libvirtxml.DomainPMPolicy{Enabled: "no"}, SuspendToDisk: &libvirtxml.DomainPMPolicy{Enabled: "no"},
		},
		// A guest that ends, whichever way, leaves a domain that is shut off, and the agent decides.
		OnPoweroff: "destroy", OnReboot: "restart", OnCrash: "destroy",
		Devices: &libvirtxml.DomainDeviceList{
			Disks: disks(m, h.cfg.Cache), Interfaces: interfaces(m.NICs), Serials: serial(m.ConsoleLog),
			RNGs: []libvirtxml.DomainRNG{{
				Model: "virtio", Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
			}},
			MemBalloon: &libvirtxml.DomainMemBalloon{Model: "none"},
		},
	}
	if h.cfg.Type == "qemu" {
		d.CPU.Mode = "maximum" // all that emulation knows
	}
	switch h.arch {
	case "x86_64":
		d.OS.Type.Machine = "q35"
		d.Features.APIC = &libvirtxml.DomainFeatureAPIC{}
	case "aarch64":
		d.OS.Type.Machine = "virt"
		if m.Kernel == "" {
			d.OS.Firmware = "efi"
		}
	}
	d.Devices.Controllers = controllers(1 + len(m.Disks) + len(m.NICs) + len(d.Devices.RNGs) + h.cfg.SparePorts)
	return d.Marshal()
}

// controllers gives the machine PCI Express with so many ports, one of them for virtio-scsi, which disks may be on later, and no USB.
func controllers(ports int) []libvirtxml.DomainController {
	index := func(i uint) *uint { return &i }
	all := []libvirtxml.DomainController{
		{Type: "usb", Index: index(0), Model: "none"},
		{Type: "pci", Index: index(0), Model: "pcie-root"},
		{Type: "scsi", Index: index(0), Model: "virtio-scsi"},
	}
	for i := range uint(ports) {
		all = append(all, libvirtxml.DomainController{Type: "pci", Index: index(i + 1), Model: "pcie-root-port"})
	}
	return all
}

func disks(m compute.Machine, cache string) (all []libvirtxml.DomainDisk) {
	for i, d := range m.Disks {
		d.Device = m.Device(i)
		disk := diskXML(m.ID, d, cache)
		if i == 0 && m.Kernel == "" {
			disk.Boot = &libvirtxml.DomainDeviceBoot{Order: 1}
		}
		all = append(all, disk)
	}
	return all
}

// diskXML describes a disk of a machine, which has a Device.
func diskXML(id string, d compute.Disk, cache string) libvirtxml.DomainDisk {
	disk := libvirtxml.DomainDisk{
		Device: "disk",
		Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: d.Format, Cache: cache, Discard: "unmap"},
		Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: d.Path}},
		Target: &libvirtxml.DomainDiskTarget{Dev: d.Device, Bus: bus(d.Device)},
		Serial: d.Serial, BackingStore: backing(d.Backing),
	}
	if n := d.ISCSI; n != nil {
		host, port, _ := net.SplitHostPort(n.Portal) // Validate has looked at it
		source := &libvirtxml.DomainDiskSourceNetwork{Protocol: "iscsi", Name: fmt.Sprintf("%s/%d", n.IQN, n.LUN),
			Hosts:     []libvirtxml.DomainDiskSourceHost{{Name: host, Port: port}},
			Initiator: &libvirtxml.DomainDiskSourceNetworkInitiator{IQN: &libvirtxml.DomainDiskSourceNetworkIQN{Name: n.Initiator}}}
		if n.User != "" {
			source.Auth = &libvirtxml.DomainDiskAuth{Username: n.User, Secret: &libvirtxml.DomainDiskSecret{Type: "iscsi", UUID: secretID(id, d.Serial)}}
		}
		disk.Source, disk.BackingStore = &libvirtxml.DomainDiskSource{Network: source}, nil
	}
	if disk.Target.Bus == "scsi" {
		target := uint(d.Device[2] - 'a')
		zero := uint(0)
		disk.Address = &libvirtxml.DomainAddress{Drive: &libvirtxml.DomainAddressDrive{Controller: &zero, Bus: &zero, Target: &target, Unit: &zero}}
	}
	if d.ReadOnly {
		disk.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
	}
	return disk
}

// bus returns what a disk of this name is on.
func bus(device string) string {
	if strings.HasPrefix(device, "sd") {
		return "scsi"
	}
	return "virtio"
}

// backing describes a chain to its end. The empty element at the end keeps libvirt from looking into the file above it.
func backing(files []compute.BackingFile) *libvirtxml.DomainDiskBackingStore {
	if len(files) == 0 {
		return &libvirtxml.DomainDiskBackingStore{}
	}
	return &libvirtxml.DomainDiskBackingStore{
		Format:       &libvirtxml.DomainDiskFormat{Type: files[0].Format},
		Source:       &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: files[0].Path}},
		BackingStore: backing(files[1:]),
	}
}

func interfaces(nics []compute.NIC) (all []libvirtxml.DomainInterface) {
	for _, n := range nics {
		mtu := n.MTU
		if mtu == 0 {
			mtu = 1500
		}
		all = append(all, libvirtxml.DomainInterface{
			Source: &libvirtxml.DomainInterfaceSource{Ethernet: &libvirtxml.DomainInterfaceSourceEthernet{}},
			Target: &libvirtxml.DomainInterfaceTarget{Dev: n.Tap, Managed: "no"},
			MAC:    &libvirtxml.DomainInterfaceMAC{Address: n.MAC.String()},
			Model:  &libvirtxml.DomainInterfaceModel{Type: "virtio"},
			MTU:    &libvirtxml.DomainInterfaceMTU{Size: uint(mtu)},
			ROM:    &libvirtxml.DomainROM{Enabled: "no"}, // nothing boots from the network
		})
	}
	return all
}

func serial(log string) []libvirtxml.DomainSerial {
	port := uint(0)
	s := libvirtxml.DomainSerial{
		Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}},
		Target: &libvirtxml.DomainSerialTarget{Port: &port},
	}
	if log != "" {
		s.Log = &libvirtxml.DomainChardevLog{File: log, Append: "on"}
	}
	return []libvirtxml.DomainSerial{s}
}
