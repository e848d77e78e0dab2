package iscsi

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testguest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// await reads what a guest with fio says until it says what is awaited. What is sure is noted on the way.
func (m *machine) await(t *testing.T, awaited string, sure map[int]bool) {
	t.Helper()
	limit := time.After(10 * time.Minute)
	for {
		select {
		case line, more := <-m.lines:
			require.True(t, more, "the guest has ended before it said %q", awaited)
			what, region := testguest.FioSaid(line)
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
	needMachine(t)
	kernel, ramdisk := testguest.Fio(t, t.TempDir())
	path := filepath.Join(t.TempDir(), "volume")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, 1<<30))

	t.Setenv("DEWPOINT_ISCSI_ADDR", ownAddr)
	p := startProcess(t, path, testInitiator)
	t.Setenv("DEWPOINT_ISCSI_ADDR", p.addr)
	sure := map[int]bool{}
	var m *machine
	for round := range 6 {
		if m == nil {
			m = startMachine(t, kernel, ramdisk, p)
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
				if what, region := testguest.FioSaid(line); what == "sure" {
					sure[region] = true
				}
			}
			m = nil
		}
		for region := range sure { // the guest writes elsewhere, if it lives
			require.NoError(t, testguest.VerifyFio(t.Context(), path, region), "round %d, killed: %s", round, victim)
		}
		if victim != "machine" {
			p = startProcess(t, path, testInitiator)
		}
	}
	require.GreaterOrEqual(t, len(sure), 6)
	t.Logf("%d regions were sure, and are there", len(sure))
}
