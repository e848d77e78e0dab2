package iscsi

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

const crashBlocks = 512 // of 4 KiB

// write writes blocks to a target until it or the target ends, and says of each write, before it is sent, "sent BLOCK SEED", and of each that was
// acknowledged with FUA, or before a flush that was, "sure BLOCK SEED".
func write(addr string, seed uint64) error {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	i := newInitiator(nc, testInitiator)
	if err := i.login(testTarget, secrets{}); err != nil {
		return err
	}
	unflushed := map[int]uint64{}
	for n := 0; ; n++ {
		seed++
		block := int(seed*37) % crashBlocks
		fmt.Println("sent", block, seed)
		cdb := write16(block*8, 8)
		if n%3 == 0 {
			cdb[1] = 8
		}
		res, err := i.do(cdb, pattern(4096, seed), 0)
		if err != nil || res.status != 0 {
			return err
		}
		unflushed[block] = seed
		if n%3 == 0 {
			fmt.Println("sure", block, seed)
		}
		if n%16 == 15 {
			if res, err := i.do([]byte{0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil, 0); err != nil || res.status != 0 {
				return err
			}
			for block, s := range unflushed {
				fmt.Println("sure", block, s)
			}
			clear(unflushed)
		}
	}
}

// TestAcknowledgedDataSurvivesKills kills the target, with the agent whose process it is in, the initiator, or both, in the middle of writes: what was written
// with FUA, or before a flush that has returned, is in the file, or something newer, and another process serves it.
func TestAcknowledgedDataSurvivesKills(t *testing.T) {
	path := filepath.Join(t.TempDir(), "volume")
	require.NoError(t, os.WriteFile(path, make([]byte, crashBlocks*4096), 0o600))
	sure := map[int]uint64{}   // block and the seed of what is surely there, or newer
	sent := map[int][]uint64{} // all that was ever sent
	last := uint64(0)
	random := rand.New(rand.NewPCG(5, 2))
	exe, err := os.Executable()
	require.NoError(t, err)
	p := startProcess(t, path, testInitiator)
	for round := range 15 {
		writer := exec.Command(exe)
		writer.Env = append(os.Environ(), "DEWPOINT_ISCSI_WRITER="+p.addr, fmt.Sprint("DEWPOINT_ISCSI_SEED=", last))
		out, err := writer.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, writer.Start())
		victim, after := round%3, 20+random.IntN(200)
		acknowledged := 0
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var what string
			var block int
			var seed uint64
			_, err := fmt.Sscan(lines.Text(), &what, &block, &seed)
			require.NoError(t, err)
			last = max(last, seed)
			if what == "sent" {
				sent[block] = append(sent[block], seed)
				continue
			}
			sure[block] = max(sure[block], seed)
			if acknowledged++; acknowledged == after {
				if victim != 1 {
					require.NoError(t, p.cmd.Process.Kill())
				}
				if victim != 0 {
					require.NoError(t, writer.Process.Kill())
				}
			}
		}
		_ = writer.Wait()
		require.GreaterOrEqual(t, acknowledged, after)
		if victim != 1 {
			p.kill()
			p = startProcess(t, path, testInitiator)
		}
		i := dial(t, p.addr, testInitiator)
		require.NoError(t, i.login(testTarget, secrets{})) // ends the writer's session, with what it had begun
		for block, first := range sure {
			got := i.good(t, read16(block*8, 8), nil, 4096)
			found := slices.ContainsFunc(sent[block], func(s uint64) bool { return s >= first && bytes.Equal(got, pattern(4096, s)) })
			require.True(t, found, "round %d, victim %d: block %d is older than what was acknowledged", round, victim, block)
		}
		i.nc.Close()
	}
	require.Greater(t, len(sure), 100)
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
