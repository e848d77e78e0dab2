package compute_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/memqueue"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cloud is a whole one with pretended hosts.
type cloud struct {
	log     *memstate.Log
	store   *state.Store
	bus     queue.Bus
	service *compute.Service
	addrs   *network.Addresses
	nodes   []*node
	ctx     context.Context // of a user of the project "weather", with every role
}

// node is a host, with all that outlives its agent.
type node struct {
	cloud *cloud
	id    string
	host  *fakecompute.Host
	net   *fakenetwork.Node
	disks *disks
	logs  *logs
}

const (
	project  = "weather"
	debianID = "11111111-1111-1111-1111-111111111111"
	netID    = "22222222-2222-2222-2222-222222222222"
)

var roomy = scheduler.Resources{VCPUs: 8, MemoryMiB: 16384, DiskGiB: 1000}

func schema() []state.Schema {
	return slices.Concat(auth.Schema(), []state.Schema{image.Images}, network.Schema(), scheduler.Schema(), volume.Schema(), compute.Schema(), operation.Schema())
}

// newCloud makes a cloud with hosts that no agent works for yet.
func newCloud(t testing.TB, hosts int) *cloud {
	log := memstate.New(memstate.Config{})
	c := newCloudOver(t, log, hosts, func(b queue.Bus) queue.Bus { return b })
	c.log = log
	return c
}

// newCloudOver makes one over a log that the caller closes, and a bus that the caller may wrap.
func newCloudOver(t testing.TB, log state.Log, hosts int, wrap func(queue.Bus) queue.Bus) *cloud {
	c := &cloud{addrs: &network.Addresses{}, bus: wrap(memqueue.New(memqueue.Config{}))}
	user := auth.Caller{UserID: "ann", ProjectID: project, Roles: []string{auth.SysAdmin}}
	c.ctx = auth.NewContext(context.Background(), user)
	var err error
	c.store, err = state.Open(c.ctx, state.Config{Log: log, Schema: schema()})
	require.NoError(t, err)
	pick, err := scheduler.New(scheduler.Config{Used: compute.Used})
	require.NoError(t, err)
	c.service, err = compute.NewService(compute.ServiceConfig{Store: c.store, Bus: c.bus, Scheduler: pick, Addresses: c.addrs,
		Policy: auth.DefaultPolicy()})
	require.NoError(t, err)
	require.NoError(t, c.service.InstallFlavors(admin(), compute.DefaultFlavors()))
	c.update(t, func(tx *state.Tx) error {
		n := network.Network{ID: netID, Name: "lan", Mode: network.FlatDHCP, CIDR: netip.MustParsePrefix("10.0.0.0/8"),
			Gateway: netip.MustParseAddr("10.0.0.1"), Router: netip.MustParseAddr("10.0.0.1"), Bridge: "br100", MTU: 1450}
		return errors.Join(network.Networks.Put(tx, n), image.Images.Put(tx, debian()))
	})
	for range hosts {
		n := &node{cloud: c, id: uuid.NewString(), host: fakecompute.NewHost(), net: fakenetwork.NewNode(), disks: &disks{files: map[string]bool{}}, logs: &logs{}}
		c.nodes = append(c.nodes, n)
	}
	return c
}

func debian() image.Image {
	return image.Image{ID: debianID, ProjectID: "images", Name: "debian", Format: image.QCOW2, Status: image.Active, Visibility: image.Public,
		VirtualBytes: 2 << 30, Size: 1 << 20, SHA256: strings.Repeat("ab", 32)}
}

func admin() context.Context { return auth.NewContext(context.Background(), auth.Admin(project)) }

func (c *cloud) update(t testing.TB, fn func(tx *state.Tx) error) {
	t.Helper()
	require.NoError(t, c.store.Update(context.Background(), fn))
}

func (c *cloud) close() error {
	err := errors.Join(c.bus.Close(), c.store.Close())
	if c.log != nil {
		err = errors.Join(err, c.log.Close())
	}
	return err
}

// agent makes a new agent of the node, as after the death of the last.
func (n *node) agent(hooks operation.Hooks) (*compute.Agent, error) {
	ports, err := n.ports()
	if err != nil {
		return nil, err
	}
	return compute.NewAgent(compute.AgentConfig{
		Store: n.cloud.store, Bus: n.cloud.bus, Host: scheduler.Host{ID: n.id, Name: "host-" + n.id[:8]}, DiskGiB: roomy.DiskGiB,
		Hypervisor: fakecompute.New(fakecompute.Config{Host: n.host, Info: compute.HostInfo{VCPUs: roomy.VCPUs, MemoryMiB: roomy.MemoryMiB}}),
		Network:    ports, Disks: n.disks, Addresses: n.cloud.addrs,
		Hooks: hooks, Logger: slog.New(n.logs),
	})
}

func (n *node) ports() (*network.Agent, error) {
	return network.NewAgent(network.AgentConfig{Store: n.cloud.store, HostID: n.id,
		Manager: fakenetwork.New(fakenetwork.Config{Node: n.net})})
}

func (n *node) work(ctx context.Context, hooks operation.Hooks) error {
	a, err := n.agent(hooks)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// start has agents of all nodes at work until stop is called, and waits until the hosts are known.
func (c *cloud) start(t testing.TB) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var agents sync.WaitGroup
	for _, n := range c.nodes {
		agents.Go(func() {
			if err := n.work(ctx, operation.Hooks{}); err != nil {
				t.Error(err)
			}
		})
	}
	for _, n := range c.nodes {
		err := scheduler.Beats.Await(ctx, c.store, n.id, func(_ scheduler.Beat, found bool) (bool, error) { return found, nil })
		require.NoError(t, err)
	}
	return func() { cancel(); agents.Wait() }
}

// enlist makes the hosts known without agents.
func (c *cloud) enlist(t testing.TB) {
	c.update(t, func(tx *state.Tx) error {
		for _, n := range c.nodes {
			if err := errors.Join(scheduler.Hosts.Put(tx, scheduler.Host{ID: n.id, Name: "host-" + n.id[:8], Zone: "nova", Total: roomy}),
				scheduler.Beats.Put(tx, scheduler.Beat{HostID: n.id, At: time.Now()})); err != nil {
				return err
			}
		}
		return nil
	})
}

func one() compute.RunRequest {
	return compute.RunRequest{Name: "web", Image: debianID, Flavor: "m1.small"}
}

func (c *cloud) run(t testing.TB, req compute.RunRequest) []compute.Instance {
	t.Helper()
	made, err := c.service.Run(c.ctx, req)
	require.NoError(t, err)
	return made
}

func (c *cloud) get(t testing.TB, id string) compute.Instance {
	t.Helper()
	i, err := c.service.Get(admin(), id)
	require.NoError(t, err)
	return i
}

func (c *cloud) operations() (n int) {
	_ = c.store.View(func(v *state.View) error {
		for range operation.Table.All(v) {
			n++
		}
		return nil
	})
	return n
}

// inBubble runs a test of a cloud with one host, whose agent works, in a bubble with its own clock.
func inBubble(t *testing.T, f func(t *testing.T, c *cloud, n *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 1)
		stop := c.start(t)
		f(t, c, c.nodes[0])
		stop()
		require.NoError(t, c.close())
	})
}

// audit compares exactly what there is with what the records of instances say, when no operation is open.
func (c *cloud) audit() error {
	type world struct {
		Domains, Taps, Disks, Ports, Addresses map[string]bool
		Hosts                                  map[string]scheduler.Resources
		Projects                               map[string]compute.Use
		Operations                             int
	}
	empty := func() world {
		return world{map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{},
			map[string]scheduler.Resources{}, map[string]compute.Use{}, 0}
	}
	want, have := empty(), empty()
	_ = c.store.View(func(v *state.View) error {
		for i := range compute.Instances.All(v) {
			use := want.Projects[i.ProjectID]
			want.Projects[i.ProjectID] = use.Plus(compute.Use{Instances: 1, Cores: i.Flavor.VCPUs, MemoryMiB: i.Flavor.MemoryMiB})
			if i.State == compute.StateError {
				continue
			}
			if i.Power != compute.PowerUnknown {
				want.Domains[fmt.Sprint(i.HostID, i.ID, i.Epoch, i.Power)] = true
			}
			want.Disks[i.HostID+i.ID] = true
			want.Hosts[i.HostID] = want.Hosts[i.HostID].Plus(i.Flavor.Resources())
			for _, port := range i.Ports {
				p, err := network.Ports.Get(v, port)
				if err != nil || !p.Plugged || p.HostID != i.HostID || p.InstanceID != i.ID {
					return fmt.Errorf("port %v of %v: %w", p, i, err)
				}
				want.Ports[p.ID] = true
				want.Taps[fmt.Sprintln(i.HostID, p.TapName(), p.MAC, p.Addrs, p.Limits)] = true
				for _, a := range p.Addrs {
					want.Addresses[a.String()+p.ID] = true
				}
			}
		}
		for p := range network.Ports.All(v) {
			have.Ports[p.ID] = true
		}
		for f := range network.FixedIPs.All(v) {
			have.Addresses[f.Addr.String()+f.PortID] = true
		}
		for _, n := range c.nodes {
			if use := compute.HostUse.Get(v, n.id); use != (scheduler.Resources{}) {
				have.Hosts[n.id] = use
			}
		}
		for _, p := range []string{project, "other"} {
			if use := compute.ProjectUse.Get(v, p); use != (compute.Use{}) {
				have.Projects[p] = use
			}
		}
		return nil
	})
	for _, n := range c.nodes {
		for _, d := range n.host.Domains() {
			if d.Ours {
				have.Domains[fmt.Sprint(n.id, d.ID, d.Epoch, d.Power)] = true
			}
		}
		for _, tap := range n.net.Desired().Taps {
			have.Taps[fmt.Sprintln(n.id, tap.Name, tap.MAC, tap.IPs, tap.Limits)] = true
		}
		for id := range n.disks.list() {
			have.Disks[n.id+id] = true
		}
	}
	have.Operations = c.operations()
	if !reflect.DeepEqual(want, have) {
		return fmt.Errorf("the records say\n%+v\nbut there is\n%+v", want, have)
	}
	return nil
}

// forgetTaps is a host that lost its power: taps don't outlive it.
func (n *node) forgetTaps() {
	for _, t := range n.net.Desired().Taps {
		n.net.RemoveTap(t.Name)
	}
}

// disks are Disks that keep ids.
type disks struct {
	mu    sync.Mutex
	files map[string]bool
	fail  func(method string) error // nil: nothing fails; it strikes after the work
	swept int
}

func (d *disks) do(ctx context.Context, method string, f func()) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	f()
	if d.fail != nil {
		return d.fail(method)
	}
	return nil
}

func (d *disks) Make(ctx context.Context, i compute.Instance) (compute.Files, error) {
	err := d.do(ctx, "Make", func() { d.files[i.ID] = true })
	if i.BootVolume != "" {
		return compute.Files{ConsoleLog: "/console/" + i.ID}, err
	}
	return compute.Files{Disks: []compute.Disk{{Path: "/disks/" + i.ID, Format: "raw"}}, ConsoleLog: "/console/" + i.ID}, err
}

func (d *disks) Remove(ctx context.Context, id string) error {
	return d.do(ctx, "Remove", func() { delete(d.files, id) })
}

func (d *disks) List(context.Context) ([]string, error) {
	return slices.Collect(maps.Keys(d.list())), nil
}

func (d *disks) Sweep(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.swept++
	return nil
}

func (d *disks) sweeps() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.swept
}

func (d *disks) list() map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.files)
}

// logs keeps the messages that an agent logs.
type logs struct {
	mu    sync.Mutex
	lines []string
}

func (l *logs) Enabled(context.Context, slog.Level) bool { return true }
func (l *logs) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logs) WithGroup(string) slog.Handler            { return l }
func (l *logs) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := r.Message
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	l.lines = append(l.lines, line)
	return nil
}

func (l *logs) count(part string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}
