package dewpoint_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a host on fakes that outlives the clouds on it.
type rig struct {
	host  *fakecompute.Host
	disks *fakecompute.Disks
	links *fakenetwork.Manager
	cfg   dewpoint.Config
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{host: fakecompute.NewHost(), disks: fakecompute.NewDisks(), links: fakenetwork.New(fakenetwork.Config{})}
	r.cfg = dewpoint.Config{Hypervisor: fakecompute.New(fakecompute.Config{Host: r.host}), NetworkManager: r.links, Disks: r.disks,
		Log: memstate.New(memstate.Config{}), Dir: filepath.Join(t.TempDir(), "cloud")}
	return r
}

// run starts a cloud; stop ends it and returns what Run returned.
func run(t *testing.T, cfg dewpoint.Config) (cloud *dewpoint.Cloud, s *dewpoint.Services, ctx context.Context, stop func() error) {
	t.Helper()
	cloud, err := dewpoint.New(cfg)
	require.NoError(t, err)
	life, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- cloud.Run(life) }()
	stop = sync.OnceValue(func() error { end(); return <-ended })
	t.Cleanup(func() { _ = stop() })
	s, err = cloud.Services(life)
	require.NoError(t, err)
	return cloud, s, auth.NewContext(t.Context(), auth.Admin("project")), stop
}

func furnish(t *testing.T, ctx context.Context, s *dewpoint.Services) compute.RunRequest {
	t.Helper()
	_, err := s.Networks.Create(ctx, network.Network{Name: "lan", Mode: network.FlatDHCP, CIDR: netip.MustParsePrefix("10.0.0.0/24")})
	require.NoError(t, err)
	disk, err := s.Images.Create(ctx, image.Spec{Name: "empty", Format: image.Raw}, bytes.NewReader(make([]byte, 1<<20)))
	require.NoError(t, err)
	return compute.RunRequest{Name: "web", Image: disk.ID, Flavor: "m1.tiny"}
}

func TestAMistakeInTheConfigNamesTheField(t *testing.T) {
	full := newRig(t).cfg
	blobs, err := image.NewFiles(t.TempDir())
	require.NoError(t, err)
	defer blobs.Close()
	for _, c := range []struct {
		says   string
		change func(*dewpoint.Config)
	}{
		{"Config.NetworkManager is nil", func(c *dewpoint.Config) { c.NetworkManager = nil }},
		{"Config.Hypervisor is nil", func(c *dewpoint.Config) { c.Hypervisor = nil }},
		{"Hypervisor is nil, must be set where Metadata or Servers are", func(c *dewpoint.Config) {
			c.Hypervisor, c.NetworkManager = nil, nil
			c.Metadata = func(*dewpoint.Services) (network.Server, error) { return nil, nil }
		}},
		{"Config.Dir is empty", func(c *dewpoint.Config) { c.Dir = "" }},
		{"Config.Images is set", func(c *dewpoint.Config) { c.Images, c.Blobs = image.BlobSource{}, blobs }},
		{"Config.Heartbeat is 11m0s", func(c *dewpoint.Config) { c.Heartbeat = 11 * time.Minute }},
		{"Config.StopGrace is -1s", func(c *dewpoint.Config) { c.StopGrace = -time.Second }},
		{"Config.Repair is -1s", func(c *dewpoint.Config) { c.Repair = -time.Second }},
		{"Config.Sync is -1s", func(c *dewpoint.Config) { c.Sync = -time.Second }},
		{"Config.Tick is -1s", func(c *dewpoint.Config) { c.Tick = -time.Second }},
	} {
		cfg := full
		c.change(&cfg)
		_, err := dewpoint.New(cfg)
		require.ErrorContains(t, err, c.says)
		require.True(t, errdefs.IsInvalidArgument(err), err)
	}
	require.NoDirExists(t, full.Dir, "New touches nothing")
}

func TestANextRunGoesOnWithTheMachines(t *testing.T) {
	r := newRig(t)
	cloud, s, ctx, stop := run(t, r.cfg)
	req := furnish(t, ctx, s)
	made, err := s.Compute.Run(ctx, req)
	require.NoError(t, err)
	_, err = s.Compute.WaitActive(ctx, made[0].ID)
	require.NoError(t, err)
	require.NoError(t, stop())
	_, err = s.Compute.Run(ctx, req)
	require.True(t, errdefs.IsUnavailable(err), "services end with their Run: %v", err)

	// The same Cloud again, then another one over the same records and host.
	life, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- cloud.Run(life) }()
	s, err = cloud.Services(life)
	require.NoError(t, err)
	require.True(t, errdefs.IsFailedPrecondition(cloud.Run(life)), "one Run at a time")
	found, err := s.Compute.Get(ctx, made[0].ID)
	require.NoError(t, err)
	require.Equal(t, compute.StateActive, found.State)
	end()
	require.NoError(t, <-ended)

	cloud, s, ctx, _ = run(t, r.cfg)
	found, err = s.Compute.Get(ctx, made[0].ID)
	require.NoError(t, err)
	require.Equal(t, compute.StateActive, found.State)
	requireAgreement(t, ctx, cloud)
	require.NoError(t, s.Compute.Terminate(ctx, made[0].ID))
	require.NoError(t, s.Compute.WaitGone(ctx, made[0].ID))
	requireAgreement(t, ctx, cloud)
	domains, err := r.cfg.Hypervisor.List(ctx)
	require.NoError(t, err)
	require.Empty(t, domains)
}

func requireAgreement(t *testing.T, ctx context.Context, cloud *dewpoint.Cloud) {
	t.Helper()
	differences, err := cloud.Audit(ctx)
	require.NoError(t, err)
	require.Empty(t, differences)
}

func TestTwoCloudsLiveInOneProcess(t *testing.T) {
	var all sync.WaitGroup
	for n := range 2 {
		r := newRig(t)
		cloud, s, ctx, _ := run(t, r.cfg)
		req := furnish(t, ctx, s)
		req.Name = fmt.Sprintf("cloud%d", n)
		req.MaxCount = 5
		all.Go(func() {
			made, err := s.Compute.Run(ctx, req)
			if err != nil {
				t.Error(err)
				return
			}
			for _, i := range made {
				if _, err := s.Compute.WaitActive(ctx, i.ID); err != nil {
					t.Error(err)
				}
			}
			if found, err := s.Compute.List(ctx, compute.ListOptions{AllProjects: true}); err != nil || len(found) != 5 {
				t.Errorf("%d instances, %v", len(found), err)
			}
			if differences, err := cloud.Audit(ctx); err != nil || len(differences) > 0 {
				t.Error(differences, err)
			}
		})
	}
	all.Wait()
}

// told is a server of a node's guests that notes what it is told.
type told struct{ taps, runs atomic.Int64 }

func (s *told) Apply(context.Context, network.Desired) error            { return nil }
func (s *told) Plug(context.Context, network.Bridge, network.Tap) error { s.taps.Add(1); return nil }
func (s *told) Unplug(context.Context, string) error                    { return nil }
func (s *told) Run(ctx context.Context) error                           { s.runs.Add(1); <-ctx.Done(); return nil }

func TestMetadataIsMadeWhenTheRecordsAreOpen(t *testing.T) {
	r := newRig(t)
	var server told
	var records *state.Store
	r.cfg.Metadata = func(s *dewpoint.Services) (network.Server, error) {
		records = s.Store
		return &server, nil
	}
	var other told
	r.cfg.Servers = []network.Server{&other}
	_, s, ctx, stop := run(t, r.cfg)
	require.Same(t, s.Store, records)
	made, err := s.Compute.Run(ctx, furnish(t, ctx, s))
	require.NoError(t, err)
	_, err = s.Compute.WaitActive(ctx, made[0].ID)
	require.NoError(t, err)
	require.EqualValues(t, 1, server.taps.Load())
	require.NoError(t, stop())
	require.EqualValues(t, 1, server.runs.Load())
	require.EqualValues(t, 1, other.taps.Load())
	require.EqualValues(t, 1, other.runs.Load())

	boom := errors.New("boom")
	r.cfg.Metadata = func(*dewpoint.Services) (network.Server, error) { return nil, boom }
	cloud, err := dewpoint.New(r.cfg)
	require.NoError(t, err)
	require.ErrorIs(t, cloud.Run(t.Context()), boom)
}

// A process without a hypervisor takes requests for nodes that are others.
func TestAProcessThatIsNoNode(t *testing.T) {
	r := newRig(t)
	front := dewpoint.Config{Log: r.cfg.Log, Dir: filepath.Join(t.TempDir(), "front"), Blobs: r.cfg.Blobs}
	run(t, r.cfg)
	cloud, s, ctx, _ := run(t, front)
	_, err := cloud.Audit(ctx)
	require.True(t, errdefs.IsFailedPrecondition(err))
	req := furnish(t, ctx, s)
	made, err := s.Compute.Run(ctx, req) // the buses differ, so no doorbell arrives: the node looks by itself
	require.NoError(t, err)
	_, err = s.Compute.WaitActive(ctx, made[0].ID)
	require.NoError(t, err)
}

func TestServicesSayWhyThereAreNone(t *testing.T) {
	r := newRig(t)
	r.cfg.Dir = filepath.Join(t.TempDir(), "no", "parent")
	cloud, err := dewpoint.New(r.cfg)
	require.NoError(t, err)
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = cloud.Services(short)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	failed := cloud.Run(t.Context())
	require.ErrorContains(t, failed, "Config.Dir")
	_, err = cloud.Services(t.Context())
	require.Equal(t, failed, err)
}

func TestAHostIsKnownByItsID(t *testing.T) {
	r := newRig(t)
	r.cfg.Host.Name = "before"
	_, s, ctx, stop := run(t, r.cfg)
	hosts := func() (all []scheduler.HostState) {
		t.Helper()
		all, err := s.Hosts.List(ctx)
		require.NoError(t, err)
		return all
	}
	first := hosts()
	require.Len(t, first, 1)
	require.NoError(t, stop())

	r.cfg.Host.Name = "after"
	_, s, ctx, stop = run(t, r.cfg)
	second := hosts()
	require.Len(t, second, 1)
	require.Equal(t, first[0].ID, second[0].ID)
	require.Equal(t, "after", second[0].Name)
	require.NoError(t, stop())

	require.NoError(t, os.WriteFile(filepath.Join(r.cfg.Dir, "host-id"), []byte("garbage"), 0o600))
	cloud, err := dewpoint.New(r.cfg)
	require.NoError(t, err)
	err = cloud.Run(t.Context())
	require.True(t, errdefs.IsDataLoss(err), err)
	require.ErrorContains(t, err, "host-id")
}

// Each way in which records and host can differ has a line of its own.
func TestAnAuditFindsWhatDiffers(t *testing.T) {
	r := newRig(t)
	r.cfg.Repair = time.Hour // nobody mends what the test breaks
	r.cfg.Sync = time.Hour
	cloud, s, ctx, _ := run(t, r.cfg)
	made, err := s.Compute.Run(ctx, furnish(t, ctx, s))
	require.NoError(t, err)
	i, err := s.Compute.WaitActive(ctx, made[0].ID)
	require.NoError(t, err)
	requireAgreement(t, ctx, cloud)
	have, err := r.links.Inspect(ctx)
	require.NoError(t, err)
	require.Len(t, have.Taps, 1)

	orphan := compute.Machine{ID: strings.Repeat("0", 8) + "-0000-4000-8000-" + strings.Repeat("0", 12), Epoch: 7, Name: "orphan", VCPUs: 1,
		MemoryMiB: 1, Kernel: "/k"}
	foreign := have.Taps[0]
	foreign.Name = "dpforeign"
	for _, c := range []struct {
		says         string
		break_, mend func() error
	}{
		{"no record names it",
			func() error { return r.cfg.Hypervisor.Create(ctx, orphan) },
			func() error { return r.cfg.Hypervisor.Destroy(ctx, orphan.ID, orphan.Epoch) }},
		{"is missing",
			func() error { return r.links.Unplug(ctx, have.Taps[0].Name) },
			func() error { return r.links.Plug(ctx, have.Bridges[0], have.Taps[0]) }},
		{"tap dpforeign: no record wants it",
			func() error { return r.links.Plug(ctx, have.Bridges[0], foreign) },
			func() error { return r.links.Unplug(ctx, foreign.Name) }},
		{"are missing",
			func() error { return r.disks.Remove(ctx, i.ID) },
			func() error { _, err := r.disks.Make(ctx, i); return err }},
		{"no record wants them",
			func() error { _, err := r.disks.Make(ctx, compute.Instance{ID: orphan.ID}); return err },
			func() error { return r.disks.Remove(ctx, orphan.ID) }},
	} {
		require.NoError(t, c.break_(), c.says)
		differences, err := cloud.Audit(ctx)
		require.NoError(t, err)
		require.NotEmpty(t, differences, c.says)
		require.Contains(t, strings.Join(differences, "\n"), c.says)
		require.NoError(t, c.mend(), c.says)
		requireAgreement(t, ctx, cloud)
	}
}

// A context that ends at any time during the start leaves nothing behind, and the next Run works.
func TestACloudThatIsStoppedWhileItStarts(t *testing.T) {
	r := newRig(t)
	for after := range 20 {
		cloud, err := dewpoint.New(r.cfg)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(after)*100*time.Microsecond)
		err = cloud.Run(ctx)
		cancel()
		require.True(t, err == nil || errors.Is(err, context.DeadlineExceeded), err)
	}
	cloud, _, ctx, _ := run(t, r.cfg)
	requireAgreement(t, ctx, cloud)
}
