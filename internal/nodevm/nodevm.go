package nodevm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/internal/initramfs"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// Config says what runs in the machine.
type Config struct {
	Tests   string        // required: which tests of the calling package, as for go test -run
	Modules []string      // of the kernel, besides those for networks that are always loaded
	Tools   []string      // programs that the tests call, besides sh, ip, nft and what busybox has
	Memory  int           // in MiB; 0: 512
	Timeout time.Duration // 0: 20 minutes
}

// inside is in the environment of tests in the machine.
const inside = "DEWPOINT_NODEVM"

// Inside tells whether the process runs in the machine.
func Inside() bool { return os.Getenv(inside) != "" }

// networks are the modules that are always loaded: nothing in the machine loads one when it is asked for.
var networks = []string{"af_packet", "8021q", "bridge", "veth", "tun", "nf_tables", "nft_meta_bridge", "nft_ct", "nft_limit", "nft_log",
	"nft_chain_nat", "nft_nat", "nft_masq", "nft_redir", "nft_reject_bridge", "nft_reject_inet"}

// Run runs tests of the calling package in a machine of their own, and fails or passes as they do. A machine without QEMU, a kernel or
// a static busybox is [testneed.Missing] that. Two may run at once.
func Run(t *testing.T, cfg Config) {
	t.Helper()
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		testneed.Missing(t, "needs Linux on amd64: the node VM knows no other machine")
	}
	testneed.Tools(t, "qemu-system-x86_64", "sh", "ip", "nft")
	if cfg.Memory == 0 {
		cfg.Memory = 512
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 20 * time.Minute
	}
	dir := t.TempDir()
	k, err := initramfs.NewestKernel("/")
	if err == nil {
		err = ramdisk(t.Context(), k, cfg, dir)
	}
	if errdefs.IsFailedPrecondition(err) {
		testneed.Missing(t, err.Error())
	}
	if err != nil {
		t.Fatalf("nodevm: %v", err)
	}
	begun := time.Now()
	said, console, err := boot(t.Context(), k, cfg, dir)
	result, code := parse(said)
	for _, line := range result {
		t.Log(line)
	}
	switch {
	case err != nil:
		t.Fatalf("nodevm: %v\n%s\nconsole:\n%s", err, said, console)
	case code != "0":
		t.Fatalf("nodevm: the tests ended with %q after %v\n%s\nconsole:\n%s", code, time.Since(begun).Round(time.Second), said, console)
	case len(result) == 0:
		t.Fatalf("nodevm: no test is named %s\n%s", cfg.Tests, said)
	}
	t.Logf("nodevm: %d tests in %v", len(result), time.Since(begun).Round(time.Millisecond))
}

var verdict = regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): .*$`)

// parse returns the verdicts in what the tests said, and the code that they ended with, "" for none.
func parse(said string) (verdicts []string, code string) {
	for line := range strings.Lines(said) {
		line = strings.TrimRight(line, "\r\n")
		if verdict.MatchString(line) {
			verdicts = append(verdicts, line)
		}
		if end, ok := strings.CutPrefix(line, "nodevm: ended with "); ok {
			code = end
		}
	}
	return verdicts, code
}

// boot runs the machine until it turns itself off.
func boot(ctx context.Context, k *initramfs.Kernel, cfg Config, dir string) (said, console string, err error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout+time.Minute) // the tests end by themselves before
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "qemu64", "-m", strconv.Itoa(cfg.Memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
		"-kernel", k.Image, "-initrd", filepath.Join(dir, "ramdisk"), "-append", "console=ttyS0 panic=-1 quiet",
		"-serial", "file:"+filepath.Join(dir, "console"), "-serial", "file:"+filepath.Join(dir, "said"))
	complaint, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("QEMU: %w: %s", errors.Join(ctx.Err(), err), complaint)
	}
	text := func(name string) string {
		b, readErr := os.ReadFile(filepath.Join(dir, name))
		err = errors.Join(err, readErr)
		return strings.ReplaceAll(string(b), "\r\n", "\n")
	}
	return text("said"), text("console"), err
}

// begin is the first program of the machine. Busybox is sh for it alone: as sh of the tests it would call its own ip.
const begin = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/sbin:/usr/bin:/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
while read -r module; do
    insmod "/lib/modules/$module" || echo "nodevm: module $module: not loaded"
done < /lib/modules/order
/bin/busybox ip link set lo up
cd /tmp
/nodevm/run > /dev/ttyS1 2>&1 < /dev/null
echo "nodevm: ended with $?" > /dev/ttyS1
poweroff -f
`

// ramdisk makes the initial ramdisk in dir.
func ramdisk(ctx context.Context, k *initramfs.Kernel, cfg Config, dir string) error {
	a := initramfs.NewArchive()
	for _, d := range []string{"/proc", "/sys", "/tmp", "/run"} {
		a.Dir(d)
	}
	binary, err := testBinary(ctx, dir)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	a.File("/nodevm/test", 0o755, content)
	a.File("/nodevm/run", 0o755, fmt.Appendf(nil, "#!/bin/sh\nexport %s=1 DEWPOINT_REQUIRE=all\nexec /nodevm/test -test.v -test.timeout %v -test.run '%s'\n",
		inside, cfg.Timeout, strings.ReplaceAll(cfg.Tests, "'", `'\''`)))
	a.File("/init", 0o755, []byte(begin))
	busybox, err := initramfs.Busybox("/")
	if err != nil {
		return err
	}
	if content, err = os.ReadFile(busybox); err != nil {
		return err
	}
	a.File("/bin/busybox", 0o755, content)
	for _, tool := range slices.Concat([]string{"sh", "ip", "nft"}, cfg.Tools) {
		file, err := exec.LookPath(tool)
		if err != nil {
			return err
		}
		real, err := filepath.EvalSymlinks(file)
		if err != nil {
			return err
		}
		if err := a.Program(real); err != nil {
			return err
		}
		if content, err = os.ReadFile(real); err != nil {
			return err
		}
		a.File("/usr/bin/"+tool, 0o755, content)
		if tool == "sh" {
			a.File("/bin/sh", 0o755, content)
		}
	}
	modules, err := k.Modules(slices.Concat(networks, cfg.Modules))
	if err != nil {
		return err
	}
	if err := a.Modules(ctx, modules); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "ramdisk"))
	if err != nil {
		return err
	}
	return errors.Join(a.Write(f), f.Close())
}

// testBinary returns the calling package's tests as a program without libraries: the one that runs, or one that is compiled for it.
func testBinary(ctx context.Context, dir string) (string, error) {
	self, err := os.Executable()
	if err != nil || initramfs.Static(self) {
		return self, err
	}
	file := filepath.Join(dir, "test")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", file, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go test -c: %w: %s", err, said)
	}
	return file, nil
}
