package compute_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// unlimited lifts the quota of the project.
func (c *cloud) unlimited(t testing.TB) {
	c.limits(t, map[auth.Resource]int{auth.Instances: -1, auth.Cores: -1, auth.MemoryMiB: -1})
}

func (c *cloud) limits(t testing.TB, limits map[auth.Resource]int) {
	c.update(t, func(tx *state.Tx) error { return auth.Quotas.Put(tx, auth.Quota{ProjectID: project, Limits: limits}) })
}

// smallNet adds a network with five free addresses.
func (c *cloud) smallNet(t testing.TB, id, projectID string) {
	c.update(t, func(tx *state.Tx) error {
		return network.Networks.Put(tx, network.Network{ID: id, Name: id, Mode: network.FlatDHCP, ProjectID: projectID, Bridge: "br-" + id,
			CIDR: netip.MustParsePrefix("192.168.0.0/29"), Gateway: netip.MustParseAddr("192.168.0.1"), Router: netip.MustParseAddr("192.168.0.1")})
	})
}

func (c *cloud) instances() (all []compute.Instance) {
	_ = c.store.View(func(v *state.View) error {
		for i := range compute.Instances.All(v) {
			all = append(all, i)
		}
		return nil
	})
	return all
}

// Each of these is refused at the call, in words that say why, and nothing at all is written.
func TestARefusedRunWritesNothing(t *testing.T) {
	putImage := func(change func(*image.Image)) func(t *testing.T, c *cloud) {
		return func(t *testing.T, c *cloud) {
			i := debian()
			change(&i)
			c.update(t, func(tx *state.Tx) error { return image.Images.Put(tx, i) })
		}
	}
	many := func(n int) func(*compute.RunRequest) { return func(r *compute.RunRequest) { r.MinCount = n } }
	for name, c := range map[string]struct {
		before func(t *testing.T, c *cloud)
		change func(r *compute.RunRequest)
		is     func(error) bool
		want   string
	}{
		"no name":          {nil, func(r *compute.RunRequest) { r.Name = " " }, errdefs.IsInvalidArgument, `Name " " must have 1 to 255`},
		"control in name":  {nil, func(r *compute.RunRequest) { r.Name = "a\u0085" }, errdefs.IsInvalidArgument, "Name"},
		"long name":        {nil, func(r *compute.RunRequest) { r.Name = strings.Repeat("é", 256) }, errdefs.IsInvalidArgument, "1 to 255 characters"},
		"no image":         {nil, func(r *compute.RunRequest) { r.Image = "" }, errdefs.IsInvalidArgument, "Image is required"},
		"no flavor":        {nil, func(r *compute.RunRequest) { r.Flavor = "" }, errdefs.IsInvalidArgument, "Flavor is required"},
		"negative count":   {nil, many(-1), errdefs.IsInvalidArgument, "MinCount and MaxCount are -1 and 1"},
		"max below min":    {nil, func(r *compute.RunRequest) { r.MinCount, r.MaxCount = 3, 2 }, errdefs.IsInvalidArgument, "are 3 and 2"},
		"too many":         {nil, many(1001), errdefs.IsInvalidArgument, "≤ 1000"},
		"much user data":   {nil, func(r *compute.RunRequest) { r.UserData = make([]byte, 65537) }, errdefs.IsInvalidArgument, "65537 bytes, at most 65536"},
		"nine cards":       {nil, func(r *compute.RunRequest) { r.Networks = make([]string, 9) }, errdefs.IsInvalidArgument, "9 networks, at most 8"},
		"long token":       {nil, func(r *compute.RunRequest) { r.Token = strings.Repeat("t", 65) }, errdefs.IsInvalidArgument, "Token"},
		"token with space": {nil, func(r *compute.RunRequest) { r.Token = "a b" }, errdefs.IsInvalidArgument, "Token"},
		"unknown image":    {nil, func(r *compute.RunRequest) { r.Image = "nope" }, errdefs.IsNotFound, `image "nope"`},
		"unknown flavor":   {nil, func(r *compute.RunRequest) { r.Flavor = "nope" }, errdefs.IsNotFound, `flavor "nope"`},
		"unknown key pair": {nil, func(r *compute.RunRequest) { r.KeyName = "nope" }, errdefs.IsNotFound, `key pair "nope"`},
		"unknown network":  {nil, func(r *compute.RunRequest) { r.Networks = []string{"nope"} }, errdefs.IsNotFound, `network "nope"`},
		"another's network": {func(t *testing.T, c *cloud) { c.smallNet(t, "theirs", "other") },
			func(r *compute.RunRequest) { r.Networks = []string{"theirs"} }, errdefs.IsNotFound, `network "theirs"`},
		"two networks": {func(t *testing.T, c *cloud) { c.smallNet(t, "second", "") }, nil, errdefs.IsInvalidArgument, "the project sees 2 networks"},
		"no network": {func(t *testing.T, c *cloud) {
			c.update(t, func(tx *state.Tx) error { return network.Networks.Delete(tx, netID) })
		}, nil, errdefs.IsFailedPrecondition, "the project sees no network"},
		"private image":    {putImage(func(i *image.Image) { i.Visibility = image.Private }), nil, errdefs.IsNotFound, "image"},
		"image not active": {putImage(func(i *image.Image) { i.Status = image.Uploading }), nil, errdefs.IsFailedPrecondition, "is uploading, must be active"},
		"kernel as image":  {putImage(func(i *image.Image) { i.Format = image.Kernel }), nil, errdefs.IsInvalidArgument, "needs a disk"},
		"kernel gone":      {putImage(func(i *image.Image) { i.KernelID = "gone" }), nil, errdefs.IsFailedPrecondition, "boots with image gone, which is gone"},
		"bad command line": {putImage(func(i *image.Image) {
			i.KernelID, i.Properties = debianID, map[string]string{"os_command_line": "a\nb"}
		}), nil, errdefs.IsInvalidArgument, "os_command_line has control characters"},
		"small disk":   {putImage(func(i *image.Image) { i.VirtualBytes = 21 << 30 }), nil, errdefs.IsInvalidArgument, "needs a root disk of 22548578304 bytes, the flavor has 20 GiB"},
		"small memory": {putImage(func(i *image.Image) { i.MinRAMMiB = 4096 }), nil, errdefs.IsInvalidArgument, "needs 4096 MiB of memory, the flavor has 2048"},
		"quota of instances": {nil, many(11), errdefs.IsResourceExhausted,
			"quota exceeded: instances: limit 10, in use 0, asked 11"},
		"quota of cores": {nil, func(r *compute.RunRequest) { r.Flavor, r.MinCount = "m1.xlarge", 3 }, errdefs.IsResourceExhausted,
			"cores: limit 20, in use 0, asked 24"},
		"quota of memory": {func(t *testing.T, c *cloud) { c.limits(t, map[auth.Resource]int{auth.MemoryMiB: 2047}) }, nil,
			errdefs.IsResourceExhausted, "memory (MiB): limit 2047, in use 0, asked 2048"},
		"full host": {unlimited, many(13), isUnplaced,
			"of 1 hosts, 1 failed memory (room for 12 of 13)"},
		"unknown zone": {nil, func(r *compute.RunRequest) { r.Zone = "mars" }, isUnplaced, "1 failed availability zone"},
		"exhausted subnet": {func(t *testing.T, c *cloud) {
			c.unlimited(t)
			c.smallNet(t, "small", "")
		}, func(r *compute.RunRequest) { r.Networks, r.MinCount = []string{"small"}, 6 },
			func(err error) bool {
				return errors.Is(err, network.ErrNoMoreAddresses) && errdefs.IsResourceExhausted(err)
			},
			`network "small", 192.168.0.0/29: no more fixed IPs`},
		"host by a user": {nil, func(r *compute.RunRequest) { r.Host = "x" }, errdefs.IsPermissionDenied, "compute:run:host"},
	} {
		t.Run(name, func(t *testing.T) {
			cl := newCloud(t, 1)
			cl.enlist(t)
			if c.before != nil {
				c.before(t, cl)
			}
			req := one()
			if c.change != nil {
				c.change(&req)
			}
			before := cl.store.Revision()
			made, err := cl.service.Run(cl.ctx, req)
			require.Empty(t, made)
			require.Error(t, err)
			require.True(t, c.is(err), "%v", err)
			require.ErrorContains(t, err, c.want)
			require.Equal(t, before, cl.store.Revision())
			require.NoError(t, cl.audit())
			require.NoError(t, cl.close())
		})
	}
}

func unlimited(t *testing.T, c *cloud) { c.unlimited(t) }

func isUnplaced(err error) bool {
	var u *scheduler.Unplaced
	return errors.As(err, &u) && errors.Is(err, scheduler.ErrNoValidHost)
}

func TestACallerWithoutRightsIsRefusedEverything(t *testing.T) {
	c := newCloud(t, 1)
	c.enlist(t)
	id := c.run(t, one())[0].ID
	s := c.service
	calls := map[string]func(ctx context.Context) error{
		"Run":       func(ctx context.Context) error { _, err := s.Run(ctx, one()); return err },
		"Get":       func(ctx context.Context) error { _, err := s.Get(ctx, id); return err },
		"Terminate": func(ctx context.Context) error { return s.Terminate(ctx, id) },
		"Reboot":    func(ctx context.Context) error { return s.Reboot(ctx, id, true) },
		"Start":     func(ctx context.Context) error { return s.Start(ctx, id) },
		"Stop":      func(ctx context.Context) error { return s.Stop(ctx, id) },
		"Wait":      func(ctx context.Context) error { _, err := s.WaitActive(ctx, id); return err },
		"Console":   func(ctx context.Context) error { _, err := s.Console(ctx, id, 0); return err },
		"List": func(ctx context.Context) error {
			_, err := s.List(ctx, compute.ListOptions{AllProjects: true})
			return err
		},
		"CreateFlavor": func(ctx context.Context) error { _, err := s.CreateFlavor(ctx, compute.Flavor{}); return err },
		"DeleteFlavor": func(ctx context.Context) error { return s.DeleteFlavor(ctx, "1") },
		"Install":      func(ctx context.Context) error { return s.InstallFlavors(ctx, nil) },
		"Watch": func(ctx context.Context) error {
			for _, err := range s.Watch(ctx, compute.WatchOptions{AllProjects: true}) {
				return err
			}
			return nil
		},
	}
	other := auth.NewContext(context.Background(), auth.Caller{UserID: "bob", ProjectID: "other", Roles: []string{auth.SysAdmin}})
	guest := auth.NewContext(context.Background(), auth.Caller{UserID: "eve", ProjectID: project})
	before := c.store.Revision()
	for name, call := range calls {
		require.True(t, errdefs.IsUnauthorized(call(context.Background())), name)
		err := call(other)
		switch name {
		case "Run":
			require.NoError(t, err)
			before = c.store.Revision()
		case "Get", "Terminate", "Reboot", "Start", "Stop", "Wait", "Console":
			require.ErrorIs(t, err, errdefs.ErrNotFound, name)
		default:
			require.ErrorIs(t, err, errdefs.ErrPermissionDenied, name)
		}
		if name != "Get" && name != "Wait" {
			require.ErrorIs(t, call(guest), errdefs.ErrPermissionDenied, name)
		}
	}
	require.Equal(t, before, c.store.Revision())
	require.NoError(t, c.close())
}

func TestRunFillsAsFarAsThereIsRoom(t *testing.T) {
	for name, c := range map[string]struct {
		before func(t *testing.T, c *cloud)
		req    func(r *compute.RunRequest)
		want   int
	}{
		"instances quota": {nil, func(r *compute.RunRequest) { r.MaxCount = 50 }, 10},
		"cores quota": {func(t *testing.T, c *cloud) { c.limits(t, map[auth.Resource]int{auth.Cores: 7}) },
			func(r *compute.RunRequest) { r.MaxCount, r.Flavor = 9, "m1.medium" }, 3},
		"memory quota": {func(t *testing.T, c *cloud) { c.limits(t, map[auth.Resource]int{auth.MemoryMiB: 2048*3 + 2047}) },
			func(r *compute.RunRequest) { r.MaxCount = 9 }, 3},
		"room":      {unlimited, func(r *compute.RunRequest) { r.MaxCount = 1000 }, 12},
		"addresses": {func(t *testing.T, c *cloud) { c.smallNet(t, "small", "") }, func(r *compute.RunRequest) { r.MaxCount, r.Networks = 9, []string{"small"} }, 5},
		"addresses of the second card": {func(t *testing.T, c *cloud) { c.smallNet(t, "small", "") },
			func(r *compute.RunRequest) { r.MaxCount, r.Networks = 9, []string{"lan", "small"} }, 5},
		"all": {nil, func(r *compute.RunRequest) { r.MaxCount = 2 }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cl := newCloud(t, 1)
				if c.before != nil {
					c.before(t, cl)
				}
				stop := cl.start(t)
				req := one()
				req.MinCount = 1
				c.req(&req)
				made := cl.run(t, req)
				require.Len(t, made, c.want)
				for index, i := range made {
					require.Equal(t, index, i.LaunchIndex)
					require.Equal(t, made[0].ReservationID, i.ReservationID)
					require.Equal(t, fmt.Sprint("web-", index+1), i.Name)
					_, err := cl.service.WaitActive(cl.ctx, i.ID)
					require.NoError(t, err)
				}
				require.NoError(t, cl.audit())
				stop()
				require.NoError(t, cl.close())
			})
		})
	}
}

func TestTokens(t *testing.T) {
	c := newCloud(t, 3)
	c.enlist(t)
	c.unlimited(t)
	req := one()
	req.Token, req.MaxCount, req.MinCount = "order-7", 3, 1
	made := c.run(t, req)
	before := c.store.Revision()
	bob := auth.NewContext(context.Background(), auth.Caller{UserID: "bob", ProjectID: "other", Roles: []string{auth.SysAdmin}})
	for name, r := range map[string]struct {
		ctx    context.Context
		change func(r *compute.RunRequest)
		same   bool
		err    error
	}{
		"the same":           {c.ctx, func(*compute.RunRequest) {}, true, nil},
		"an equal default":   {c.ctx, func(r *compute.RunRequest) { r.MinCount = 1 }, true, nil},
		"another count":      {c.ctx, func(r *compute.RunRequest) { r.MaxCount = 2 }, false, errdefs.ErrFailedPrecondition},
		"another minimum":    {c.ctx, func(r *compute.RunRequest) { r.MinCount = 2 }, false, errdefs.ErrFailedPrecondition},
		"another name":       {c.ctx, func(r *compute.RunRequest) { r.Name = "db" }, false, errdefs.ErrFailedPrecondition},
		"another flavor":     {c.ctx, func(r *compute.RunRequest) { r.Flavor = "1" }, false, errdefs.ErrFailedPrecondition},
		"user data":          {c.ctx, func(r *compute.RunRequest) { r.UserData = []byte("x") }, false, errdefs.ErrFailedPrecondition},
		"another's token":    {bob, func(*compute.RunRequest) {}, false, nil},
		"another token":      {c.ctx, func(r *compute.RunRequest) { r.Token = "order-8" }, false, nil},
		"no token":           {c.ctx, func(r *compute.RunRequest) { r.Token = "" }, false, nil},
		"a token, a part of": {c.ctx, func(r *compute.RunRequest) { r.Token = "order-" }, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			again := req
			r.change(&again)
			got, err := c.service.Run(r.ctx, again)
			if r.err != nil {
				require.ErrorIs(t, err, r.err)
				require.ErrorContains(t, err, `Token "order-7" was used for another request`)
				return
			}
			require.NoError(t, err)
			if r.same {
				require.Equal(t, made, got)
			} else {
				require.NotEqual(t, made[0].ID, got[0].ID)
			}
		})
	}
	require.Greater(t, c.store.Revision(), before)
	require.NoError(t, c.close())
}

// Many at once under one token make the instances once.
func TestATokenHoldsBetweenTwoProcesses(t *testing.T) {
	a := newCloud(t, 1)
	a.enlist(t)
	b := &cloud{}
	*b = *a
	var err error
	b.store, err = state.Open(a.ctx, state.Config{Log: a.log, Schema: schema()})
	require.NoError(t, err)
	pick, err := scheduler.New(scheduler.Config{Used: compute.Used})
	require.NoError(t, err)
	b.service, err = compute.NewService(compute.ServiceConfig{Store: b.store, Bus: b.bus, Scheduler: pick, Addresses: &network.Addresses{},
		Policy: auth.DefaultPolicy()})
	require.NoError(t, err)
	ids := make(chan string, 40)
	for n := range 40 {
		go func() {
			req := one()
			req.Token = "once"
			made, err := []*cloud{a, b}[n%2].service.Run(a.ctx, req)
			if err != nil {
				ids <- err.Error()
				return
			}
			ids <- made[0].ID
		}()
	}
	first := <-ids
	for range 39 {
		require.Equal(t, first, <-ids)
	}
	require.Len(t, a.instances(), 1)
	require.NoError(t, b.store.Close())
	require.NoError(t, a.close())
}

// What a project uses is, after any actions, the sum of its instances.
func TestQuotaIsTheSumOfTheRecords(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		c := newCloud(t, 2)
		c.enlist(t)
		c.limits(t, map[auth.Resource]int{auth.Instances: 8, auth.Cores: 12, auth.MemoryMiB: 20000})
		for range rapid.IntRange(1, 12).Draw(r, "actions") {
			all := c.instances()
			if len(all) == 0 || rapid.Bool().Draw(r, "run") {
				req := one()
				req.MinCount = rapid.IntRange(1, 4).Draw(r, "min")
				req.MaxCount = req.MinCount + rapid.IntRange(0, 4).Draw(r, "more")
				req.Flavor = rapid.SampledFrom([]string{"1", "2", "3", "4"}).Draw(r, "flavor")
				made, err := c.service.Run(c.ctx, req)
				if err == nil && (len(made) < req.MinCount || len(made) > req.MaxCount) {
					r.Fatalf("asked for %d to %d, got %d", req.MinCount, req.MaxCount, len(made))
				}
				if err != nil && !errdefs.IsResourceExhausted(err) {
					r.Fatal(err)
				}
			} else {
				i := rapid.SampledFrom(all).Draw(r, "instance")
				c.update(t, func(tx *state.Tx) error {
					if rapid.Bool().Draw(r, "gone") {
						return compute.Instances.Delete(tx, i.ID)
					}
					i.State = compute.StateError
					return compute.Instances.Put(tx, i)
				})
			}
			var want compute.Use
			hosts := map[string]scheduler.Resources{}
			for _, i := range c.instances() {
				want = want.Plus(compute.Use{Instances: 1, Cores: i.Flavor.VCPUs, MemoryMiB: i.Flavor.MemoryMiB})
				if i.State != compute.StateError {
					hosts[i.HostID] = hosts[i.HostID].Plus(i.Flavor.Resources())
				}
			}
			if want.Instances > 8 || want.Cores > 12 || want.MemoryMiB > 20000 {
				r.Fatalf("over the quota: %+v", want)
			}
			_ = c.store.View(func(v *state.View) error {
				if got := compute.ProjectUse.Get(v, project); got != want {
					r.Fatalf("used %+v, the records say %+v", got, want)
				}
				for _, n := range c.nodes {
					if got := compute.HostUse.Get(v, n.id); got != hosts[n.id] {
						r.Fatalf("host gives %+v, the records say %+v", got, hosts[n.id])
					}
				}
				return nil
			})
		}
		require.NoError(t, c.close())
	})
}

func TestFlavors(t *testing.T) {
	c := newCloud(t, 0)
	s := c.service
	all, err := s.ListFlavors(c.ctx)
	require.NoError(t, err)
	require.Equal(t, compute.DefaultFlavors(), all)
	require.NoError(t, s.DeleteFlavor(admin(), "5"))
	before := c.store.Revision()
	require.NoError(t, s.InstallFlavors(admin(), compute.DefaultFlavors()))
	require.Equal(t, before, c.store.Revision(), "an administrator's word stays")
	good := compute.Flavor{Name: "big", VCPUs: 256, MemoryMiB: 16 << 20, DiskGiB: 1 << 20}
	made, err := s.CreateFlavor(admin(), good)
	require.NoError(t, err)
	for _, word := range []string{made.ID, "big"} {
		got, err := s.GetFlavor(c.ctx, word)
		require.NoError(t, err)
		require.Equal(t, made, got)
	}
	for want, f := range map[string]compute.Flavor{
		"ID \"a b\"":                     {ID: "a b", Name: "n", VCPUs: 1, MemoryMiB: 16},
		"Name":                           {VCPUs: 1, MemoryMiB: 16},
		"VCPUs is 0, must be 1 to 256":   {Name: "n", MemoryMiB: 16},
		"VCPUs is 257":                   {Name: "n", VCPUs: 257, MemoryMiB: 16},
		"MemoryMiB is 15, must be 16":    {Name: "n", VCPUs: 1, MemoryMiB: 15},
		"DiskGiB is -1, must be 0":       {Name: "n", VCPUs: 1, MemoryMiB: 16, DiskGiB: -1},
		"is what flavor 1 (\"m1.tiny\")": {Name: "1", VCPUs: 1, MemoryMiB: 16},
		"is what flavor 2 (\"m1.small":   {ID: "m1.small", Name: "n", VCPUs: 1, MemoryMiB: 16},
	} {
		_, err := s.CreateFlavor(admin(), f)
		require.ErrorContains(t, err, want)
		require.True(t, errdefs.IsInvalidArgument(err) || errdefs.IsAlreadyExists(err))
	}
	require.ErrorIs(t, s.DeleteFlavor(admin(), "nope"), errdefs.ErrNotFound)
	_, err = s.GetFlavor(c.ctx, "m1.xlarge")
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.NoError(t, c.close())
}

func TestListGoesOnWhereItStopped(t *testing.T) {
	c := newCloud(t, 1)
	c.enlist(t)
	req := one()
	req.MaxCount = 7
	c.run(t, req)
	var got []compute.Instance
	after := ""
	for {
		page, err := c.service.List(c.ctx, compute.ListOptions{After: after, Limit: 3})
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
		after = page[len(page)-1].ID
	}
	require.Equal(t, c.instances(), got)
	all, err := c.service.List(admin(), compute.ListOptions{AllProjects: true})
	require.NoError(t, err)
	require.Equal(t, got, all)
	_, err = c.service.List(c.ctx, compute.ListOptions{Limit: -1})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.NoError(t, c.close())
}

func TestWatchTellsEveryChangeInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cloud, _ *node) {
		ctx, cancel := context.WithTimeout(c.ctx, time.Hour)
		defer cancel()
		var story []string
		var last compute.Event
		id := ""
		for e, err := range c.service.Watch(ctx, compute.WatchOptions{}) {
			require.NoError(t, err)
			require.GreaterOrEqual(t, e.Revision, last.Revision)
			last = e
			switch {
			case e.Resync:
				story = append(story, "resync")
				id = c.run(t, one())[0].ID
				continue
			case e.Gone:
				story = append(story, "gone")
				cancel()
				continue
			}
			require.Equal(t, id, e.Instance.ID)
			story = append(story, e.Instance.Status())
			if e.Instance.State == compute.StateActive && e.Instance.Task == compute.TaskNone {
				require.NoError(t, c.service.Terminate(c.ctx, id))
			}
		}
		require.Equal(t, []string{"resync", "BUILD", "ACTIVE", "DELETING", "gone"}, story)

		// One that comes later goes on where it was.
		ctx, cancel = context.WithTimeout(c.ctx, time.Hour)
		defer cancel()
		for e, err := range c.service.Watch(ctx, compute.WatchOptions{After: last.Revision - 1}) {
			require.NoError(t, err)
			require.Equal(t, last, e)
			break
		}
		// One of another project hears nothing, until its time is over.
		bob := auth.NewContext(ctx, auth.Caller{UserID: "bob", ProjectID: "other"})
		for e, err := range c.service.Watch(bob, compute.WatchOptions{After: last.Revision - 1}) {
			t.Fatal(e, err)
		}
	})
}

func TestAWatcherThatIsTooSlowIsToldToResync(t *testing.T) {
	c := newCloud(t, 1)
	c.enlist(t)
	n := 0
	for e, err := range c.service.Watch(c.ctx, compute.WatchOptions{}) {
		require.NoError(t, err)
		require.True(t, e.Resync)
		require.Equal(t, c.store.Revision(), e.Revision)
		if n++; n == 3 {
			break
		}
		for range 5000 {
			c.update(t, func(tx *state.Tx) error { return scheduler.Beats.Put(tx, scheduler.Beat{HostID: c.nodes[0].id}) })
		}
	}
	require.NoError(t, c.store.Close())
	for _, err := range c.service.Watch(c.ctx, compute.WatchOptions{After: 1}) {
		require.ErrorIs(t, err, state.ErrClosed)
	}
	require.NoError(t, c.close())
}

var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func FuzzHostname(f *testing.F) {
	for _, name := range []string{"web", "Web 1", "-", "ééé", strings.Repeat("a-", 40), "a.b", strings.Repeat("x", 62) + "--", "1", "\xff"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if h := compute.Hostname(name, debianID); !label.MatchString(h) {
			t.Fatalf("%q is no label (RFC 1123 §2.1)", h)
		}
	})
}
