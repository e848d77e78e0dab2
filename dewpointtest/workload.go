package dewpointtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// clientPatience is how long a user of the random workload waits for an answer.
const clientPatience = 20 * time.Second

// Work has users do what they like for a number of steps, each up to two seconds after the last: run instances, one or a few,
// under a token or without; terminate, stop, start, reboot and migrate them; on any controller, repeating what had no clear answer. It is
// the script of a simulation that has none, and may be a part of another. It uses [Sim.Dice].
func (s *Sim) Work(ctx context.Context, steps int) {
	var ids []string
	for step := range steps {
		if !pause(ctx, time.Duration(s.Dice.Int64N(int64(2*time.Second)))) {
			return
		}
		id := ""
		if len(ids) > 0 {
			id = ids[s.Dice.IntN(len(ids))]
		}
		var act func(ctx context.Context, c *compute.Service) error
		what, doom := "", false
		switch pick := s.Dice.IntN(14); {
		case pick < 5 || id == "":
			what = "run"
			req := s.Request(fmt.Sprintf("machine-%d", step))
			req.Flavor = []string{"m1.tiny", "m1.small", "m1.medium"}[s.Dice.IntN(3)]
			req.MinCount, req.MaxCount = 1, 1+s.Dice.IntN(3)
			req.Token = fmt.Sprintf("token-%d", step)
			act = func(ctx context.Context, c *compute.Service) error {
				made, err := c.Run(ctx, req)
				for _, i := range made {
					ids = append(ids, i.ID)
					s.accept(i.ID)
				}
				return err
			}
		case pick < 8:
			what, doom = "terminate", true
			act = func(ctx context.Context, c *compute.Service) error { return c.Terminate(ctx, id) }
		case pick < 9:
			what = "stop"
			act = func(ctx context.Context, c *compute.Service) error { return c.Stop(ctx, id) }
		case pick < 10:
			what = "start"
			act = func(ctx context.Context, c *compute.Service) error { return c.Start(ctx, id) }
		case pick < 12:
			what = "migrate"
			act = func(ctx context.Context, c *compute.Service) error { _, err := c.LiveMigrate(ctx, id, ""); return err }
		default:
			what = "reboot"
			hard := s.Dice.IntN(2) == 0
			act = func(ctx context.Context, c *compute.Service) error { return c.Reboot(ctx, id, hard) }
		}
		if doom {
			s.doom(id)
		}
		err := s.ask(ctx, act)
		if !expected(err) {
			s.violated("a user who asked to %s got an answer that nobody can expect: %v", what, err)
		}
		s.note(s.CheckNow())
	}
}

// ask does something as a user does: on any controller, and again on another one if there is no clear answer.
func (s *Sim) ask(ctx context.Context, act func(ctx context.Context, c *compute.Service) error) (err error) {
	for range 3 {
		controller := s.Dice.IntN(s.cfg.Controllers)
		err = func() error {
			ctx, end := context.WithTimeout(ctx, clientPatience)
			defer end()
			return act(ctx, s.Services(controller).Compute)
		}()
		if err == nil || !unclear(err) {
			return err
		}
	}
	return err
}

// unclear tells whether an error leaves open what has happened.
func unclear(err error) bool {
	return errdefs.IsUnknown(err) || errdefs.IsUnavailable(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// expected tells whether users have to live with an error.
func expected(err error) bool {
	return err == nil || unclear(err) || errdefs.IsFailedPrecondition(err) || errdefs.IsNotFound(err) || errdefs.IsResourceExhausted(err)
}

// accept notes that a user was promised an instance.
func (s *Sim) accept(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.accepted[id]; !known {
		s.accepted[id] = false
	}
}

// doom notes that somebody wants an instance gone.
func (s *Sim) doom(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accepted[id] = true
}

// clean terminates all instances and checks that nothing is left.
func (s *Sim) clean(ctx context.Context) {
	ctx, end := context.WithTimeout(ctx, s.cfg.Patience)
	defer end()
	gone := s.await(ctx, func() bool {
		left := 0
		_ = s.View(func(v *state.View) error {
			for i := range compute.Instances.All(v) {
				if s.lost(i.HostID) {
					continue
				}
				left++
				s.doom(i.ID)
				err := s.Services(0).Compute.Terminate(ctx, i.ID)
				if err != nil && !errdefs.IsNotFound(err) { // this controller may not have seen that it came or went
					s.violated("instance %s can't be terminated in a calm cloud: %v", i.ID, err)
				}
			}
			return nil
		})
		return left == 0
	})
	if !gone {
		s.violated("instances were not terminated within %v", s.cfg.Patience)
	}
	s.await(ctx, func() bool { return len(s.Check())+len(s.leftovers()) == 0 })
	s.note(s.Check())
	s.note(s.leftovers())
}
