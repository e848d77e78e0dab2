package volume_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/fakevolume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const project = "weather"

// cloud has hosts with pretended volumes.
type cloud struct {
	log     *memstate.Log
	store   *state.Store
	service *volume.Service
	nodes   []*node
	ctx     context.Context // of a user of the project, with every role
}

// node is a host, with what outlives its agent.
type node struct {
	cloud    *cloud
	id       string
	driver   *fakevolume.Driver
	exporter *fakevolume.Exporter
	images   images
}

func admin() context.Context { return auth.NewContext(context.Background(), auth.Admin(project)) }

func newCloud(t testing.TB, hosts int) *cloud {
	c := &cloud{log: memstate.New(memstate.Config{}), ctx: auth.NewContext(context.Background(),
		auth.Caller{UserID: "ann", ProjectID: project, Roles: []string{auth.SysAdmin}})}
	var err error
	c.store, err = state.Open(c.ctx, state.Config{Log: c.log, Schema: slices.Concat(auth.Schema(), []state.Schema{image.Images}, scheduler.Schema(), volume.Schema(), operation.Schema())})
	require.NoError(t, err)
	c.service, err = volume.NewService(volume.ServiceConfig{Store: c.store, Policy: auth.DefaultPolicy()})
	require.NoError(t, err)
	for range hosts {
		driver, err := fakevolume.New(fakevolume.Config{Dir: t.TempDir(), TotalGiB: 16})
		require.NoError(t, err)
		c.nodes = append(c.nodes, &node{cloud: c, id: uuid.NewString(), driver: driver, exporter: fakevolume.NewExporter(), images: images{t.TempDir(), c.store}})
	}
	return c
}

// images makes the contents of images, as text.
type images struct {
	dir   string
	store *state.Store
}

// Keep has the record say that there is content, and what it begins with as its checksum.
func (i images) Keep(ctx context.Context, img image.Image, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 32)
	if _, err := f.ReadAt(b, 0); err != nil {
		return err
	}
	return i.store.Update(ctx, func(tx *state.Tx) error {
		now, err := image.Images.Get(tx, img.ID)
		if err != nil || now.Upload != img.Upload || now.Status != image.Uploading {
			return fmt.Errorf("image %s: nobody waits for this: %w", img.ID, errdefs.ErrAborted)
		}
		now.SHA256, now.Size = hex.EncodeToString(b), 32
		return image.Images.Put(tx, now)
	})
}

func (i images) Raw(_ context.Context, img image.Image, use func(path string) error) (err error) {
	f, err := os.CreateTemp(i.dir, "raw-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.WriteString("this is " + img.Name)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return use(f.Name())
}

// image puts an image on record.
func (c *cloud) image(t testing.TB, change func(*image.Image)) string {
	img := image.Image{ID: uuid.NewString(), ProjectID: project, Name: "Debian", Format: image.QCOW2, Status: image.Active, Visibility: image.Private,
		VirtualBytes: 1<<30 + 1}
	change(&img)
	require.NoError(t, c.store.Update(c.ctx, func(tx *state.Tx) error { return image.Images.Insert(tx, img) }))
	return img.ID
}

func (c *cloud) close() error { return errors.Join(c.store.Close(), c.log.Close()) }

func (n *node) agent(hooks operation.Hooks) (*volume.Agent, error) {
	return volume.NewAgent(volume.AgentConfig{Store: n.cloud.store, HostID: n.id, HostName: "host-" + n.id[:8], Driver: n.driver,
		Exporter: n.exporter, Images: n.images, Hooks: hooks})
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
	begun := time.Now()
	for _, n := range c.nodes {
		agents.Go(func() {
			if err := n.work(ctx, operation.Hooks{}); err != nil {
				t.Error(err)
			}
		})
	}
	for _, n := range c.nodes {
		err := scheduler.Beats.Await(ctx, c.store, volume.BeatID(n.id), func(b scheduler.Beat, found bool) (bool, error) {
			return found && !b.At.Before(begun.Add(-time.Second)), nil
		})
		require.NoError(t, err)
	}
	return func() { cancel(); agents.Wait() }
}

// enlist makes the hosts known without agents.
func (c *cloud) enlist(t testing.TB) {
	require.NoError(t, c.store.Update(c.ctx, func(tx *state.Tx) error {
		for _, n := range c.nodes {
			if err := volume.Hosts.Put(tx, volume.Host{ID: n.id, Name: "host-" + n.id[:8], TotalGiB: 16, FreeGiB: 16}); err != nil {
				return err
			}
			if err := scheduler.Beats.Put(tx, scheduler.Beat{HostID: volume.BeatID(n.id), At: time.Now()}); err != nil {
				return err
			}
		}
		return nil
	}))
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
		require.NoError(t, c.audit())
		require.NoError(t, c.close())
	})
}

// create makes a volume and waits for it.
func (c *cloud) create(t testing.TB, req volume.CreateRequest) volume.Volume {
	t.Helper()
	v, err := c.service.Create(c.ctx, req)
	require.NoError(t, err)
	v, err = c.service.WaitFor(c.ctx, v.ID, volume.StateAvailable)
	require.NoError(t, err)
	return v
}

func (c *cloud) snapshot(t testing.TB, of string) volume.Snapshot {
	t.Helper()
	s, err := c.service.Snapshot(c.ctx, volume.SnapshotRequest{Volume: of})
	require.NoError(t, err)
	s, err = c.service.WaitSnapshot(c.ctx, s.ID, func(s volume.Snapshot) bool { return s.State != volume.StateCreating })
	require.NoError(t, err)
	require.Equal(t, volume.StateAvailable, s.State)
	return s
}

func (c *cloud) attach(t testing.TB, id string) volume.Volume {
	t.Helper()
	_, err := c.service.Attach(c.ctx, request(id))
	require.NoError(t, err)
	v, err := c.service.WaitFor(c.ctx, id, volume.StateInUse)
	require.NoError(t, err)
	return v
}

// use attaches a volume, and logs in to it.
func (c *cloud) use(t testing.TB, n *node, id string) *fakevolume.Session {
	t.Helper()
	c.attach(t, id)
	at, err := c.service.Connection(c.ctx, id)
	require.NoError(t, err)
	session, err := n.exporter.Login(at.Target, initiator, at.User, at.Secret)
	require.NoError(t, err)
	return session
}

const (
	initiator       = "iqn.2026-01.example:client"
	secondInitiator = "iqn.2026-01.example:second"
)

func request(id string) volume.AttachRequest {
	return volume.AttachRequest{Volume: id, Consumer: "a machine", Initiator: initiator}
}

// audit compares exactly what there is with what the records say, when no operation is open.
func (c *cloud) audit() error {
	if n := c.operations(); n > 0 {
		return fmt.Errorf("%d operations are open", n)
	}
	var found []string
	for _, n := range c.nodes {
		a, err := n.agent(operation.Hooks{})
		if err != nil {
			return err
		}
		more, err := a.Difference(c.ctx)
		if err != nil {
			return err
		}
		found = append(found, more...)
	}
	_ = c.store.View(func(r *state.View) error {
		var use auth.Amounts
		for v := range volume.Volumes.All(r) {
			use = use.Plus(auth.Amounts{Volumes: 1, Gigabytes: v.SizeGiB})
			at, err := volume.Attachments.Get(r, v.ID)
			if attached := err == nil; attached != (v.State == volume.StateInUse) || attached != (v.AttachedTo != "") {
				found = append(found, fmt.Sprintf("volume %+v, attachment %+v", v, at))
			}
			if v.Copies != 0 {
				found = append(found, fmt.Sprintf("volume %+v is being copied", v))
			}
		}
		for s := range volume.Snapshots.All(r) {
			use = use.Plus(auth.Amounts{Gigabytes: s.SizeGiB})
			if s.Copies != 0 || !volume.Volumes.Has(r, s.VolumeID) {
				found = append(found, fmt.Sprintf("snapshot %+v", s))
			}
		}
		for at := range volume.Attachments.All(r) {
			if !volume.Volumes.Has(r, at.VolumeID) {
				found = append(found, fmt.Sprintf("attachment %+v", at))
			}
		}
		if got := volume.ProjectUse(r, project); got != use {
			found = append(found, fmt.Sprintf("the project uses %+v, its records say %+v", got, use))
		}
		return nil
	})
	if found != nil {
		return fmt.Errorf("found: %q", found)
	}
	return nil
}
