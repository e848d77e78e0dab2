package compute_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/fakevolume"
)

// storage is a cloud's host with volumes, and their service.
type storage struct {
	*cloud
	volumes  *volume.Service
	driver   *fakevolume.Driver
	exporter *fakevolume.Exporter
}

func newStorage(t testing.TB, c *cloud) *storage {
	s := &storage{cloud: c, exporter: fakevolume.NewExporter()}
	var err error
	s.volumes, err = volume.NewService(volume.ServiceConfig{Store: c.store, Policy: auth.DefaultPolicy()})
	require.NoError(t, err)
	s.driver, err = fakevolume.New(fakevolume.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	return s
}

func (s *storage) agent() (*volume.Agent, error) {
	return volume.NewAgent(volume.AgentConfig{Store: s.store, HostID: "storage", HostName: "storage", Driver: s.driver, Exporter: s.exporter,
		Grown: compute.VolumeGrown, Ring: s.service.Ring})
}

// run has the agent at work until stop is called.
func (s *storage) run(t testing.TB) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	a, err := s.agent()
	require.NoError(t, err)
	var agents sync.WaitGroup
	agents.Go(func() {
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	require.NoError(t, volume.Hosts.Await(ctx, s.store, "storage", func(_ volume.Host, found bool) (bool, error) { return found, nil }))
	return func() { cancel(); agents.Wait() }
}

func (s *storage) volume(t testing.TB) string {
	t.Helper()
	v, err := s.volumes.Create(s.ctx, volume.CreateRequest{SizeGiB: 1})
	require.NoError(t, err)
	_, err = s.volumes.WaitFor(s.ctx, v.ID, volume.StateAvailable)
	require.NoError(t, err)
	return v.ID
}

func (s *storage) attach(t testing.TB, instance, id string) {
	t.Helper()
	_, err := s.service.AttachVolume(s.ctx, compute.AttachRequest{Instance: instance, Volume: id})
	require.NoError(t, err)
	_, err = s.volumes.WaitFor(s.ctx, id, volume.StateInUse)
	require.NoError(t, err)
}

func (c *cloud) node(id string) *node {
	for _, n := range c.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

// plugged returns the volumes that a machine has.
func (n *node) plugged(id string) (serials []string) {
	m, _ := n.host.Machine(id)
	for _, d := range m.Disks {
		if d.ISCSI != nil {
			serials = append(serials, d.Serial)
		}
	}
	return serials
}

// audit compares attachments with exports and with the disks of machines, besides the rest.
func (s *storage) audit() error {
	if err := s.cloud.audit(); err != nil {
		return err
	}
	a, err := s.agent()
	if err != nil {
		return err
	}
	found, err := a.Difference(s.ctx)
	if err != nil {
		return err
	}
	_ = s.store.View(func(r *state.View) error {
		want := map[string][]string{}
		for at := range volume.Attachments.All(r) {
			v, err := volume.Volumes.Get(r, at.VolumeID)
			if err != nil || v.State != volume.StateInUse || !compute.Instances.Has(r, at.InstanceID) {
				found = append(found, fmt.Sprintf("%+v of %+v", at, v))
			}
			want[at.InstanceID] = append(want[at.InstanceID], compute.VolumeSerial(at.VolumeID))
			i, _ := compute.Instances.Get(r, at.InstanceID)
			for _, n := range s.nodes {
				_, err := s.exporter.Login(at.Target, compute.InitiatorOf(n.id), at.User, at.Secret)
				if (err == nil) != (n.id == i.HostID) {
					found = append(found, fmt.Sprintf("host %s logs in to %+v of an instance on %s: %v", n.id, at, i.HostID, err))
				}
			}
		}
		for i := range compute.Instances.All(r) {
			have := s.node(i.HostID).plugged(i.ID)
			slices.Sort(have)
			slices.Sort(want[i.ID])
			if i.State == compute.StateActive && !slices.Equal(have, want[i.ID]) {
				found = append(found, fmt.Sprintf("machine %s has %v, should have %v", i.ID, have, want[i.ID]))
			}
		}
		return nil
	})
	if found != nil {
		return fmt.Errorf("found: %q", found)
	}
	return nil
}

func withStorage(t *testing.T, f func(t *testing.T, s *storage, n *node, instance string)) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		s := newStorage(t, c)
		stop := s.run(t)
		id := c.run(t, one())[0].ID
		_, err := c.service.WaitActive(c.ctx, id)
		require.NoError(t, err)
		f(t, s, n, id)
		synctest.Wait()
		require.NoError(t, s.audit())
		stop()
	})
}

func TestVolumesOfARunningInstance(t *testing.T) {
	withStorage(t, func(t *testing.T, s *storage, n *node, instance string) {
		first, second := s.volume(t), s.volume(t)
		device, err := s.service.AttachVolume(s.ctx, compute.AttachRequest{Instance: instance, Volume: first})
		require.NoError(t, err)
		require.Equal(t, "vdb", device)
		v, err := s.volumes.WaitFor(s.ctx, first, volume.StateInUse)
		require.NoError(t, err)
		require.Equal(t, instance, v.AttachedTo)
		require.Equal(t, []string{compute.VolumeSerial(first)}, n.plugged(instance))
		m, _ := n.host.Machine(instance)
		disk := m.Disks[1].ISCSI
		_, err = n.cloudLogin(s, disk)
		require.NoError(t, err, "the machine can log in with what it was given")

		_, err = s.service.AttachVolume(s.ctx, compute.AttachRequest{Instance: instance, Volume: first})
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		_, err = s.service.AttachVolume(s.ctx, compute.AttachRequest{Instance: instance, Volume: second, Device: "/dev/vdb"})
		require.ErrorIs(t, err, errdefs.ErrAlreadyExists)
		_, err = s.service.AttachVolume(s.ctx, compute.AttachRequest{Instance: instance, Volume: second, Device: "hda"})
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		device, err = s.service.AttachVolume(s.ctx, compute.AttachRequest{Instance: instance, Volume: second, Device: "/dev/sda"})
		require.NoError(t, err)
		require.Equal(t, "sda", device)
		_, err = s.volumes.WaitFor(s.ctx, second, volume.StateInUse)
		require.NoError(t, err)
		require.Len(t, n.plugged(instance), 2)
		require.ErrorIs(t, s.volumes.Detach(s.ctx, first, false), errdefs.ErrFailedPrecondition)
		require.NoError(t, s.service.DetachVolume(s.ctx, first))
		_, err = s.volumes.WaitFor(s.ctx, first, volume.StateAvailable)
		require.NoError(t, err)
		require.Equal(t, []string{compute.VolumeSerial(second)}, n.plugged(instance))
		require.NoError(t, s.service.DetachVolume(s.ctx, first))
		_, err = n.cloudLogin(s, disk)
		require.Error(t, err)
	})
}

func (n *node) cloudLogin(s *storage, d *compute.ISCSI) (*fakevolume.Session, error) {
	return s.exporter.Login(volume.Target{Portal: d.Portal, IQN: d.IQN, LUN: d.LUN}, d.Initiator, d.User, d.Secret)
}

// TestVolumesOfAStoppedInstance are there when it starts, and when it is rebooted hard without a domain.
func TestVolumesOfAStoppedInstance(t *testing.T) {
	withStorage(t, func(t *testing.T, s *storage, n *node, instance string) {
		kept, gone, late := s.volume(t), s.volume(t), s.volume(t)
		s.attach(t, instance, gone)
		require.NoError(t, s.service.Stop(s.ctx, instance))
		s.waitRest(t, instance)
		s.attach(t, instance, kept)
		s.attach(t, instance, late)
		require.NoError(t, s.service.DetachVolume(s.ctx, gone))
		_, err := s.volumes.WaitFor(s.ctx, gone, volume.StateAvailable)
		require.NoError(t, err)
		require.NoError(t, s.service.Start(s.ctx, instance))
		_, err = s.service.WaitActive(s.ctx, instance)
		require.NoError(t, err)
		require.ElementsMatch(t, []string{compute.VolumeSerial(kept), compute.VolumeSerial(late)}, n.plugged(instance))
		m, _ := n.host.Machine(instance)
		require.NoError(t, m.Validate())

		// Made anew with both when its domain is lost and nobody has noticed.
		synctest.Wait()
		blind := n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodList, Hang: true})
		n.host.Remove(instance)
		n.forgetTaps()
		require.NoError(t, s.service.Reboot(s.ctx, instance, true))
		s.waitRest(t, instance)
		blind.Remove()
		require.Len(t, n.plugged(instance), 2)
	})
}

// TestExtendInUse: a machine that runs is told, one that is off starts with what there is, and one that can't be told has the reason on its volume.
func TestExtendInUse(t *testing.T) {
	withStorage(t, func(t *testing.T, s *storage, n *node, instance string) {
		id := s.volume(t)
		s.attach(t, instance, id)
		extend := func(to int) volume.Volume {
			v, err := s.volumes.Extend(s.ctx, id, to)
			require.NoError(t, err)
			require.Equal(t, volume.StateExtending, v.State)
			asked := time.Now()
			v, err = s.volumes.WaitFor(s.ctx, id, volume.StateInUse)
			require.NoError(t, err)
			require.Equal(t, asked, time.Now(), "nobody waited for anything but the work")
			require.Equal(t, to, v.SizeGiB)
			return v
		}
		require.Empty(t, extend(2).Fault)
		require.EqualValues(t, 2<<30, n.host.DiskSize(instance, compute.VolumeSerial(id)))

		fault := n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodGrowDisk, Err: fmt.Errorf("no: %w", errdefs.ErrFailedPrecondition)})
		require.Contains(t, extend(3).Fault, "the instance sees the new size when it is next started: ")
		fault.Remove()
		require.EqualValues(t, 2<<30, n.host.DiskSize(instance, compute.VolumeSerial(id)))

		// Started anew while the volume becomes larger, it has it.
		require.NoError(t, s.service.Stop(s.ctx, instance))
		s.waitRest(t, instance)
		require.Empty(t, extend(4).Fault)
		require.NoError(t, s.service.Start(s.ctx, instance))
		_, err := s.volumes.Extend(s.ctx, id, 5)
		require.NoError(t, err)
		_, err = s.service.WaitActive(s.ctx, instance)
		require.NoError(t, err)
		_, err = s.volumes.WaitFor(s.ctx, id, volume.StateInUse)
		require.NoError(t, err)
		require.Equal(t, []string{compute.VolumeSerial(id)}, n.plugged(instance))

		// It is not taken away meanwhile, unless the instance ends.
		n.host.Inject(fakecompute.Fault{Method: fakecompute.MethodGrowDisk, Hang: true})
		_, err = s.volumes.Extend(s.ctx, id, 6)
		require.NoError(t, err)
		require.ErrorIs(t, s.service.DetachVolume(s.ctx, id), errdefs.ErrFailedPrecondition)
		require.NoError(t, s.service.Terminate(s.ctx, instance))
		require.NoError(t, s.service.WaitGone(s.ctx, instance))
		_, err = s.volumes.WaitFor(s.ctx, id, volume.StateAvailable)
		require.NoError(t, err)
	})
}

// TestTerminationFreesVolumes, or deletes them with the instance.
func TestTerminationFreesVolumes(t *testing.T) {
	withStorage(t, func(t *testing.T, s *storage, n *node, instance string) {
		kept, mine := s.volume(t), s.volume(t)
		s.attach(t, instance, kept)
		_, err := s.service.AttachVolume(s.ctx, compute.AttachRequest{Instance: instance, Volume: mine, DeleteOnTermination: true})
		require.NoError(t, err)
		_, err = s.volumes.WaitFor(s.ctx, mine, volume.StateInUse)
		require.NoError(t, err)
		require.NoError(t, s.service.Terminate(s.ctx, instance))
		require.NoError(t, s.service.WaitGone(s.ctx, instance))
		_, err = s.volumes.WaitFor(s.ctx, kept, volume.StateAvailable)
		require.NoError(t, err)
		require.NoError(t, s.volumes.WaitGone(s.ctx, mine))
	})
}

// TestGuestsThatDoNotLetGo keep the volume, and its owner is told.
func TestGuestsThatDoNotLetGo(t *testing.T) {
	withStorage(t, func(t *testing.T, s *storage, n *node, instance string) {
		id := s.volume(t)
		s.attach(t, instance, id)
		require.NoError(t, n.host.Deaf(instance))
		require.NoError(t, s.service.DetachVolume(s.ctx, id))
		v, err := s.volumes.Wait(s.ctx, id, func(v volume.Volume) bool { return v.State == volume.StateInUse })
		require.NoError(t, err)
		require.Contains(t, v.Fault, "has not let go of the volume within 30s: unmount it")
		require.Len(t, n.plugged(instance), 1)

		// An administrator may take it all the same: the session ends.
		m, _ := n.host.Machine(instance)
		session, err := n.cloudLogin(s, m.Disks[1].ISCSI)
		require.NoError(t, err)
		require.NoError(t, s.volumes.Detach(admin(), id, true))
		_, err = s.volumes.WaitFor(s.ctx, id, volume.StateAvailable)
		require.NoError(t, err)
		require.Error(t, session.Write())
		require.NoError(t, s.service.Terminate(s.ctx, instance))
		require.NoError(t, s.service.WaitGone(s.ctx, instance))
	})
}

func TestVolumesOfOthers(t *testing.T) {
	withStorage(t, func(t *testing.T, s *storage, n *node, instance string) {
		id := s.volume(t)
		tenant := auth.NewContext(context.Background(), auth.Caller{UserID: "eve", ProjectID: "other", Roles: []string{auth.SysAdmin}})
		_, err := s.service.AttachVolume(tenant, compute.AttachRequest{Instance: instance, Volume: id})
		require.ErrorIs(t, err, errdefs.ErrNotFound)
		require.ErrorIs(t, s.service.DetachVolume(tenant, id), errdefs.ErrNotFound)
		theirs, err := s.volumes.Create(tenant, volume.CreateRequest{SizeGiB: 1})
		require.NoError(t, err)
		_, err = s.volumes.WaitFor(tenant, theirs.ID, volume.StateAvailable)
		require.NoError(t, err)
		_, err = s.service.AttachVolume(s.ctx, compute.AttachRequest{Instance: instance, Volume: theirs.ID})
		require.ErrorIs(t, err, errdefs.ErrNotFound)
		_, err = s.service.AttachVolume(admin(), compute.AttachRequest{Instance: instance, Volume: theirs.ID})
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	})
}

// TestBootFromAVolume: the volume is the machine's first disk for as long as the instance lives, and then goes or stays as was asked.
func TestBootFromAVolume(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, n *node) {
		s := newStorage(t, c)
		stop := s.run(t)
		defer stop()
		id := s.volume(t)
		req := one()
		req.Image, req.BootVolume = "", &compute.BootVolume{Volume: id}
		i := c.run(t, req)[0]
		require.Equal(t, id, i.BootVolume)
		require.Zero(t, i.Flavor.DiskGiB, "it takes no disk of its host")
		_, err := s.service.WaitActive(s.ctx, i.ID)
		require.NoError(t, err)
		v, err := s.volumes.WaitFor(s.ctx, id, volume.StateInUse)
		require.NoError(t, err)
		require.Equal(t, "vda", v.Device)
		first := func() compute.Disk {
			m, found := n.host.Machine(i.ID)
			require.True(t, found)
			require.NoError(t, m.Validate())
			return m.Disks[0]
		}
		require.Equal(t, compute.VolumeSerial(id), first().Serial)
		require.NotNil(t, first().ISCSI)

		require.ErrorIs(t, s.service.DetachVolume(s.ctx, id), errdefs.ErrFailedPrecondition)
		second, early := s.volume(t), s.volume(t)
		s.attach(t, i.ID, second)
		_, err = s.service.AttachVolume(s.ctx, compute.AttachRequest{Instance: i.ID, Volume: early, Device: "sda"}) // a name before the first disk's
		require.NoError(t, err)
		_, err = s.volumes.WaitFor(s.ctx, early, volume.StateInUse)
		require.NoError(t, err)
		require.NoError(t, s.service.Stop(s.ctx, i.ID))
		s.waitRest(t, i.ID)
		require.NoError(t, s.service.Start(s.ctx, i.ID))
		_, err = s.service.WaitActive(s.ctx, i.ID)
		require.NoError(t, err)
		require.Equal(t, compute.VolumeSerial(id), first().Serial)
		require.Len(t, n.plugged(i.ID), 3)

		another := one()
		another.Image, another.BootVolume = "", &compute.BootVolume{Volume: id}
		_, err = s.service.Run(s.ctx, another)
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition, "it is in use")
		require.NoError(t, s.service.Terminate(s.ctx, i.ID))
		require.NoError(t, s.service.WaitGone(s.ctx, i.ID))
		_, err = s.volumes.WaitFor(s.ctx, id, volume.StateAvailable)
		require.NoError(t, err)

		another.BootVolume.DeleteOnTermination = true
		i = c.run(t, another)[0]
		_, err = s.service.WaitActive(s.ctx, i.ID)
		require.NoError(t, err)
		require.NoError(t, s.service.Terminate(s.ctx, i.ID))
		require.NoError(t, s.service.WaitGone(s.ctx, i.ID))
		require.NoError(t, s.volumes.WaitGone(s.ctx, id))

		for says, b := range map[string]compute.BootVolume{
			"names 0": {}, "names 2": {Volume: second, Image: "x"}, "SizeGiB is 2": {Volume: second, SizeGiB: 2},
		} {
			another.BootVolume = &b
			_, err := s.service.Run(s.ctx, another)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			require.ErrorContains(t, err, says)
		}
		another.BootVolume = &compute.BootVolume{Volume: second}
		another.MaxCount = 2
		_, err = s.service.Run(s.ctx, another)
		require.ErrorContains(t, err, "MaxCount is 2, must be 1 with BootVolume")
		another.MaxCount = 1
		another.BootVolume = &compute.BootVolume{Snapshot: "none"}
		_, err = s.service.Run(s.ctx, another)
		require.ErrorIs(t, err, errdefs.ErrNotFound)
		synctest.Wait() // for volumes that are being freed
		require.NoError(t, s.audit(), "nothing is left of what was refused")
	})
}
