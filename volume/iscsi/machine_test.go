package iscsi

import (
	"bufio"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testguest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// machine is a virtual machine whose disk is the volume: QEMU is the initiator.
type machine struct {
	cmd   *exec.Cmd
	lines chan string
}

// needMachine asks for what [startMachine] needs.
func needMachine(t *testing.T) {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		testneed.Missing(t, "needs amd64: the test knows how to start no other machine")
	}
	testneed.Tools(t, "qemu-system-x86_64")
}

func startMachine(t *testing.T, kernel, ramdisk string, p *process) *machine {
	t.Helper()
	m := &machine{lines: make(chan string, 1000)}
	m.cmd = exec.Command("qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "qemu64", "-m", strconv.Itoa(testguest.MemoryMiB), "-nodefaults",
		"-no-user-config", "-display", "none", "-no-reboot", "-nic", "none", "-kernel", kernel, "-initrd", ramdisk, "-append", testguest.Cmdline,
		"-drive", "if=virtio,cache=none,discard=unmap,file="+strings.ReplaceAll(qemuJSON(p), ",", ",,"), "-serial", "stdio")
	out, err := m.cmd.StdoutPipe()
	require.NoError(t, err)
	m.cmd.Stderr = os.Stderr
	require.NoError(t, m.cmd.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(m.lines)
		for console := bufio.NewScanner(out); console.Scan(); {
			m.lines <- console.Text()
		}
	}()
	t.Cleanup(func() {
		_ = m.cmd.Process.Kill()
		<-read
		_ = m.cmd.Wait()
	})
	return m
}
