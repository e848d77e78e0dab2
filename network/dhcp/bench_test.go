//go:build linux

package dhcp

import (
	"bytes"
	"encoding/json"
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
	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// BenchmarkPeerDHCP measures whole exchanges (DISCOVER, OFFER, REQUEST, ACK) beside dnsmasq and Kea with static hosts, on nodes
// whose ports all have a lease. Each server is a process of its own with its leases on the same disk, and writes them there before it
// answers; ours alone has the disk confirm it. The load is a generator of our own for all of them, which takes less of the machine than
// perfdhcp; see [BenchmarkPeerPerfdhcp].
func BenchmarkPeerDHCP(b *testing.B) {
	testneed.Root(b)
	testneed.Tools(b, "ip", "dnsmasq", "kea-dhcp4")
	const rounds, length = 5, 2 * time.Second
	type peer struct {
		name  string
		start func(testing.TB, *node, int) *os.Process
		goal  float64
	}
	for _, scale := range []struct {
		ports int
		peers []peer
	}{
		{1000, []peer{{"dnsmasq", startDnsmasq, 10}, {"kea", startKea, 1.5}}},
		{10000, []peer{{"dnsmasq", startDnsmasq, 75}, {"kea", startKea, 1.5}}},
	} {
		b.Run(strconv.Itoa(scale.ports), func(b *testing.B) {
			for range b.N {
				ours := newSide(b, scale.ports, startOurs)
				var theirs []*side
				for _, p := range scale.peers {
					theirs = append(theirs, newSide(b, scale.ports, p.start))
				}
				for range rounds {
					ours.measure(length)
					for _, s := range theirs {
						s.measure(length)
					}
				}
				o := benchline.Median(ours.rates)
				for i, p := range scale.peers {
					s := theirs[i]
					rate := benchline.Median(s.rates)
					name := fmt.Sprintf("dhcp/exchanges/%d-ports", scale.ports)
					if p.name != "dnsmasq" {
						name += "/" + p.name
					}
					benchline.Report(b, benchline.Line{
						Name: name, Ours: o, Peer: rate, PeerName: p.name, Ratio: o / rate, Unit: "1/s",
						Goal: fmt.Sprintf(">= %gx", p.goal), Met: o/rate >= p.goal, CPU: benchline.Median(ours.cpu), Runs: rounds,
						Setup: fmt.Sprintf("%d static hosts, all leased; %d exchanges at a time; leases on disk by all, fsynced by ours; %s used %.0f us of CPU for one; requests sent again, as no answer came: ours %d, %s %d; NAKs: ours %d, %s %d; generator busy %.0f %% beside ours",
							scale.ports, window, p.name, benchline.Median(s.cpu), ours.g.again, p.name, s.g.again, ours.g.naks, p.name, s.g.naks, benchline.Median(ours.load)),
					})
					fmt.Printf("  ours %.0f  %s %.0f  cpu ours %.1f %s %.1f us  generator busy: ours %.0f%% %s %.0f%%  again %d/%d naks %d/%d\n", ours.rates, p.name, s.rates,
						benchline.Median(ours.cpu), p.name, benchline.Median(s.cpu), benchline.Median(ours.load), p.name, benchline.Median(s.load), ours.g.again, s.g.again, ours.g.naks, s.g.naks)
				}
			}
		})
	}
}

// side is one of the servers that are compared.
type side struct {
	b                testing.TB
	g                *generator
	guest            *netnstest.NS
	process          *os.Process
	next             int
	rates, cpu, load []float64
}

func newSide(b testing.TB, ports int, start func(testing.TB, *node, int) *os.Process) *side {
	n := newNode(b)
	s := &side{b: b, process: start(b, n, ports), g: newGenerator(b, n.guest, ports), guest: n.guest}
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

// startKea runs Kea with a reservation for each port, in all the threads that it takes for itself.
func startKea(b testing.TB, n *node, ports int) *os.Process {
	dir := b.TempDir()
	type object = map[string]any
	hosts := make([]object, ports)
	var leases bytes.Buffer
	leases.WriteString("address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context\n")
	for i := range hosts {
		t := testTap(i)
		hosts[i] = object{"hw-address": t.MAC.String(), "ip-address": t.IPs[0].String(), "hostname": t.Hostname}
		fmt.Fprintf(&leases, "%s,%s,,3600,%d,1,0,0,%s,0,\n", t.IPs[0], t.MAC, time.Now().Add(time.Hour).Unix(), t.Hostname)
	}
	leaseFile := filepath.Join(dir, "leases.csv")
	require.NoError(b, os.WriteFile(leaseFile, leases.Bytes(), 0o600))
	config, err := json.Marshal(object{"Dhcp4": object{
		"interfaces-config":            object{"interfaces": []string{"br0"}, "dhcp-socket-type": "raw"},
		"lease-database":               object{"type": "memfile", "persist": true, "name": leaseFile, "lfc-interval": 0},
		"multi-threading":              object{"enable-multi-threading": true, "thread-pool-size": 0, "packet-queue-size": 64},
		"authoritative":                true,
		"valid-lifetime":               3600,
		"host-reservation-identifiers": []string{"hw-address"},
		"option-data": []object{{"name": "routers", "data": "10.0.0.1"}, {"name": "domain-name-servers", "data": "10.0.0.2, 8.8.8.8"},
			{"name": "domain-name", "data": "novalocal"}, {"name": "interface-mtu", "data": "1500"}},
		"subnet4": []object{{"id": 1, "subnet": "10.0.0.0/16", "interface": "br0", "reservations-in-subnet": true, "reservations": hosts}},
		"loggers": []object{{"name": "kea-dhcp4", "severity": "ERROR", "output_options": []object{{"output": filepath.Join(dir, "log")}}}},
	}})
	require.NoError(b, err)
	file := filepath.Join(dir, "kea.json")
	require.NoError(b, os.WriteFile(file, config, 0o600))
	cmd := exec.Command("kea-dhcp4", "-c", file)
	cmd.Env = append(os.Environ(), "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(b, n.ns.Do(cmd.Start))
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if b.Failed() {
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			b.Logf("kea: %s%s", said.String(), log)
		}
	})
	return cmd.Process
}
