package compute

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// The most that a [Machine] may have. What a host can really bear is less, and its hypervisor says so.
const (
	mostVCPUs     = 1024
	mostMemoryMiB = 64 << 20 // 64 TiB
	mostDisks     = 26
	mostNICs      = 26
	mostBacking   = 8    // of one disk
	mostName      = 255  // bytes
	mostSerial    = 20   // characters: what a virtio disk can show (VIRTIO_BLK_ID_BYTES, virtio 1.2 §5.2.6)
	mostCmdline   = 2047 // bytes: the kernel's COMMAND_LINE_SIZE on x86, less its end
)

// Validate checks all that can be known of m without the host. An error is InvalidArgument and names the field and the
// limit. Drivers call it first thing in Create, so that all of them refuse the same machines.
func (m Machine) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("machine: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	switch {
	case !isUUID(m.ID):
		return bad("ID %q is not a UUID in its 36-character lower-case form", m.ID)
	case len(m.Name) > mostName:
		return bad("Name is %d bytes long, at most %d are allowed", len(m.Name), mostName)
	case !plain(m.Name):
		return bad("Name has control characters or is not UTF-8")
	case m.VCPUs < 1 || m.VCPUs > mostVCPUs:
		return bad("VCPUs is %d, must be 1 to %d", m.VCPUs, mostVCPUs)
	case m.MemoryMiB < 1 || m.MemoryMiB > mostMemoryMiB:
		return bad("MemoryMiB is %d, must be 1 to %d", m.MemoryMiB, mostMemoryMiB)
	case m.Kernel == "" && m.Ramdisk != "":
		return bad("Ramdisk needs a Kernel")
	case m.Kernel == "" && m.Cmdline != "":
		return bad("Cmdline needs a Kernel")
	case m.Kernel == "" && len(m.Disks) == 0:
		return bad("there is nothing to boot from: neither Kernel nor Disks")
	case m.Kernel != "" && !isPath(m.Kernel):
		return bad("Kernel %q is not an absolute path", m.Kernel)
	case m.Ramdisk != "" && !isPath(m.Ramdisk):
		return bad("Ramdisk %q is not an absolute path", m.Ramdisk)
	case len(m.Cmdline) > mostCmdline:
		return bad("Cmdline is %d bytes long, at most %d are allowed", len(m.Cmdline), mostCmdline)
	case !plain(m.Cmdline):
		return bad("Cmdline has control characters or is not UTF-8")
	case m.ConsoleLog != "" && !isPath(m.ConsoleLog):
		return bad("ConsoleLog %q is not an absolute path", m.ConsoleLog)
	case len(m.Disks) > mostDisks:
		return bad("there are %d Disks, at most %d are allowed", len(m.Disks), mostDisks)
	case len(m.NICs) > mostNICs:
		return bad("there are %d NICs, at most %d are allowed", len(m.NICs), mostNICs)
	}
	devices := map[string]int{}
	for i, d := range m.Disks {
		if err := d.Validate(); err != nil {
			return fmt.Errorf("machine: Disks[%d].%w", i, err)
		}
		if other, taken := devices[m.Device(i)]; taken {
			return bad("Disks[%d].Device is %s, as that of Disks[%d]", i, m.Device(i), other)
		}
		devices[m.Device(i)] = i
		switch {
		case d.Format != "raw" && d.Format != "qcow2":
			return bad("Disks[%d].Format is %q, must be \"raw\" or \"qcow2\"", i, d.Format)
		case len(d.Serial) > mostSerial:
			return bad("Disks[%d].Serial is %d characters long, at most %d are allowed", i, len(d.Serial), mostSerial)
		case !isSerial(d.Serial):
			return bad("Disks[%d].Serial %q has other characters than letters, digits and _.+-", i, d.Serial)
		case len(d.Backing) > mostBacking:
			return bad("Disks[%d] has %d Backing files, at most %d are allowed", i, len(d.Backing), mostBacking)
		}
		above := d.Format
		for j, b := range d.Backing {
			switch {
			case above != "qcow2":
				return bad("Disks[%d].Backing[%d] is below a %s file, which can't have one", i, j, above)
			case !isPath(b.Path):
				return bad("Disks[%d].Backing[%d].Path %q is not an absolute path", i, j, b.Path)
			case b.Format != "raw" && b.Format != "qcow2":
				return bad("Disks[%d].Backing[%d].Format is %q, must be \"raw\" or \"qcow2\"", i, j, b.Format)
			}
			above = b.Format
		}
	}
	for i, n := range m.NICs {
		switch {
		case !isInterface(n.Tap):
			return bad("NICs[%d].Tap %q is not the name of an interface (1 to 15 characters, no space, '/' or ':')", i, n.Tap)
		case len(n.MAC) != 6 || n.MAC[0]&1 != 0 || n.MAC.String() == "00:00:00:00:00:00":
			return bad("NICs[%d].MAC %q is not the address of one Ethernet card", i, n.MAC)
		case n.MTU != 0 && (n.MTU < 68 || n.MTU > 65535):
			return bad("NICs[%d].MTU is %d, must be 68 to 65535, or 0 for 1500", i, n.MTU)
		}
	}
	return nil
}

// Clone returns a copy that shares nothing.
func (m Machine) Clone() Machine {
	m.Disks, m.NICs = slices.Clone(m.Disks), slices.Clone(m.NICs)
	for i, d := range m.Disks {
		m.Disks[i].Backing = slices.Clone(d.Backing)
		if d.ISCSI != nil {
			target := *d.ISCSI
			m.Disks[i].ISCSI = &target
		}
	}
	for i, n := range m.NICs {
		m.NICs[i].MAC = slices.Clone(n.MAC)
	}
	return m
}

// Device returns the name of a disk of the machine, by its place among them.
func (m Machine) Device(i int) string {
	if d := m.Disks[i].Device; d != "" {
		return d
	}
	return "vd" + string(rune('a'+i))
}

var anyDevice = regexp.MustCompile(`^[vs]d[a-z]$`)

// Validate checks what can be known of a disk by itself. An error is InvalidArgument and begins with the field.
func (d Disk) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	switch n := d.ISCSI; {
	case n == nil && !isPath(d.Path):
		return bad("Path %q is not an absolute path", d.Path)
	case d.Device != "" && !anyDevice.MatchString(d.Device):
		return bad("Device is %q, must be \"vda\" to \"vdz\", \"sda\" to \"sdz\" or empty", d.Device)
	case n == nil:
	case d.Path != "":
		return bad("Path %q is given, must be empty with ISCSI", d.Path)
	case d.Format != "raw":
		return bad("Format is %q, must be \"raw\" with ISCSI", d.Format)
	case d.Serial == "":
		return bad("Serial is empty, must be given with ISCSI")
	case !plain(n.IQN) || n.IQN == "" || len(n.IQN) > mostIQN:
		return bad("ISCSI.IQN has %d bytes, must have 1 to %d and no control characters", len(n.IQN), mostIQN)
	case !plain(n.Initiator) || n.Initiator == "" || len(n.Initiator) > mostIQN:
		return bad("ISCSI.Initiator has %d bytes, must have 1 to %d and no control characters", len(n.Initiator), mostIQN)
	case !plain(n.User) || (n.User == "") != (n.Secret == ""):
		return bad("ISCSI.User and Secret must be given together, or neither")
	default:
		if _, _, err := net.SplitHostPort(n.Portal); err != nil || !plain(n.Portal) {
			return bad("ISCSI.Portal %q is not an address and a port", n.Portal)
		}
	}
	return nil
}

// mostIQN is how many bytes an iSCSI name may have, RFC 7143 section 4.2.7.
const mostIQN = 223

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// plain tells whether s can be written into XML and shown to people.
func plain(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || r == utf8.RuneError || r == '\uFFFE' || r == '\uFFFF'
	}) < 0
}

func isPath(s string) bool { return filepath.IsAbs(s) && plain(s) }

func isSerial(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune("_.+-", r)
	}) < 0
}

// isInterface follows the kernel's dev_valid_name.
func isInterface(s string) bool {
	return len(s) >= 1 && len(s) <= 15 && s != "." && s != ".." && plain(s) && !strings.ContainsAny(s, "/: ")
}
