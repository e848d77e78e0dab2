package compute

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// ServiceConfig is what a [Service] is made of.
type ServiceConfig struct {
	Store     *state.Store        // required
	Bus       queue.Bus           // required
	Scheduler scheduler.Scheduler // required
	Addresses *network.Addresses  // required
	Members   *scheduler.Members  // as in volume.ServiceConfig
	Policy    auth.Policy         // zero: denies everything
	Logger    *slog.Logger        // nil: silent
}

// Service does what callers ask of their instances. Every action states its intent in one transaction and returns; the agent
// of the instance's host does the work. Each goes through the policy first: a caller without the right gets
// PermissionDenied, one that is not known Unauthenticated, and an instance of another project is NotFound. It is safe for
// concurrent use.
type Service struct{ cfg ServiceConfig }

// NewService checks the configuration. It starts nothing.
func NewService(cfg ServiceConfig) (*Service, error) {
	missing := ""
	switch {
	case cfg.Store == nil:
		missing = "Store"
	case cfg.Bus == nil:
		missing = "Bus"
	case cfg.Scheduler == nil:
		missing = "Scheduler"
	case cfg.Addresses == nil:
		missing = "Addresses"
	}
	if missing != "" {
		return nil, fmt.Errorf("compute: ServiceConfig.%s is required: %w", missing, errdefs.ErrInvalidArgument)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg}, nil
}

// Get returns an instance.
func (s *Service) Get(ctx context.Context, id string) (i Instance, err error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "compute:get", "")
	if err != nil {
		return i, err
	}
	err = s.cfg.Store.View(func(v *state.View) error {
		i, err = owned(v, caller, id)
		return err
	})
	return i, err
}

// owned returns an instance that the caller's project has; to an administrator, any.
func owned(r state.Reader, caller auth.Caller, id string) (Instance, error) {
	i, err := Instances.Get(r, id)
	if err != nil {
		return i, err
	}
	if i.ProjectID != caller.ProjectID && !caller.Admin {
		return Instance{}, fmt.Errorf("instance %q: %w", id, errdefs.ErrNotFound)
	}
	return i, nil
}

// ListOptions say which instances to list.
type ListOptions struct {
	AllProjects bool   // for administrators
	After       string // the id after which to go on; "": from the beginning
	Limit       int    // 0: no limit
}

// List returns instances in the order of their ids.
func (s *Service) List(ctx context.Context, o ListOptions) ([]Instance, error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "compute:list", "")
	if err != nil {
		return nil, err
	}
	if o.AllProjects {
		if _, err := s.cfg.Policy.Authorize(ctx, "compute:list:all", ""); err != nil {
			return nil, err
		}
	}
	if o.Limit < 0 {
		return nil, fmt.Errorf("compute: Limit is %d, must be at least 0: %w", o.Limit, errdefs.ErrInvalidArgument)
	}
	var all []Instance
	err = s.cfg.Store.View(func(v *state.View) error {
		from := Instances.By(v, "project", caller.ProjectID)
		if o.AllProjects {
			from = Instances.From(v, o.After)
		}
		for i := range from {
			if i.ID <= o.After {
				continue
			}
			if all = append(all, i); len(all) == o.Limit {
				break
			}
		}
		return nil
	})
	return all, err
}

// Wait returns the instance when until says true of it, or an error that names why it can't come to that: NotFound when
// it is gone, or ctx's. It is woken by changes and costs nothing between them.
func (s *Service) Wait(ctx context.Context, id string, until func(Instance) bool) (i Instance, err error) {
	if i, err = s.Get(ctx, id); err != nil {
		return i, err
	}
	err = Instances.Await(ctx, s.cfg.Store, id, func(rec Instance, found bool) (bool, error) {
		if !found {
			return false, fmt.Errorf("instance %q: %w", id, errdefs.ErrNotFound)
		}
		i = rec
		return until(rec), nil
	})
	return i, err
}

// WaitActive waits until the instance runs and nothing is being done to it. One that comes to rest in another state, such as
// a launch that failed, is FailedPrecondition, with the instance's fault; one that is terminated is NotFound when it is gone.
func (s *Service) WaitActive(ctx context.Context, id string) (Instance, error) {
	i, err := s.Wait(ctx, id, func(i Instance) bool { return i.Task == TaskNone })
	switch {
	case err != nil || i.State == StateActive:
		return i, err
	case i.Fault != "":
		return i, fmt.Errorf("instance %s is %s: %s: %w", id, i.State, i.Fault, errdefs.ErrFailedPrecondition)
	}
	return i, fmt.Errorf("instance %s is %s: %w", id, i.State, errdefs.ErrFailedPrecondition)
}

// WaitGone waits until the instance is terminated and all that it had is given back.
func (s *Service) WaitGone(ctx context.Context, id string) error {
	_, err := s.Wait(ctx, id, func(Instance) bool { return false })
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// Terminate ends an instance in any state, and whatever is being done to it, and gives back all that it has. An instance
// that is being terminated already is success. It is done when its host's agent gets to it: one whose host never comes
// back stays as it is, with what it has, "deleting".
func (s *Service) Terminate(ctx context.Context, id string) error {
	return s.begin(ctx, "compute:terminate", id, func(tx *state.Tx, i *Instance) error {
		if i.Task == TaskDeleting {
			return errNothing
		}
		for _, kind := range []string{kindLaunch, kindStart, kindStop, kindReboot, kindAttach, kindDetach, kindGrow, kindAddIP, kindRemoveIP, kindSetLimits, kindMigrate, kindArrive} {
			if _, err := operation.Cancel(tx, i.object(), kind); err != nil {
				return err
			}
		}
		i.Task = TaskDeleting
		_, err := operation.Begin(tx, i.operation(kindTerminate, 0))
		return err
	})
}

// Reboot restarts the guest: soft asks it, hard resets the machine. The instance must be active; hard, it may be
// paused.
func (s *Service) Reboot(ctx context.Context, id string, hard bool) error {
	task := TaskRebooting
	if hard {
		task = TaskHardReboot
	}
	return s.begin(ctx, "compute:reboot", id, func(tx *state.Tx, i *Instance) error {
		if err := i.may(task); err != nil {
			return err
		}
		i.Task = task
		op := i.operation(kindReboot, actionDeadline)
		op.Data = rebootWork{work{i.ID, i.Epoch}, hard}
		_, err := operation.Begin(tx, op)
		return err
	})
}

// Start runs a stopped instance.
func (s *Service) Start(ctx context.Context, id string) error {
	return s.simple(ctx, "compute:start", id, TaskStarting, kindStart)
}

// Stop asks the guest to power off, and takes the power away if it does not in time. The instance keeps its disks, its
// addresses and its place on its host.
func (s *Service) Stop(ctx context.Context, id string) error {
	return s.simple(ctx, "compute:stop", id, TaskStopping, kindStop)
}

func (s *Service) simple(ctx context.Context, action, id string, task Task, kind string) error {
	return s.begin(ctx, action, id, func(tx *state.Tx, i *Instance) error {
		if err := i.may(task); err != nil {
			return err
		}
		i.Task = task
		_, err := operation.Begin(tx, i.operation(kind, actionDeadline))
		return err
	})
}

// errNothing is what an intent returns that has nothing to change.
var errNothing = errors.New("nothing to change")

// begin authorises an action on an instance, states its intent, and rings the host.
func (s *Service) begin(ctx context.Context, action, id string, intent func(tx *state.Tx, i *Instance) error) error {
	caller, err := s.cfg.Policy.Authorize(ctx, action, "")
	if err != nil {
		return err
	}
	var i Instance
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if i, err = owned(tx, caller, id); err != nil {
			return err
		}
		if err := intent(tx, &i); err != nil {
			return err
		}
		i.Generation++
		return Instances.Put(tx, i)
	})
	if err == errNothing {
		return nil
	}
	if err != nil {
		return err
	}
	s.ring(ctx, i)
	return nil
}

// maxConsole is the most that is read of a console, in bytes.
const maxConsole = 64 << 10

// Console returns the last max bytes that the instance wrote to its first serial port; max 0 means 64 KiB, which is
// also the most there is. An instance without a domain, as before it first ran, is FailedPrecondition; a host that does
// not answer is Unavailable.
func (s *Service) Console(ctx context.Context, id string, max int) ([]byte, error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "compute:console", "")
	if err != nil {
		return nil, err
	}
	if max < 0 || max > maxConsole {
		return nil, fmt.Errorf("compute: max is %d, must be 0 to %d bytes: %w", max, maxConsole, errdefs.ErrInvalidArgument)
	}
	if max == 0 {
		max = maxConsole
	}
	var i Instance
	if err = s.cfg.Store.View(func(v *state.View) error { i, err = owned(v, caller, id); return err }); err != nil {
		return nil, err
	}
	answer, err := queue.Call[consoleRequest, consoleAnswer](ctx, s.cfg.Bus, Topic(i.HostID)+".console", consoleRequest{id, max})
	switch {
	case errdefs.IsNotFound(err):
		err = fmt.Errorf("instance %s is %s and has no console now: %w", id, i.State, errdefs.ErrFailedPrecondition)
	case errors.Is(err, queue.ErrNoListener):
		err = fmt.Errorf("instance %s: its host does not answer: %w", id, errdefs.ErrUnavailable)
	}
	return answer.Output, err
}

// Ring tells the host of an instance that there is work for it on record, as a service does by itself after what it is asked: the hook
// volume.AgentConfig.Ring. An instance that is gone needs none. A ring that gets lost costs time, never work.
func (s *Service) Ring(ctx context.Context, instanceID string) {
	var i Instance
	if s.cfg.Store.View(func(v *state.View) (err error) { i, err = Instances.Get(v, instanceID); return err }) == nil {
		s.ring(ctx, i)
	}
}

// ring tells the hosts of instances that there is work for them. A ring that gets lost costs time, never work: agents
// look at the store by themselves too.
func (s *Service) ring(ctx context.Context, instances ...Instance) {
	bell := doorbell{s.cfg.Store.Revision()}
	rung := map[string]bool{}
	for _, i := range instances {
		if i.HostID == "" || rung[i.HostID] {
			continue
		}
		rung[i.HostID] = true
		if err := queue.Cast(ctx, s.cfg.Bus, Topic(i.HostID), bell); err != nil {
			s.cfg.Logger.Debug("compute: doorbell not delivered", "host", i.HostID, "error", err)
		}
	}
}
