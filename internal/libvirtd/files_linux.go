package libvirtd

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The daemons' configuration. What it leaves out has libvirt's own defaults.
const (
	// Only root connects, and only by the socket.
	libvirtdConf = `# written at every start
unix_sock_rw_perms = "0700"
unix_sock_ro_perms = "0700"
auth_unix_rw = "none"
auth_unix_ro = "none"
listen_tls = 0
host_uuid = "%s"
log_outputs = "3:stderr"
`
	// QEMU runs as root, for its disks and kernels lie in directories that only root may enter, and their owner is not
	// changed. libvirt's own device namespace and control groups need a machine with systemd. QEMU's system-call filter
	// stays on, and libvirt takes all capabilities from QEMU.
	qemuConf = `# written at every start
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "logd"
`
	// A guest's console takes at most three times 2 MiB of the host's disk.
	virtlogdConf = `# written at every start
max_size = 2097152
max_backups = 2
log_outputs = "3:stderr"
`
)

// writeFiles writes the configuration. A daemon that runs is not touched by it.
func (c *Config) writeFiles() error {
	id, err := c.hostUUID()
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"libvirtd.conf": fmt.Sprintf(libvirtdConf, id), "qemu.conf": qemuConf, "virtlogd.conf": virtlogdConf,
	} {
		if err := os.WriteFile(filepath.Join(c.Dir, "etc", name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// hostUUID returns the identity of the daemon, which stays the same across restarts. libvirt would take the machine's.
func (c *Config) hostUUID() (string, error) {
	path := filepath.Join(c.Dir, "etc", "host_uuid")
	text, err := os.ReadFile(path)
	if err == nil && len(text) == 37 {
		return strings.TrimSpace(string(text)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var b [16]byte
	_, _ = rand.Read(b[:])                      // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // version 4, RFC 9562 §5.4
	id := fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	return id, os.WriteFile(path, []byte(id+"\n"), 0o600)
}
