package dewpoint

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

// Cloud is a cloud, or the part of one that lives in this process. All methods are safe for concurrent use.
type Cloud struct {
	cfg Config

	mu       sync.Mutex
	running  bool
	services *Services     // while it serves
	node     *node         // the same, if the process is one
	volumes  *volumes      // the same, if it has volumes
	failed   error         // why the last Run ended before it served
	changed  chan struct{} // closed and replaced when one of the above changes
}

// Services is what a program, or an API, asks of a running cloud. Every action goes through the policy, on behalf of the
// caller in its context: see [auth.NewContext], and [auth.Admin] for a program that is its cloud's only user. They end with
// the Run that they came from: after it, they refuse with Unavailable.
type Services struct {
	Auth     *auth.Service
	Images   *image.Service
	Networks *network.Service
	Compute  *compute.Service
	Volumes  *volume.Service
	Hosts    *scheduler.Service

	// Store is all the records. Reading it goes past the policy; writing it is for nobody but the services.
	Store *state.Store

	policy auth.Policy
}

// New checks the configuration. It starts nothing and touches nothing: [Cloud.Run] does.
func New(cfg Config) (*Cloud, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	return &Cloud{cfg: cfg, changed: make(chan struct{})}, nil
}

// Run is the cloud's life: it loads the records, takes up what an earlier process left unfinished, and serves until ctx
// ends; then it returns nil, when every goroutine that it started has ended. Machines go on running, and the next Run, of
// this process or another, goes on with them. It returns an error if it can't start, or if a part of it ended. It may be
// called again once it has returned; while it runs, a second call is FailedPrecondition.
func (c *Cloud) Run(ctx context.Context) error {
	c.mu.Lock()
	if c.running {
		c.mu.Unlock()
		return fmt.Errorf("dewpoint: the cloud runs already: %w", errdefs.ErrFailedPrecondition)
	}
	c.running, c.failed = true, nil
	c.mu.Unlock()
	err := ignoreEnd(ctx, c.run(ctx))
	c.set(func() { c.running, c.services, c.node, c.volumes, c.failed = false, nil, nil, nil, err })
	return err
}

// Services returns the services once the cloud serves and, on a node, the node has made itself known. It waits for a Run that has not come so far, and returns early with
// the error of one that failed, or of ctx.
func (c *Cloud) Services(ctx context.Context) (*Services, error) {
	for {
		c.mu.Lock()
		services, failed, changed := c.services, c.failed, c.changed
		c.mu.Unlock()
		switch {
		case services != nil:
			return services, nil
		case failed != nil:
			return nil, failed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *Cloud) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	close(c.changed)
	c.changed = make(chan struct{})
}

// run opens what this life needs, and closes it in the opposite order.
func (c *Cloud) run(ctx context.Context) (err error) {
	var opened closers
	defer func() { err = errors.Join(err, opened.close()) }()
	if err := c.makeDir(); err != nil {
		return err
	}
	blobs := c.cfg.Blobs
	if c.cfg.Images != nil {
		blobs = noBlobs{}
	}
	if blobs == nil {
		files, err := image.NewFiles(c.path("images"))
		if err != nil {
			return fmt.Errorf("dewpoint: %w", err)
		}
		opened.add(files.Close)
		blobs = files
	}
	store, err := state.Open(ctx, state.Config{Log: c.cfg.Log, Schema: Schema(), Logger: c.cfg.Logger})
	if err != nil {
		return err
	}
	opened.add(store.Close)
	services, err := c.newServices(store, blobs)
	if err != nil {
		return err
	}
	if err := services.Compute.InstallFlavors(auth.NewContext(ctx, auth.Admin("")), c.cfg.Flavors); err != nil {
		return err
	}
	cache, err := c.newCache(blobs, services.Images)
	if err != nil {
		return err
	}
	if cache != nil {
		opened.add(cache.Close)
	}
	volumes, err := c.newVolumes(services, cache)
	if err != nil {
		return err
	}
	parts, ctx := errgroup.WithContext(ctx)
	begun := time.Now()
	var node *node
	if c.cfg.isNode() {
		if node, err = c.newNode(services, cache); err != nil {
			return err
		}
		parts.Go(func() error { return node.network.Run(ctx) })
		parts.Go(func() error { return node.compute.Run(ctx) })
	}
	if volumes != nil {
		parts.Go(func() error { return volumes.agent.Run(ctx) })
	}
	parts.Go(func() error { return c.cfg.members.Run(ctx, store) })
	if c.cfg.Images == nil {
		parts.Go(func() error { return c.sweep(ctx, services) })
	}
	parts.Go(func() error {
		if node != nil { // a request right after the start finds the node's room
			err := scheduler.Beats.Await(ctx, store, node.hostID, func(b scheduler.Beat, found bool) (bool, error) {
				return found && !b.At.Before(begun), nil
			})
			if err != nil {
				return ignoreEnd(ctx, err)
			}
		}
		if volumes != nil {
			if err := volumes.known(ctx, store, begun); err != nil {
				return ignoreEnd(ctx, err)
			}
		}
		c.set(func() { c.services, c.node, c.volumes = services, node, volumes })
		return nil
	})
	return parts.Wait()
}

// ignoreEnd returns err unless it says no more than that ctx has ended.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

func (c *Cloud) newServices(store *state.Store, blobs image.Blobs) (*Services, error) {
	s := &Services{Store: store, policy: c.cfg.Policy}
	var err error
	if s.Auth, err = auth.NewService(auth.ServiceConfig{Store: store, Policy: c.cfg.Policy, Used: projectUse,
		Logger: c.cfg.Logger}); err != nil {
		return nil, err
	}
	if s.Images, err = image.NewService(image.ServiceConfig{Store: store, Blobs: blobs, Policy: c.cfg.Policy, Logger: c.cfg.Logger}); err != nil {
		return nil, err
	}
	if s.Networks, err = network.NewService(network.ServiceConfig{Store: store, Policy: c.cfg.Policy, Logger: c.cfg.Logger}); err != nil {
		return nil, err
	}
	if s.Hosts, err = scheduler.NewService(scheduler.ServiceConfig{Store: store, Policy: c.cfg.Policy, Used: HostUse, Members: c.cfg.members}); err != nil {
		return nil, err
	}
	if s.Volumes, err = volume.NewService(volume.ServiceConfig{Store: store, Policy: c.cfg.Policy, Members: c.cfg.members, Logger: c.cfg.Logger}); err != nil {
		return nil, err
	}
	s.Compute, err = compute.NewService(compute.ServiceConfig{Store: store, Bus: c.cfg.MessageBus, Scheduler: c.cfg.Scheduler,
		Members: c.cfg.members, Addresses: &s.Networks.Addresses, Policy: c.cfg.Policy, Logger: c.cfg.Logger})
	return s, err
}

// projectUse is what a project uses of its quota.
func projectUse(r state.Reader, projectID string) auth.Amounts {
	u := compute.ProjectUse.Get(r, projectID)
	return auth.Amounts{Instances: u.Instances, Cores: u.Cores, MemoryMiB: u.MemoryMiB}.Plus(volume.ProjectUse(r, projectID))
}

// closers is what to close, last opened first.
type closers struct{ all []func() error }

func (o *closers) add(f func() error) { o.all = append(o.all, f) }

func (o *closers) close() error {
	var all error
	for i := len(o.all) - 1; i >= 0; i-- {
		all = errors.Join(all, o.all[i]())
	}
	return all
}
