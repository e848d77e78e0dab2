package libvirt_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/internal/benchline"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// BenchmarkPeerCreate compares Create with plain libvirt making the same domain, in turns on one libvirtd: virDomainCreateXML
// on a connection that is open, which is the least there is, and `virsh create`. What is timed is until the machine runs. Each
// side takes each place in a round equally often, as what comes after the end of a machine is slower.
func BenchmarkPeerCreate(b *testing.B) {
	testneed.Slow(b)
	r := newRig(b)
	h, ctx := r.driver(), b.Context()
	raw, err := net.Dial("unix", r.Socket())
	require.NoError(b, err)
	plain := golibvirt.NewWithDialer(dialers.NewAlreadyConnected(raw))
	require.NoError(b, plain.ConnectToURI(golibvirt.QEMUSystem))
	defer func() { require.NoError(b, plain.Disconnect()) }()

	var cpu time.Duration
	const ours, createXML, virsh = 0, 1, 2
	took := make([][]float64, 3)
	create := []func(m compute.Machine, text, file string){
		ours: func(m compute.Machine, _, _ string) { require.NoError(b, h.Create(ctx, m)) },
		createXML: func(_ compute.Machine, text, _ string) {
			_, err := plain.DomainCreateXML(text, 0)
			require.NoError(b, err)
		},
		virsh: func(_ compute.Machine, _, file string) { r.virsh("create", file) },
	}
	one := func(side int) {
		m := r.machine()
		text, err := h.DomainXML(m)
		require.NoError(b, err)
		file := filepath.Join(r.dir, m.ID+".xml")
		require.NoError(b, os.WriteFile(file, []byte(text), 0o600))
		used, start := benchline.CPU(), time.Now()
		create[side](m, text, file)
		took[side] = append(took[side], float64(time.Since(start).Microseconds())/1000)
		if side == ours {
			cpu += benchline.CPU() - used
			require.NoError(b, h.Destroy(ctx, m.ID, m.Epoch))
			return
		}
		require.NoError(b, plain.DomainDestroy(golibvirt.Domain{Name: "instance-" + m.ID, UUID: golibvirt.UUID(uuid.MustParse(m.ID))}))
	}
	const rounds = 15
	for b.Loop() {
		for range 2 { // warms the page cache, and the connections
			one(ours)
			one(createXML)
			one(virsh)
		}
		cpu, took = 0, make([][]float64, 3)
		for round := range rounds {
			for place := range 3 {
				one((round + place) % 3)
			}
		}
		us := benchline.Median(took[ours])
		for side, name := range map[int]string{createXML: "virDomainCreateXML", virsh: "virsh create"} {
			peer := benchline.Median(took[side])
			benchline.Report(b, benchline.Line{
				Name: "compute/libvirt: create to running", Ours: us, Peer: peer, PeerName: name, Ratio: peer / us, Unit: "ms",
				Goal: "<= 1.05x the time", Met: us <= 1.05*peer, CPU: float64(cpu.Microseconds()) / rounds, Runs: rounds,
				Setup: "the same domain of 96 MiB under TCG on one libvirtd, in turns",
			})
		}
	}
}
