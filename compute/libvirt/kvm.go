package libvirt

import (
	"bufio"
	"io"
	"os"
	"runtime"
	"strings"
)

// KVM tells whether this host can run machines with KVM: /dev/kvm opens and, on x86, the processor has virtualization
// (Intel's vmx or AMD's svm). A host that is a virtual machine itself may have the device without it, and then no guest
// starts.
func KVM() bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	_ = f.Close()
	if runtime.GOARCH != "amd64" {
		return true
	}
	cpus, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return false
	}
	defer cpus.Close()
	return virtualizes(cpus)
}

// virtualizes looks for the flags in the form of /proc/cpuinfo (proc_cpuinfo(5)).
func virtualizes(cpuinfo io.Reader) bool {
	lines := bufio.NewScanner(cpuinfo)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for flag := range strings.FieldsSeq(value) {
			if flag == "vmx" || flag == "svm" {
				return true
			}
		}
	}
	return false
}
