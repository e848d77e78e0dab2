package guest

import (
	"bufio"
	"encoding/json"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// patience is how long a test waits for what a guest does within seconds where the machine has nothing else to do.
const patience = 5 * time.Minute

// virtual is a guest running in QEMU, with QEMU's own DHCP server, which gives it 10.0.2.15 and answers pings as 10.0.2.2.
type virtual struct {
	lines <-chan string
	ended <-chan error
	dir   string
	began time.Time
}

func boot(t *testing.T, files Files, disk string, more ...string) *virtual {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("qemu-system-x86_64", append([]string{"-machine", "q35,accel=tcg", "-cpu", "qemu64", "-m", "128",
		"-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", files.Kernel, "-initrd", files.Ramdisk, "-append", files.Cmdline,
		"-drive", "if=virtio,format=" + files.DiskFormat + ",file=" + disk,
		"-qmp", "unix:" + filepath.Join(dir, "qmp") + ",server=on,wait=off", "-serial", "stdio"}, more...)...)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	v := &virtual{dir: dir, began: time.Now()}
	require.NoError(t, cmd.Start())

	lines, ended, gone := make(chan string, 1000), make(chan error, 1), make(chan struct{})
	v.lines, v.ended = lines, ended
	go func() {
		console := bufio.NewScanner(out)
		for console.Scan() {
			select {
			case lines <- strings.TrimRight(console.Text(), "\r"):
			default: // a guest gone mad must not block
			}
		}
		close(lines)
		ended <- cmd.Wait()
		close(gone)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-gone
		if t.Failed() && complaint.Len() > 0 {
			t.Log("QEMU: " + complaint.String())
		}
	})
	return v
}

// await reads the console until a line matches.
func (v *virtual) await(t *testing.T, pattern string) time.Duration {
	t.Helper()
	want := regexp.MustCompile(pattern)
	deadline := time.After(patience)
	for {
		select {
		case line, more := <-v.lines:
			require.True(t, more, "the guest ended before it said %s", pattern)
			t.Log(line)
			if want.MatchString(line) {
				return time.Since(v.began)
			}
		case <-deadline:
			require.FailNow(t, "the guest did not say "+pattern)
		}
	}
}

// pressPower does what a hypervisor does for a soft stop.
func (v *virtual) pressPower(t *testing.T) {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(v.dir, "qmp"))
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	answers := json.NewDecoder(conn)
	var answer map[string]any
	require.NoError(t, answers.Decode(&answer)) // the greeting
	for _, command := range []string{"qmp_capabilities", "system_powerdown"} {
		require.NoError(t, json.NewEncoder(conn).Encode(map[string]string{"execute": command}))
		for answer = nil; answer["return"] == nil; { // events come in between
			answer = nil
			require.NoError(t, answers.Decode(&answer))
			require.NotContains(t, answer, "error")
		}
	}
}

func TestGuestBoots(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the test knows only how to start an amd64 machine")
	}
	testneed.Tools(t, "qemu-system-x86_64")
	dir := t.TempDir()
	start := time.Now()
	files, err := Build(t.Context(), Config{Dir: dir, Peers: 3})
	if err != nil {
		testneed.Missing(t, err.Error())
	}
	t.Logf("built in %v", time.Since(start).Round(time.Millisecond))
	disk := filepath.Join(dir, "disk")
	require.NoError(t, exec.Command("cp", files.Disk, disk).Run())

	for _, times := range []string{"1", "2"} {
		v := boot(t, files, disk, "-nic", "user,model=virtio-net-pci,hostname=mini-1")
		t.Logf("console after %v", v.await(t, `^dewpoint: booted after [0-9.]+ s$`).Round(time.Millisecond))
		v.await(t, `^dewpoint: disk 64 MiB boot `+times+`$`)
		v.await(t, `^dewpoint: address 10\.0\.2\.15/24 gateway 10\.0\.2\.2 lease 86400 mtu 1500 dns 10\.0\.2\.3 hostname mini-1$`)
		v.await(t, `^dewpoint: ping 10\.0\.2\.2 ok$`)
		v.pressPower(t)
		v.await(t, `^dewpoint: power button, going down$`)
		select {
		case err := <-v.ended:
			require.NoError(t, err)
		case <-time.After(patience):
			require.FailNow(t, "the guest did not go down")
		}
	}
}

func TestGuestSaysWhatIsWrongWithItsNetwork(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the test knows only how to start an amd64 machine")
	}
	testneed.Slow(t)
	testneed.Tools(t, "qemu-system-x86_64")
	files, err := Build(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		testneed.Missing(t, err.Error())
	}
	for _, c := range []struct{ name, nic, says string }{
		{"no card", "none", `^dewpoint: no network card$`},
		{"alone", "hubport,hubid=0,model=virtio-net-pci", `^dewpoint: no answer from a DHCP server yet$`},
	} {
		t.Run(c.name, func(t *testing.T) { boot(t, files, files.Disk, "-nic", c.nic).await(t, c.says) })
	}
}
