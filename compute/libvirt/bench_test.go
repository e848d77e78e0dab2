package libvirt_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// BenchmarkCreate compares Create with plain libvirt making the same domain, in turns on one libvirtd: virDomainCreateXML on
// a connection that is open, which is the least there is, and `virsh create`. Each figure is a median, in milliseconds, of the time
// until the machine runs; the time to destroy it is beside. Use -benchtime=7x or so.
func BenchmarkCreate(b *testing.B) {
	testneed.Slow(b)
	r := newRig(b)
	h, ctx := r.driver(), b.Context()
	raw, err := net.Dial("unix", r.Socket())
	require.NoError(b, err)
	plain := golibvirt.NewWithDialer(dialers.NewAlreadyConnected(raw))
	require.NoError(b, plain.ConnectToURI(golibvirt.QEMUSystem))
	defer func() { require.NoError(b, plain.Disconnect()) }()
	xml := func(m compute.Machine) string {
		text, err := h.DomainXML(m)
		require.NoError(b, err)
		return text
	}
	var ours, peer, virsh, destroy []time.Duration
	timed := func(all *[]time.Duration, f func()) {
		start := time.Now()
		f()
		*all = append(*all, time.Since(start))
	}
	round := func() {
		m := r.machine()
		timed(&ours, func() { require.NoError(b, h.Create(ctx, m)) })
		timed(&destroy, func() { require.NoError(b, h.Destroy(ctx, m.ID, m.Epoch)) })
		m = r.machine()
		text := xml(m)
		timed(&peer, func() {
			_, err := plain.DomainCreateXML(text, 0)
			require.NoError(b, err)
		})
		require.NoError(b, plain.DomainDestroy(golibvirt.Domain{Name: "instance-" + m.ID, UUID: golibvirt.UUID(uuid.MustParse(m.ID))}))
		m = r.machine()
		file := filepath.Join(r.dir, m.ID+".xml")
		require.NoError(b, os.WriteFile(file, []byte(xml(m)), 0o600))
		timed(&virsh, func() { r.virsh("create", file) })
		r.virsh("destroy", m.ID)
	}
	round() // the first one warms the page cache for the others
	ours, peer, virsh, destroy = nil, nil, nil, nil
	for b.Loop() {
		round()
	}
	ms := func(all []time.Duration) float64 {
		slices.Sort(all)
		return float64(all[len(all)/2].Microseconds()) / 1000
	}
	b.ReportMetric(ms(ours), "ours-ms")
	b.ReportMetric(ms(peer), "CreateXML-ms")
	b.ReportMetric(ms(virsh), "virsh-ms")
	b.ReportMetric(ms(ours)/ms(peer), "ours/CreateXML")
	b.ReportMetric(ms(ours)/ms(virsh), "ours/virsh")
	b.ReportMetric(ms(destroy), "destroy-ms")
}
