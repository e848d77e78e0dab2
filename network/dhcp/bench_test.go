//go:build linux

package dhcp

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/benchline"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// BenchmarkPeerDHCP measures whole exchanges (DISCOVER, OFFER, REQUEST, ACK) beside dnsmasq with static hosts, on nodes whose
// ports all have a lease. Each server is a process of its own with its leases on the same disk; both write them there before
// they answer.
func BenchmarkPeerDHCP(b *testing.B) {
	testneed.Root(b)
	testneed.Tools(b, "ip", "dnsmasq")
	const rounds, length = 5, 2 * time.Second
	for _, scale := range []struct {
		ports int
		goal  float64
	}{{1000, 10}, {10000, 75}} {
		b.Run(strconv.Itoa(scale.ports), func(b *testing.B) {
			for range b.N {
				ours, peer := newSide(b, scale.ports, startOurs), newSide(b, scale.ports, startDnsmasq)
				for range rounds {
					ours.measure(length)
					peer.measure(length)
				}
				o, p := benchline.Median(ours.rates), benchline.Median(peer.rates)
				benchline.Report(b, benchline.Line{
					Name: fmt.Sprintf("dhcp/exchanges/%d-ports", scale.ports), Ours: o, Peer: p, PeerName: "dnsmasq", Ratio: o / p, Unit: "1/s",
					Goal: fmt.Sprintf(">= %gx", scale.goal), Met: o/p >= scale.goal, CPU: benchline.Median(ours.cpu), Runs: rounds,
					Setup: fmt.Sprintf("%d static hosts, all leased; %d exchanges at a time; leases fsynced by both; dnsmasq used %.0f us of CPU for one; requests sent again: ours %d, dnsmasq %d; generator busy %.0f %% beside ours",
						scale.ports, window, benchline.Median(peer.cpu), ours.g.again, peer.g.again, benchline.Median(ours.load)),
				})
				fmt.Printf("  ours %.0f  dnsmasq %.0f  cpu ours %.1f dnsmasq %.1f us  generator busy: ours %.0f%% dnsmasq %.0f%%  again %d/%d naks %d/%d\n", ours.rates, peer.rates,
					benchline.Median(ours.cpu), benchline.Median(peer.cpu), benchline.Median(ours.load), benchline.Median(peer.load), ours.g.again, peer.g.again, ours.g.naks, peer.g.naks)
			}
		})
	}
}

// side is one of two servers that are compared.
type side struct {
	b                testing.TB
	g                *generator
	process          *os.Process
	next             int
	rates, cpu, load []float64
}

func newSide(b testing.TB, ports int, start func(testing.TB, *node, int) *os.Process) *side {
	n := newNode(b)
	s := &side{b: b, process: start(b, n, ports), g: newGenerator(b, n.guest, ports)}
	for range 50 { // until it answers
		done, _ := s.g.run(0, 100*time.Millisecond, false)
		if done > 0 {
			s.g.again = 0
			return s
		}
	}
	b.Fatal("the server does not answer")
	return nil
}

func (s *side) measure(length time.Duration) {
	cpu, self, start := processCPU(s.b, s.process.Pid), benchline.CPU(), time.Now()
	done, next := s.g.run(s.next, length, false)
	took := time.Since(start)
	require.NotZero(s.b, done)
	s.next = next
	s.rates = append(s.rates, float64(done)/took.Seconds())
	s.cpu = append(s.cpu, float64((processCPU(s.b, s.process.Pid)-cpu).Microseconds())/float64(done))
	s.load = append(s.load, 100*(benchline.CPU()-self).Seconds()/took.Seconds())
}

// processCPU returns the processor time of a process, which the kernel counts in hundredths of a second.
func processCPU(b testing.TB, pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(b, err)
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	require.NoError(b, err)
	system, err := strconv.Atoi(fields[12])
	require.NoError(b, err)
	return time.Duration(user+system) * 10 * time.Millisecond
}

func startOurs(b testing.TB, n *node, ports int) *os.Process {
	dir := b.TempDir()
	j, leases, _, err := openJournal(dir)
	require.NoError(b, err)
	now := time.Now()
	for i := range ports {
		t := testTap(i)
		leases[t.Name] = lease{tap: t.Name, mac: hardware(t.MAC), addr: testAddr(i), since: now.UnixMilli(), until: now.Add(time.Hour).UnixMilli()}
	}
	require.NoError(b, j.replace(leases, 0))
	j.close()
	return startChild(b, n.ns, dir, ports).Process
}

func startDnsmasq(b testing.TB, n *node, ports int) *os.Process {
	dir := b.TempDir()
	var hosts, leases bytes.Buffer
	for i := range ports {
		t := testTap(i)
		fmt.Fprintf(&hosts, "%s,%s,%s\n", t.MAC, t.IPs[0], t.Hostname)
		fmt.Fprintf(&leases, "%d %s %s %s *\n", time.Now().Add(time.Hour).Unix(), t.MAC, t.IPs[0], t.Hostname)
	}
	hostsFile, leaseFile := filepath.Join(dir, "hosts"), filepath.Join(dir, "leases")
	require.NoError(b, os.WriteFile(hostsFile, hosts.Bytes(), 0o600))
	require.NoError(b, os.WriteFile(leaseFile, leases.Bytes(), 0o600))
	cmd := exec.Command("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--interface=br0", "--bind-interfaces",
		"--except-interface=lo", "--port=0", "--dhcp-range=10.0.0.0,static,255.255.0.0,1h", "--dhcp-hostsfile="+hostsFile,
		"--dhcp-leasefile="+leaseFile, "--dhcp-lease-max=100000", "--dhcp-authoritative", "--no-ping", "--quiet-dhcp",
		"--domain=novalocal", "--dhcp-option=3,10.0.0.1", "--dhcp-option=6,10.0.0.2,8.8.8.8", "--dhcp-option=26,1500",
		"--pid-file="+filepath.Join(dir, "pid"), "--user=root", "--log-facility="+filepath.Join(dir, "log"))
	require.NoError(b, n.ns.Do(cmd.Start))
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	return cmd.Process
}
