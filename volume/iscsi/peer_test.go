package iscsi

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/internal/benchline"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/pdu"
)

// startTgtd exports a file from tgtd, as LUN 1, until the test ends. It does not end at SIGTERM.
func startTgtd(t testing.TB, path string) (addr string, pid int) {
	t.Helper()
	testneed.Root(t)
	testneed.Tools(t, "tgtd", "tgtadm")
	listener, err := net.Listen("tcp", ownAddr)
	require.NoError(t, err)
	addr = listener.Addr().String()
	require.NoError(t, listener.Close())
	env := append(os.Environ(), "TGT_IPC_SOCKET="+filepath.Join(t.TempDir(), "ipc"))
	cmd := exec.Command("tgtd", "-f", "--iscsi", "portal="+addr)
	cmd.Env = env
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	admin := func(args ...string) (string, error) {
		c := exec.Command("tgtadm", append([]string{"--lld", "iscsi"}, args...)...)
		c.Env = env
		out, err := c.CombinedOutput()
		return string(out), err
	}
	require.Eventually(t, func() bool {
		_, err := admin("--op", "new", "--mode", "target", "--tid", "1", "-T", testTarget)
		return err == nil
	}, time.Minute, 50*time.Millisecond)
	for _, args := range []string{
		"--op new --mode logicalunit --tid 1 --lun 1 --bstype rdwr -b " + path,
		"--op update --mode logicalunit --tid 1 --lun 1 -P thin_provisioning=1",
		"--op bind --mode target --tid 1 -I ALL",
	} {
		out, err := admin(strings.Fields(args)...)
		require.NoError(t, err, out)
	}
	return addr, cmd.Process.Pid
}

// cpuOf is the processor time that a process has used, in user mode and in the kernel, by its clock: the one of /proc is in steps of 10 ms.
func cpuOf(t testing.TB, pid int) time.Duration {
	t.Helper()
	const scheduler = 2 // CPUCLOCK_SCHED
	var used unix.Timespec
	require.NoError(t, unix.ClockGettime(int32(^pid<<3|scheduler), &used))
	return time.Duration(used.Nano())
}

// load is what a benchmark does to a target.
type load struct {
	name     string
	write    bool
	size     int
	random   bool
	depth    int
	sessions int
	goal     float64
}

// press keeps depth commands in flight in one session until the deadline, and returns how many ended.
func (l load) press(i *initiator, lun uint64, span int, until time.Time) (done int, err error) {
	var out []byte
	i.r.BeforeRead = func() {
		if len(out) > 0 {
			_, err = i.nc.Write(out)
			out = out[:0]
		}
	}
	data := make([]byte, l.size)
	first := 64 << 10 // of who says nothing
	if n, err := strconv.Atoi(i.agreed["FirstBurstLength"]); err == nil {
		first = n
	}
	immediate := min(l.size, i.max, first) // as open-iscsi and libiscsi do
	in := make([]byte, 256<<10)
	next := rand.IntN(span / l.size)
	start := func() {
		cdb := make([]byte, 16)
		cdb[0] = 0x88
		if l.write {
			cdb[0] = 0x8a
		}
		if l.random {
			next = rand.IntN(span / l.size)
		} else {
			next = (next + 1) % (span / l.size)
		}
		binary.BigEndian.PutUint64(cdb[2:], uint64(next*l.size/512))
		binary.BigEndian.PutUint32(cdb[10:], uint32(l.size/512))
		if !l.write {
			out = append(out, i.bytes(i.header(cdb, lun, pdu.Final|pdu.Read, l.size), nil)...)
			return
		}
		out = append(out, i.bytes(i.header(cdb, lun, pdu.Final|pdu.Write, l.size), data[:immediate])...)
	}
	for range l.depth {
		start()
	}
	for running := l.depth; running > 0 && err == nil; {
		h, herr := i.r.Header()
		if herr != nil {
			return done, herr
		}
		over := false
		switch h.Opcode() {
		case pdu.DataIn:
			over = h.Flags()&pdu.Status != 0
		case pdu.SCSIResponse:
			over = true
		case pdu.R2T:
			head := *h
			if err := i.r.DataInto(nil); err != nil {
				return done, err
			}
			at, n := int(head.Word(pdu.AtOffset)), int(head.Word(pdu.AtResidual))
			for sn := uint32(0); n > 0; sn++ {
				m := min(n, i.max)
				d := &pdu.Header{pdu.DataOut}
				if n == m {
					d[1] = pdu.Final
				}
				d.SetLUN(head.LUN())
				d.SetWord(pdu.AtTag, head.Tag())
				d.SetWord(pdu.AtTransfer, head.Word(pdu.AtTransfer))
				d.SetWord(pdu.AtDataSN, sn)
				d.SetWord(pdu.AtOffset, uint32(at))
				out = append(out, i.bytes(d, data[at:at+m])...)
				at, n = at+m, n-m
			}
			continue
		default:
			return done, fmt.Errorf("opcode %#x", h.Opcode())
		}
		full := over && h[3] == 0x28 // TASK SET FULL: more at once than a session has memory for; it is sent again, and does not count
		if over && h[3] != 0 && !full {
			return done, fmt.Errorf("status %#x", h[3])
		}
		if over {
			i.statSN = h.Word(pdu.AtStatSN) + 1
		}
		if err := i.r.DataInto(in[:h.DataLen()]); err != nil {
			return done, err
		}
		if over {
			if !full {
				done++
			}
			if time.Now().Before(until) {
				start()
			} else {
				running--
			}
		}
	}
	return done, err
}

// measure is the rate of a target under a load, and its processor time for one command in microseconds.
func (l load) measure(b testing.TB, addr string, lun uint64, pid, span int, d time.Duration) (rate, cpu float64) {
	b.Helper()
	var group sync.WaitGroup
	done := make([]int, l.sessions)
	initiators := make([]*initiator, l.sessions)
	for n := range initiators {
		initiators[n] = dial(b, addr, testInitiator)
		initiators[n].isid = byte(n)
		require.NoError(b, initiators[n].login(testTarget, secrets{}))
		for range 5 { // tgtd tells every session that there was a reset
			tag := initiators[n].tag
			require.NoError(b, initiators[n].send(initiators[n].header(testUnitReady, lun, pdu.Final, 0), nil))
			_, err := initiators[n].finish(tag, nil)
			require.NoError(b, err)
		}
	}
	used, begun := cpuOf(b, pid), time.Now()
	for n, i := range initiators {
		group.Go(func() {
			var err error
			if done[n], err = l.press(i, lun, span, begun.Add(d)); err != nil {
				b.Error(err)
			}
		})
	}
	group.Wait()
	took := time.Since(begun)
	used = cpuOf(b, pid) - used
	total := 0
	for n := range done {
		total += done[n]
		initiators[n].nc.Close()
	}
	return float64(total) / took.Seconds(), float64(used.Nanoseconds()) / 1000 / float64(max(total, 1))
}

// fill makes a file, in the page cache and on disk. It is written in pieces: what one call writes is one unit of the page cache if there is room for
// one, and small writes to large units cost many times what they cost to small ones, so that one of two files would be the slower by chance.
func fill(b testing.TB, path string, span int) {
	b.Helper()
	f, err := os.Create(path)
	require.NoError(b, err)
	defer f.Close()
	zeros := make([]byte, 64<<10)
	for at := 0; at < span; at += len(zeros) {
		_, err := f.WriteAt(zeros, int64(at))
		require.NoError(b, err)
	}
	require.NoError(b, f.Sync())
}

// howOpen is how a process has opened a file: the flags of open(2), as the kernel numbers them, but for two that change nothing.
func howOpen(b testing.TB, pid int, path string) (flags int) {
	b.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	require.NoError(b, err)
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != path {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, filepath.Base(link)))
		require.NoError(b, err)
		var at int64
		_, err = fmt.Sscanf(string(text), "pos:\t%d\nflags:\t%o", &at, &flags)
		require.NoError(b, err)
		const largeFile, closeOnExec = 0o100000, 0o2000000
		return flags &^ (largeFile | closeOnExec)
	}
	require.FailNow(b, "it is not open", path)
	return 0
}

// caches tells whether a target announces a write cache.
func caches(b testing.TB, addr string, lun uint64) bool {
	b.Helper()
	i := dial(b, addr, testInitiator)
	defer i.nc.Close()
	require.NoError(b, i.login(testTarget, secrets{}))
	for range 5 { // tgtd tells every session that there was a reset
		tag := i.tag
		require.NoError(b, i.send(i.header([]byte{0x1a, 0, 0x08, 0, 0xff, 0}, lun, pdu.Final|pdu.Read, 255), nil))
		res, err := i.finish(tag, nil)
		require.NoError(b, err)
		if res.status == 0 {
			return res.in[4+int(res.in[3])+2]&0x04 != 0
		}
	}
	require.FailNow(b, "no answer to MODE SENSE", addr)
	return false
}

// BenchmarkPeerISCSI measures our target and tgtd, each in a process of its own over a file of its own, in turns. It looks whether they are
// alike: the files are opened in one way, both targets announce a write cache, and nobody flushes. One load alone: -bench 'PeerISCSI/tmpfs/read-1m-qd1$'.
func BenchmarkPeerISCSI(b *testing.B) {
	testneed.Root(b)
	testneed.Tools(b, "tgtd", "tgtadm")
	const span = 256 << 20
	rounds, each := 5, 250*time.Millisecond
	loads := []load{
		{"randread-4k-qd1", false, 4096, true, 1, 1, 1},
		{"randread-4k-qd32", false, 4096, true, 32, 1, 1},
		{"randread-4k-qd32-2sessions", false, 4096, true, 32, 2, 1.5},
		{"randwrite-4k-qd1", true, 4096, true, 1, 1, 1},
		{"randwrite-4k-qd32", true, 4096, true, 32, 1, 1},
		{"randwrite-4k-qd32-2sessions", true, 4096, true, 32, 2, 1.5},
		{"read-128k-qd32", false, 128 << 10, false, 32, 1, 1},
		{"write-128k-qd32", true, 128 << 10, false, 32, 1, 1},
		{"read-128k-qd1", false, 128 << 10, false, 1, 1, 1},
		{"write-128k-qd1", true, 128 << 10, false, 1, 1, 1},
		{"read-1m-qd1", false, 1 << 20, false, 1, 1, 1},
		{"read-1m-qd32", false, 1 << 20, false, 32, 1, 1},
		{"write-1m-qd1", true, 1 << 20, false, 1, 1, 1},
		{"write-1m-qd32", true, 1 << 20, false, 32, 1, 1},
	}
	disk, err := os.MkdirTemp("", "iscsi")
	require.NoError(b, err)
	memory, err := os.MkdirTemp("/dev/shm", "iscsi")
	require.NoError(b, err)
	b.Cleanup(func() {
		_ = os.RemoveAll(disk)
		_ = os.RemoveAll(memory)
	})
	for _, place := range []struct{ name, dir string }{{"tmpfs", memory}, {"disk", disk}} {
		b.Run(place.name, func(b *testing.B) {
			var files []string
			for _, name := range []string{"ours", "tgtd"} {
				path := filepath.Join(place.dir, name)
				fill(b, path, span)
				files = append(files, path)
			}
			ours := startProcess(b, files[0], testInitiator)
			peer, pid := startTgtd(b, files[1])
			require.Equal(b, os.O_RDWR, howOpen(b, ours.cmd.Process.Pid, files[0]))
			require.Equal(b, os.O_RDWR, howOpen(b, pid, files[1]))
			require.True(b, caches(b, ours.addr, 0))
			require.True(b, caches(b, peer, 1<<48))
			for _, l := range loads {
				b.Run(l.name, func(b *testing.B) {
					var rates, peers, cpus, peerCPUs []float64
					// The first of each is not counted: it finds other pages clean than the rest.
					l.measure(b, ours.addr, 0, ours.cmd.Process.Pid, span, each/2)
					l.measure(b, peer, 1<<48, pid, span, each/2)
					for range rounds {
						r, c := l.measure(b, ours.addr, 0, ours.cmd.Process.Pid, span, each)
						rates, cpus = append(rates, r), append(cpus, c)
						r, c = l.measure(b, peer, 1<<48, pid, span, each)
						peers, peerCPUs = append(peers, r), append(peerCPUs, c)
					}
					rate, other := benchline.Median(rates), benchline.Median(peers)
					cpu, otherCPU := benchline.Median(cpus), benchline.Median(peerCPUs)
					setup := fmt.Sprintf("%s, files of 256 MiB on %s, opened alike, written and flushed before in pieces of 64 KiB, through the page cache; the first burst as each has agreed on, with the command; initiator in Go on the same processors; tgtd %.3g us of processor time per command",
						l.name, place.name, otherCPU)
					benchline.Report(b, benchline.Line{Name: "iscsi-" + place.name + "-" + l.name, Ours: rate, Peer: other, PeerName: "tgtd",
						Ratio: rate / other, Unit: "1/s", Goal: fmt.Sprintf(">= %gx", l.goal), Met: rate >= l.goal*other, CPU: cpu, Runs: rounds, Setup: setup})
					benchline.Report(b, benchline.Line{Name: "iscsi-cpu-" + place.name + "-" + l.name, Ours: cpu, Peer: otherCPU, PeerName: "tgtd",
						Ratio: otherCPU / cpu, Unit: "us", Goal: "<= 0.6x", Met: cpu <= 0.6*otherCPU, CPU: cpu, Runs: rounds, Setup: setup})
				})
			}
		})
	}
}
