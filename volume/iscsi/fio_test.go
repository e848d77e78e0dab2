package iscsi

import (
	"bufio"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/fioguest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// fioMachine is a virtual machine whose disk is the volume: QEMU is the initiator.
type fioMachine struct {
	cmd   *exec.Cmd
	lines chan string
}

func startFioMachine(t *testing.T, kernel, ramdisk string, p *process) *fioMachine {
	t.Helper()
	m := &fioMachine{lines: make(chan string, 1000)}
	m.cmd = exec.Command("qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "qemu64", "-m", strconv.Itoa(fioguest.MemoryMiB), "-nodefaults",
		"-no-user-config", "-display", "none", "-no-reboot", "-nic", "none", "-kernel", kernel, "-initrd", ramdisk, "-append", fioguest.Cmdline,
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

// await reads what the guest says until it says what is awaited. What is sure is noted on the way.
func (m *fioMachine) await(t *testing.T, awaited string, sure map[int]bool) {
	t.Helper()
	limit := time.After(2 * time.Minute)
	for {
		select {
		case line, more := <-m.lines:
			require.True(t, more, "the guest has ended before it said %q", awaited)
			what, region := fioguest.Said(line)
			require.NotEqual(t, "failed", what, line)
			if what == "sure" {
				sure[region] = true
			}
			if what == "begun" {
				require.False(t, sure[region], "the guest does not know that it has written region %d", region)
			}
			if what == awaited {
				return
			}
		case <-limit:
			require.FailNow(t, "the guest does not say "+awaited)
		}
	}
}

// TestFioSurvivesKills has fio write to a volume in a virtual machine, and kills the target, the virtual machine, or both, at any moment: all that
// fio has flushed is there. A machine that is not killed itself goes on when the target is back.
func TestFioSurvivesKills(t *testing.T) {
	testneed.Slow(t)
	if runtime.GOARCH != "amd64" {
		testneed.Missing(t, "needs amd64: the test knows how to start no other machine")
	}
	testneed.Tools(t, "qemu-system-x86_64")
	kernel, ramdisk := fioguest.Build(t, t.TempDir())
	path := filepath.Join(t.TempDir(), "volume")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, 1<<30))

	p := startProcess(t, path, testInitiator)
	_, port, _ := strings.Cut(p.addr, ":")
	t.Setenv("DEWPOINT_ISCSI_PORT", port)
	sure := map[int]bool{}
	var m *fioMachine
	for round := range 6 {
		if m == nil {
			m = startFioMachine(t, kernel, ramdisk, p)
		}
		m.await(t, "sure", sure)
		if round%2 == 1 { // somewhere in the next, and else at once, while what was flushed is as young as can be
			m.await(t, "begun", sure)
			time.Sleep(rand.N(1500 * time.Millisecond)) // any moment will do
		}
		victim := []string{"target", "machine", "both"}[round%3]
		if victim != "machine" {
			p.kill()
		}
		if victim != "target" {
			require.NoError(t, m.cmd.Process.Kill())
			for line := range m.lines { // what it had said
				if what, region := fioguest.Said(line); what == "sure" {
					sure[region] = true
				}
			}
			m = nil
		}
		for region := range sure { // the guest writes elsewhere, if it lives
			require.NoError(t, fioguest.Verify(t.Context(), path, region), "round %d, killed: %s", round, victim)
		}
		if victim != "machine" {
			p = startProcess(t, path, testInitiator)
		}
	}
	require.GreaterOrEqual(t, len(sure), 6)
	t.Logf("%d regions were sure, and are there", len(sure))
}
