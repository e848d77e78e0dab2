package volume_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/memqueue"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/fakevolume"
)

func TestConfigsAreChecked(t *testing.T) {
	_, err := volume.NewService(volume.ServiceConfig{})
	require.ErrorContains(t, err, "Store")
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 1)
		whole := volume.AgentConfig{Store: c.store, HostID: "id", HostName: "name", Driver: c.nodes[0].driver, Exporter: c.nodes[0].exporter}
		_, err := volume.NewAgent(whole)
		require.NoError(t, err)
		for field, spoil := range map[string]func(*volume.AgentConfig){
			"Store": func(a *volume.AgentConfig) { a.Store = nil }, "HostID": func(a *volume.AgentConfig) { a.HostID = "" },
			"HostName": func(a *volume.AgentConfig) { a.HostName = "" }, "Driver": func(a *volume.AgentConfig) { a.Driver = nil },
			"Exporter":  func(a *volume.AgentConfig) { a.Exporter = nil },
			"Heartbeat": func(a *volume.AgentConfig) { a.Heartbeat = scheduler.MaxHeartbeat + 1 },
		} {
			cfg := whole
			spoil(&cfg)
			_, err := volume.NewAgent(cfg)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			require.ErrorContains(t, err, field)
		}
		require.NoError(t, c.close())
	})
}

func TestLifeOfAVolume(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		v := c.create(t, volume.CreateRequest{Name: "data", SizeGiB: 2})
		require.Equal(t, n.id, v.HostID)
		v, err := c.service.Extend(c.ctx, v.ID, 3)
		require.NoError(t, err)
		require.Equal(t, volume.StateExtending, v.State)
		_, err = c.service.WaitFor(c.ctx, v.ID, volume.StateAvailable)
		require.NoError(t, err)
		s := c.snapshot(t, v.ID)
		require.ErrorIs(t, c.service.Delete(c.ctx, v.ID), errdefs.ErrFailedPrecondition)
		made := c.create(t, volume.CreateRequest{Snapshot: s.ID, SizeGiB: 4})
		clone := c.create(t, volume.CreateRequest{Source: made.ID})
		require.Equal(t, 4, clone.SizeGiB)
		require.NoError(t, c.service.DeleteSnapshot(c.ctx, s.ID))
		_, err = c.service.WaitSnapshot(c.ctx, s.ID, func(volume.Snapshot) bool { return false })
		require.ErrorIs(t, err, errdefs.ErrNotFound)
		all, err := c.service.List(c.ctx, volume.ListOptions{})
		require.NoError(t, err)
		require.Len(t, all, 3)
		page, err := c.service.List(admin(), volume.ListOptions{AllProjects: true, After: all[0].ID, Limit: 1})
		require.NoError(t, err)
		require.Equal(t, all[1:2], page)
		for _, v := range all {
			require.NoError(t, c.service.Delete(c.ctx, v.ID))
			require.NoError(t, c.service.WaitGone(c.ctx, v.ID))
		}
		left, err := n.driver.List(c.ctx)
		require.NoError(t, err)
		require.Empty(t, left)
	})
}

// TestRequestsAreChecked names the field of each wrong request, and leaves nothing.
func TestRequestsAreChecked(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		v := c.create(t, volume.CreateRequest{SizeGiB: 2})
		for field, req := range map[string]volume.CreateRequest{
			"SizeGiB is 0":                 {},
			"SizeGiB is -1":                {SizeGiB: -1},
			"SizeGiB is 1,":                {SizeGiB: 1, Source: v.ID},
			"SizeGiB is 9999":              {SizeGiB: 99999999},
			"Name":                         {SizeGiB: 1, Name: strings.Repeat("x", 256)},
			"Name \"a\\nb":                 {SizeGiB: 1, Name: "a\nb"},
			"Token":                        {SizeGiB: 1, Token: "white space"},
			"Source and Image 2 are given": {Source: v.ID, Snapshot: v.ID},
		} {
			_, err := c.service.Create(c.ctx, req)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument, field)
			require.ErrorContains(t, err, field)
		}
		for _, req := range []volume.CreateRequest{{Source: "missing"}, {Snapshot: "missing"}} {
			_, err := c.service.Create(c.ctx, req)
			require.ErrorIs(t, err, errdefs.ErrNotFound)
		}
		_, err := c.service.Create(c.ctx, volume.CreateRequest{SizeGiB: 15})
		require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
		require.ErrorContains(t, err, "at most 14 GiB free")
		_, err = c.service.Extend(c.ctx, v.ID, 2)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		_, err = c.service.Extend(c.ctx, v.ID, 17)
		require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
		for field, req := range map[string]volume.AttachRequest{
			"Consumer": {Volume: v.ID, Initiator: initiator}, "Initiator": {Volume: v.ID, Consumer: "x"},
		} {
			_, err = c.service.Attach(c.ctx, req)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			require.ErrorContains(t, err, field)
		}
		all, err := c.service.List(admin(), volume.ListOptions{AllProjects: true})
		require.NoError(t, err)
		require.Len(t, all, 1)
	})
}

func TestTokens(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		req := volume.CreateRequest{SizeGiB: 1, Token: "again"}
		v := c.create(t, req)
		again, err := c.service.Create(c.ctx, req)
		require.NoError(t, err)
		require.Equal(t, v, again)
		req.SizeGiB = 2
		_, err = c.service.Create(c.ctx, req)
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		snap := volume.SnapshotRequest{Volume: v.ID, Token: "again"}
		s, err := c.service.Snapshot(c.ctx, snap)
		require.NoError(t, err)
		repeated, err := c.service.Snapshot(c.ctx, snap)
		require.NoError(t, err)
		require.Equal(t, s.ID, repeated.ID)
		snap.Name = "other"
		_, err = c.service.Snapshot(c.ctx, snap)
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		_, err = c.service.WaitSnapshot(c.ctx, s.ID, func(s volume.Snapshot) bool { return s.State == volume.StateAvailable })
		require.NoError(t, err)
	})
}

// TestQuotas counts volumes, and the size of volumes and of snapshots.
func TestQuotas(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		limits := func(volumes, gigabytes int) {
			require.NoError(t, c.store.Update(c.ctx, func(tx *state.Tx) error {
				return auth.Quotas.Put(tx, auth.Quota{ProjectID: project, Limits: map[auth.Resource]int{auth.Volumes: volumes, auth.Gigabytes: gigabytes}})
			}))
		}
		over := func(err error, resource auth.Resource) {
			t.Helper()
			var quota *auth.QuotaError
			require.ErrorAs(t, err, &quota)
			require.Equal(t, resource, quota.Over[0].Resource)
		}
		limits(2, 5)
		v := c.create(t, volume.CreateRequest{SizeGiB: 2})
		_, err := c.service.Extend(c.ctx, v.ID, 6)
		over(err, auth.Gigabytes)
		c.snapshot(t, v.ID)
		_, err = c.service.Snapshot(c.ctx, volume.SnapshotRequest{Volume: v.ID})
		over(err, auth.Gigabytes)
		c.create(t, volume.CreateRequest{SizeGiB: 1})
		limits(2, 6)
		_, err = c.service.Create(c.ctx, volume.CreateRequest{SizeGiB: 1})
		over(err, auth.Volumes)
	})
}

func TestOthersSeeNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		v := c.create(t, volume.CreateRequest{SizeGiB: 1})
		s := c.snapshot(t, v.ID)
		tenant := auth.NewContext(context.Background(), auth.Caller{UserID: "eve", ProjectID: "other", Roles: []string{auth.SysAdmin}})
		calls := func(ctx context.Context) map[string]error {
			all := map[string]error{}
			_, all["get"] = c.service.Get(ctx, v.ID)
			all["delete"] = c.service.Delete(ctx, v.ID)
			_, all["extend"] = c.service.Extend(ctx, v.ID, 2)
			_, all["attach"] = c.service.Attach(ctx, request(v.ID))
			all["detach"] = c.service.Detach(ctx, v.ID, false)
			_, all["connection"] = c.service.Connection(ctx, v.ID)
			_, all["snapshot"] = c.service.Snapshot(ctx, volume.SnapshotRequest{Volume: v.ID})
			_, all["get snapshot"] = c.service.GetSnapshot(ctx, s.ID)
			all["delete snapshot"] = c.service.DeleteSnapshot(ctx, s.ID)
			_, all["of a snapshot"] = c.service.Create(ctx, volume.CreateRequest{Snapshot: s.ID})
			_, all["clone"] = c.service.Create(ctx, volume.CreateRequest{Source: v.ID})
			return all
		}
		for name, err := range calls(tenant) {
			require.ErrorIs(t, err, errdefs.ErrNotFound, name)
		}
		for name, err := range calls(context.Background()) {
			require.ErrorIs(t, err, errdefs.ErrUnauthenticated, name)
		}
		member := auth.NewContext(context.Background(), auth.Caller{UserID: "bob", ProjectID: project})
		for name, err := range calls(member) {
			if name != "get" && name != "get snapshot" {
				require.ErrorIs(t, err, errdefs.ErrPermissionDenied, name)
			}
		}
		all, err := c.service.List(tenant, volume.ListOptions{})
		require.NoError(t, err)
		require.Empty(t, all)
		require.ErrorIs(t, c.service.Detach(c.ctx, v.ID, true), errdefs.ErrPermissionDenied)
		_, err = c.service.ListHosts(c.ctx)
		require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
		hosts, err := c.service.ListHosts(admin())
		require.NoError(t, err)
		require.Len(t, hosts, 1)
	})
}

// TestAttachments: one consumer at a time, each with its own secret, and the one before is out when the next gets in.
func TestAttachments(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		v := c.create(t, volume.CreateRequest{SizeGiB: 1})
		_, err := c.service.Connection(c.ctx, v.ID)
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		v = c.attach(t, v.ID)
		require.Equal(t, uint64(1), v.Epoch)
		require.Equal(t, "a machine", v.AttachedTo)
		first, err := c.service.Connection(c.ctx, v.ID)
		require.NoError(t, err)
		session, err := n.exporter.Login(first.Target, initiator, first.User, first.Secret)
		require.NoError(t, err)
		for name, err := range map[string]error{
			"attach": func() error { _, err := c.service.Attach(c.ctx, request(v.ID)); return err }(),
			"delete": c.service.Delete(c.ctx, v.ID),
			"clone":  func() error { _, err := c.service.Create(c.ctx, volume.CreateRequest{Source: v.ID}); return err }(),
		} {
			require.ErrorIs(t, err, errdefs.ErrFailedPrecondition, name)
		}
		require.NoError(t, session.Write())
		require.NoError(t, c.service.Detach(c.ctx, v.ID, false))
		v, err = c.service.WaitFor(c.ctx, v.ID, volume.StateAvailable)
		require.NoError(t, err)
		require.Empty(t, v.AttachedTo)
		require.Error(t, session.Write())
		require.NoError(t, c.service.Detach(c.ctx, v.ID, false))

		c.attach(t, v.ID)
		second, err := c.service.Connection(c.ctx, v.ID)
		require.NoError(t, err)
		require.NotEqual(t, first.Secret, second.Secret)
		_, err = n.exporter.Login(second.Target, initiator, first.User, first.Secret)
		require.Error(t, err)
		require.NoError(t, c.service.Detach(c.ctx, v.ID, false))
		_, err = c.service.WaitFor(c.ctx, v.ID, volume.StateAvailable)
		require.NoError(t, err)
	})
}

// TestExtendInUse: a volume that is attached becomes larger where it is, its initiator is told, and it is counted once.
func TestExtendInUse(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		v := c.create(t, volume.CreateRequest{SizeGiB: 1})
		session := c.use(t, n, v.ID)
		var told atomic.Int32
		of := v.ID
		n.exporter.Fail(func(method, id string) error {
			if method == "Resized" && id == of {
				told.Add(1)
			}
			return nil
		})
		before := n.driver.Calls(fakevolume.MethodExtend)
		hang := n.driver.Inject(fakevolume.Fault{Method: fakevolume.MethodExtend, Hang: true})
		v, err := c.service.Extend(c.ctx, v.ID, 3)
		require.NoError(t, err)
		require.Equal(t, volume.StateExtending, v.State)
		for name, err := range map[string]error{
			"extend": func() error { _, err := c.service.Extend(c.ctx, v.ID, 4); return err }(),
			"snapshot": func() error {
				_, err := c.service.Snapshot(c.ctx, volume.SnapshotRequest{Volume: v.ID})
				return err
			}(),
		} {
			require.ErrorIs(t, err, errdefs.ErrFailedPrecondition, name)
		}
		hang.Remove()
		v, err = c.service.WaitFor(c.ctx, v.ID, volume.StateInUse)
		require.NoError(t, err)
		require.Equal(t, 3, v.SizeGiB)
		require.EqualValues(t, 1, told.Load())
		require.Equal(t, before+1, n.driver.Calls(fakevolume.MethodExtend))
		require.NoError(t, session.Write())
		require.NoError(t, c.store.View(func(r *state.View) error {
			require.Equal(t, auth.Amounts{Volumes: 1, Gigabytes: 3}, volume.ProjectUse(r, project))
			return nil
		}))
		_, err = c.service.Extend(c.ctx, v.ID, 1000)
		require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
		_, err = c.service.Extend(c.ctx, v.ID, 2)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)

		// It is let go of while it becomes larger.
		_, err = c.service.Extend(c.ctx, v.ID, 4)
		require.NoError(t, err)
		require.NoError(t, c.service.Detach(c.ctx, v.ID, false))
		v, err = c.service.WaitFor(c.ctx, v.ID, volume.StateAvailable)
		require.NoError(t, err)
		require.Equal(t, 4, v.SizeGiB)
	})
}

// TestSnapshotInUse: who uses the volume waits no longer than HoldLimit, and goes on.
func TestSnapshotInUse(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		v := c.create(t, volume.CreateRequest{SizeGiB: 1})
		session := c.use(t, n, v.ID)
		took := func(delay time.Duration) (volume.Snapshot, time.Duration) {
			fault := n.driver.Inject(fakevolume.Fault{Method: fakevolume.MethodSnapshot, Delay: delay})
			defer fault.Remove()
			s, err := c.service.Snapshot(c.ctx, volume.SnapshotRequest{Volume: v.ID})
			require.NoError(t, err)
			<-fault.Struck()
			begun := time.Now()
			require.NoError(t, session.Write())
			waited := time.Since(begun)
			s, err = c.service.WaitSnapshot(c.ctx, s.ID, func(s volume.Snapshot) bool { return s.State != volume.StateCreating })
			require.NoError(t, err)
			now, err := c.service.Get(c.ctx, v.ID)
			require.NoError(t, err)
			require.Equal(t, volume.StateInUse, now.State)
			require.NoError(t, session.Write())
			return s, waited
		}
		s, waited := took(5 * time.Second)
		require.Equal(t, volume.StateAvailable, s.State)
		require.Equal(t, 5*time.Second, waited)
		s, waited = took(time.Minute)
		require.Equal(t, volume.StateError, s.State)
		require.Contains(t, s.Fault, "could not be copied in the 10s for which writes may wait")
		require.Equal(t, volume.HoldLimit, waited)
		require.NoError(t, c.service.DeleteSnapshot(c.ctx, s.ID))

		// Nobody waits for a volume that nobody uses, however long it takes.
		require.NoError(t, c.service.Detach(c.ctx, v.ID, false))
		_, err := c.service.WaitFor(c.ctx, v.ID, volume.StateAvailable)
		require.NoError(t, err)
		n.driver.Inject(fakevolume.Fault{Method: fakevolume.MethodSnapshot, Delay: time.Minute})
		c.snapshot(t, v.ID)
	})
}

// TestOneBadVolumeHoldsUpNobody: an agent begins though a volume can't be exported, as one whose extension was cut short, and exports it when it can be.
func TestOneBadVolumeHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 1)
		n := c.nodes[0]
		stop := c.start(t)
		v := c.create(t, volume.CreateRequest{SizeGiB: 1})
		c.attach(t, v.ID)
		stop()
		n.exporter.Restart()
		fault := n.driver.Inject(fakevolume.Fault{Method: fakevolume.MethodPath, ID: v.ID, Err: fmt.Errorf("half-made: %w", errdefs.ErrFailedPrecondition)})
		stop = c.start(t)
		c.create(t, volume.CreateRequest{SizeGiB: 1})
		fault.Remove()
		_, err := c.service.Extend(c.ctx, v.ID, 2)
		require.NoError(t, err)
		_, err = c.service.WaitFor(c.ctx, v.ID, volume.StateInUse)
		require.NoError(t, err)
		all, err := n.exporter.Exports(c.ctx)
		require.NoError(t, err)
		require.Equal(t, []volume.Exported{{VolumeID: v.ID, Epoch: 1}}, all, "it is exported when it is what it should be")
		stop()
		require.NoError(t, c.audit())
		require.NoError(t, c.close())
	})
}

// TestExportsComeBack: an agent whose exporter lost everything exports again what is attached, and ends what is not.
func TestExportsComeBack(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		v := c.create(t, volume.CreateRequest{SizeGiB: 1})
		c.attach(t, v.ID)
		n.exporter.Restart()
		_, err := n.exporter.Export(c.ctx, volume.Export{VolumeID: "foreign", Epoch: 3})
		require.NoError(t, err)
		time.Sleep(11 * time.Second) // a heartbeat
		synctest.Wait()
		all, err := n.exporter.Exports(c.ctx)
		require.NoError(t, err)
		require.Equal(t, []volume.Exported{{VolumeID: v.ID, Epoch: 1}}, all)
		at, err := c.service.Connection(c.ctx, v.ID)
		require.NoError(t, err)
		_, err = n.exporter.Login(at.Target, initiator, at.User, at.Secret)
		require.NoError(t, err)
	})
}

// TestWorkIsFollowed: an operation begins at once, though nobody rings.
func TestWorkIsFollowed(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		begun := time.Now()
		for range 5 {
			v := c.create(t, volume.CreateRequest{SizeGiB: 1})
			c.attach(t, v.ID)
			require.NoError(t, c.service.Detach(c.ctx, v.ID, false))
			_, err := c.service.WaitFor(c.ctx, v.ID, volume.StateAvailable)
			require.NoError(t, err)
		}
		require.Less(t, time.Since(begun), time.Second)
	})
}

// TestPlaces fills three hosts, of which one is disabled and one is down, and finds that no more is promised than there is.
func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 4)
		c.enlist(t)
		require.NoError(t, c.store.Update(c.ctx, func(tx *state.Tx) error {
			down := scheduler.Beat{HostID: volume.BeatID(c.nodes[0].id), At: time.Now().Add(-scheduler.DownAfter)}
			if err := scheduler.Beats.Put(tx, down); err != nil {
				return err
			}
			return scheduler.Hosts.Put(tx, scheduler.Host{ID: c.nodes[1].id, Name: "one", Disabled: true})
		}))
		on := map[string]int{}
		errs := make(chan error)
		places := make(chan string, 64)
		for range 20 { // 16 fit
			go func() {
				v, err := c.service.Create(c.ctx, volume.CreateRequest{SizeGiB: 2})
				if err == nil {
					places <- v.HostID
				}
				errs <- err
			}()
		}
		refused := 0
		require.NoError(t, c.store.Update(c.ctx, func(tx *state.Tx) error {
			return auth.Quotas.Put(tx, auth.Quota{ProjectID: project, Limits: map[auth.Resource]int{auth.Volumes: 100}})
		}))
		for range 20 {
			if err := <-errs; err != nil {
				require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
				refused++
			}
		}
		close(places)
		for host := range places {
			on[host]++
		}
		require.LessOrEqual(t, on[c.nodes[2].id], 8)
		require.LessOrEqual(t, on[c.nodes[3].id], 8)
		require.Zero(t, on[c.nodes[0].id]+on[c.nodes[1].id])
		require.Equal(t, 20, refused+on[c.nodes[2].id]+on[c.nodes[3].id])
		require.GreaterOrEqual(t, on[c.nodes[2].id]+on[c.nodes[3].id], 10)
		for range 20 {
			_, err := c.service.Create(c.ctx, volume.CreateRequest{SizeGiB: 2})
			if err != nil {
				require.ErrorContains(t, err, "of 4 with volumes 1 are down, 0 have a wrong clock and 1 are disabled, and the others have at most 0 GiB free")
				break
			}
		}
		require.NoError(t, c.close())
	})
}

// TestAVolumeHostRunsOnce: a second agent of a host that can ask the first does not begin; one that can't takes over, and the first ends.
func TestAVolumeHostRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 1)
		n := c.nodes[0]
		bus := memqueue.New(memqueue.Config{})
		ctx, cancel := context.WithCancel(context.Background())
		agent := func(b queue.Bus) *volume.Agent {
			a, err := volume.NewAgent(volume.AgentConfig{Store: c.store, HostID: n.id, HostName: "one", Driver: n.driver, Exporter: n.exporter, Bus: b})
			require.NoError(t, err)
			return a
		}
		first := make(chan error, 1)
		go func() { first <- agent(bus).Run(ctx) }()
		synctest.Wait()
		err := agent(bus).Run(ctx)
		require.True(t, errdefs.IsAlreadyExists(err), err)
		require.ErrorContains(t, err, n.id+" is at work in another process already, where it is called one")
		c.create(t, volume.CreateRequest{SizeGiB: 1}) // the first works on

		second := make(chan error, 1)
		go func() { second <- agent(nil).Run(ctx) }()
		begun := time.Now()
		err = <-first
		require.True(t, errdefs.IsAborted(err), err)
		require.ErrorContains(t, err, "another agent has taken the volumes of host one")
		require.LessOrEqual(t, time.Since(begun), 11*time.Second)
		c.create(t, volume.CreateRequest{SizeGiB: 1})
		cancel()
		require.NoError(t, <-second)
		require.NoError(t, bus.Close())
		require.NoError(t, c.close())
	})
}

// TestHostsAreAliveByTheClockOfWhoPlaces: what a host with a wrong clock says of the time counts for nothing.
func TestHostsAreAliveByTheClockOfWhoPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t, 1)
		members := scheduler.NewMembers(nil)
		ctx, cancel := context.WithCancel(context.Background())
		heard := make(chan error, 1)
		go func() { heard <- members.Run(ctx, c.store) }()
		synctest.Wait()
		service, err := volume.NewService(volume.ServiceConfig{Store: c.store, Policy: auth.DefaultPolicy(), Members: members})
		require.NoError(t, err)
		c.enlist(t)
		beat := func(ahead time.Duration) {
			time.Sleep(time.Second)
			require.NoError(t, c.store.Update(c.ctx, func(tx *state.Tx) error {
				return scheduler.Beats.Put(tx, scheduler.Beat{HostID: volume.BeatID(c.nodes[0].id), At: time.Now().Add(ahead)})
			}))
			synctest.Wait()
		}
		create := func() error { _, err := service.Create(c.ctx, volume.CreateRequest{SizeGiB: 1}); return err }
		beat(0)
		require.NoError(t, create())
		beat(-time.Hour)
		beat(-time.Hour)
		require.ErrorContains(t, create(), "of 1 with volumes 0 are down, 1 have a wrong clock")
		beat(0)
		beat(0)
		require.NoError(t, create())
		time.Sleep(scheduler.DownAfter)
		require.ErrorContains(t, create(), "of 1 with volumes 1 are down")
		cancel()
		require.NoError(t, <-heard)
		require.NoError(t, c.close())
	})
}

// TestFaultsAreShown while an operation does not move, and gone when it does.
func TestFaultsAreShown(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		fault := n.driver.Inject(fakevolume.Fault{Method: fakevolume.MethodDelete, Err: fmt.Errorf("the disk sleeps: %w", errdefs.ErrUnavailable)})
		v := c.create(t, volume.CreateRequest{SizeGiB: 1})
		require.NoError(t, c.service.Delete(c.ctx, v.ID))
		require.NoError(t, c.service.Delete(c.ctx, v.ID))
		v, err := c.service.Wait(c.ctx, v.ID, func(v volume.Volume) bool { return v.Fault != "" })
		require.NoError(t, err)
		require.Contains(t, v.Fault, "the disk sleeps")
		require.Equal(t, volume.StateDeleting, v.State)
		fault.Remove()
		require.NoError(t, c.service.WaitGone(c.ctx, v.ID))
	})
}
