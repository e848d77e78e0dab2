package iscsi

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// TestAcknowledgedDataSurvivesAKill kills the target in the middle of writes: what was written with FUA, or before a flush that has
// returned, is in the file, and another process serves it.
func TestAcknowledgedDataSurvivesAKill(t *testing.T) {
	const blocks = 1024 // of 4 KiB
	path := filepath.Join(t.TempDir(), "volume")
	require.NoError(t, os.WriteFile(path, make([]byte, blocks*4096), 0o600))
	sure := map[int]uint64{} // block and the seed of what is surely there, or newer
	latest := map[int]uint64{}
	seed := uint64(0)
	for round := range 4 {
		p := startProcess(t, path, testInitiator)
		i := dial(t, p.addr, testInitiator)
		require.NoError(t, i.login(testTarget, secrets{}))
		for block, first := range sure { // nothing is older than what was acknowledged
			res, err := i.do(read16(block*8, 8), nil, 4096)
			require.NoError(t, err)
			found := false
			for s := first; s <= latest[block] && !found; s++ {
				found = bytes.Equal(res.in, pattern(4096, s))
			}
			require.True(t, found, "round %d: block %d is older than what was acknowledged", round, block)
		}
		time.AfterFunc(time.Duration(30+20*round)*time.Millisecond, func() { _ = p.cmd.Process.Kill() })
		unflushed := map[int]uint64{}
		for n := 0; ; n++ {
			seed++
			block := int(seed*37) % blocks
			latest[block] = seed
			cdb := write16(block*8, 8)
			if n%3 == 0 {
				cdb[1] = 8
			}
			res, err := i.do(cdb, pattern(4096, seed), 0)
			if err != nil {
				break
			}
			require.Zero(t, res.status)
			unflushed[block] = seed
			if n%3 == 0 {
				sure[block] = seed
			}
			if n%16 == 15 {
				if res, err := i.do([]byte{0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil, 0); err != nil || res.status != 0 {
					break
				}
				for block, s := range unflushed {
					sure[block] = max(sure[block], s)
				}
				clear(unflushed)
			}
		}
		_ = p.cmd.Wait()
	}
	require.Greater(t, len(sure), 20)
}

// TestFlushesReachTheDisk looks at the system calls: a kill does not lose what is in the page cache, a loss of power does.
func TestFlushesReachTheDisk(t *testing.T) {
	testneed.Root(t)
	testneed.Tools(t, "strace")
	path, p := fileURL(t, make([]byte, 1<<20))
	log := filepath.Join(filepath.Dir(path), "strace")
	trace := exec.Command("strace", "-f", "-e", "trace=fdatasync,pwrite64", "-o", log, "-p", fmt.Sprint(p.cmd.Process.Pid))
	stderr, err := trace.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, trace.Start())
	t.Cleanup(func() {
		_ = trace.Process.Kill()
		_ = trace.Wait()
	})
	_, err = stderr.Read(make([]byte, 1)) // it is attached
	if err != nil {
		testneed.Missing(t, "strace can't attach")
	}
	i := dial(t, p.addr, testInitiator)
	require.NoError(t, i.login(testTarget, secrets{}))
	fua := write16(0, 8)
	fua[1] = 8
	i.good(t, write16(0, 8), make([]byte, 4096), 0)
	i.good(t, fua, make([]byte, 4096), 0)
	i.good(t, []byte{0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil, 0)
	i.good(t, append([]byte{0x91}, make([]byte, 15)...), nil, 0)
	p.kill()
	_ = trace.Wait()
	text, err := os.ReadFile(log)
	require.NoError(t, err)
	require.Equal(t, 3, strings.Count(string(text), "fdatasync("), string(text))
	require.Equal(t, 2, strings.Count(string(text), "pwrite64("), string(text))
}
