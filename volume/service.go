package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// ServiceConfig is what a [Service] is made of.
type ServiceConfig struct {
	Store  *state.Store // required
	Policy auth.Policy  // zero: denies everything
	// Members knows which hosts are alive, by the clock of this process. Nil: what they have on record is believed.
	Members *scheduler.Members
	Logger  *slog.Logger // nil: silent
}

// Service does what callers ask of their volumes. Every action states its intent in one transaction and returns; the agent of
// the volume's host, which follows the records, does the work. Each goes through the policy first: a caller without the
// right gets PermissionDenied, one that is not known Unauthenticated, and a volume of another project is NotFound. It is safe
// for concurrent use.
type Service struct{ cfg ServiceConfig }

// NewService checks the configuration. It starts nothing.
func NewService(cfg ServiceConfig) (*Service, error) {
	if cfg.Store == nil {
		return nil, fmt.Errorf("volume: ServiceConfig.Store is required: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg}, nil
}

// Get returns a volume.
func (s *Service) Get(ctx context.Context, id string) (v Volume, err error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "volume:get", "")
	if err != nil {
		return v, err
	}
	err = s.cfg.Store.View(func(r *state.View) error { v, err = Owned(r, caller, id); return err })
	return v, err
}

// Owned returns a volume that the caller's project has; to an administrator, any.
func Owned(r state.Reader, caller auth.Caller, id string) (Volume, error) {
	v, err := Volumes.Get(r, id)
	if err != nil || (v.ProjectID != caller.ProjectID && !caller.Admin) {
		return Volume{}, fmt.Errorf("volume %.64q: %w", id, errdefs.ErrNotFound)
	}
	return v, nil
}

// ListOptions say what to list.
type ListOptions struct {
	AllProjects bool   // for administrators
	After       string // the id after which to go on; "": from the beginning
	Limit       int    // 0: no limit
}

// List returns volumes in the order of their ids.
func (s *Service) List(ctx context.Context, o ListOptions) ([]Volume, error) {
	return list(ctx, s, "volume:list", Volumes, o, func(v Volume) string { return v.ID })
}

func list[T any](ctx context.Context, s *Service, action string, table *state.Table[T], o ListOptions, id func(T) string) ([]T, error) {
	caller, err := s.cfg.Policy.Authorize(ctx, action, "")
	if err != nil {
		return nil, err
	}
	if o.AllProjects {
		if _, err := s.cfg.Policy.Authorize(ctx, "volume:list:all", ""); err != nil {
			return nil, err
		}
	}
	if o.Limit < 0 {
		return nil, fmt.Errorf("volume: Limit is %d, must be at least 0: %w", o.Limit, errdefs.ErrInvalidArgument)
	}
	all := []T{}
	err = s.cfg.Store.View(func(r *state.View) error {
		from := table.By(r, "project", caller.ProjectID)
		if o.AllProjects {
			from = table.From(r, o.After)
		}
		for rec := range from {
			if id(rec) <= o.After {
				continue
			}
			if all = append(all, rec); len(all) == o.Limit {
				break
			}
		}
		return nil
	})
	return all, err
}

// Wait returns the volume when until says true of it, or an error that names why it can't come to that: NotFound when it
// is gone, or ctx's. It is woken by changes and costs nothing between them.
func (s *Service) Wait(ctx context.Context, id string, until func(Volume) bool) (v Volume, err error) {
	if v, err = s.Get(ctx, id); err != nil {
		return v, err
	}
	err = Volumes.Await(ctx, s.cfg.Store, id, func(rec Volume, found bool) (bool, error) {
		if !found {
			return false, fmt.Errorf("volume %s: %w", id, errdefs.ErrNotFound)
		}
		v = rec
		return until(rec), nil
	})
	return v, err
}

// WaitFor waits until the volume is in a state and nothing is being done to it. One that comes to rest in another state is
// FailedPrecondition, with the volume's fault.
func (s *Service) WaitFor(ctx context.Context, id string, want State) (Volume, error) {
	v, err := s.Wait(ctx, id, func(v Volume) bool {
		return v.State == want || v.State == StateAvailable || v.State == StateInUse || v.State == StateError
	})
	if err == nil && v.State != want {
		err = fmt.Errorf("volume %s is %s, not %s: %s: %w", id, v.State, want, v.Fault, errdefs.ErrFailedPrecondition)
	}
	return v, err
}

// WaitGone waits until the volume is deleted.
func (s *Service) WaitGone(ctx context.Context, id string) error {
	_, err := s.Wait(ctx, id, func(Volume) bool { return false })
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// ListHosts returns the hosts with volumes, in the order of their ids, to administrators.
func (s *Service) ListHosts(ctx context.Context) ([]Host, error) {
	if _, err := s.cfg.Policy.Authorize(ctx, "volume:host:list", ""); err != nil {
		return nil, err
	}
	all := []Host{}
	err := s.cfg.Store.View(func(r *state.View) error {
		for h := range Hosts.All(r) {
			all = append(all, h)
		}
		return nil
	})
	return all, err
}

// change authorises an action on a volume and states its intent.
func (s *Service) change(ctx context.Context, action, id string, intent func(tx *state.Tx, v *Volume) error) (v Volume, err error) {
	caller, err := s.cfg.Policy.Authorize(ctx, action, "")
	if err != nil {
		return v, err
	}
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if v, err = Owned(tx, caller, id); err != nil {
			return err
		}
		if err := intent(tx, &v); err != nil {
			return err
		}
		return Volumes.Put(tx, v)
	})
	if err != nil {
		return Volume{}, err
	}
	return v, nil
}

func wrong(format string, args ...any) error {
	return fmt.Errorf("volume: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

var validToken = regexp.MustCompile(`^[!-~]{0,64}$`)

// checkNames checks what a request for something new is called.
func checkNames(name, token string) error {
	switch {
	case !utf8.ValidString(name) || utf8.RuneCountInString(name) > 255 || strings.ContainsFunc(name, unicode.IsControl):
		return wrong("Name %.40q must have at most 255 characters, none of them a control character", name)
	case !validToken.MatchString(token):
		return wrong("Token must have at most 64 printable ASCII characters")
	}
	return nil
}

// hash tells requests apart that came under one token.
func hash(request any) string {
	b, _ := json.Marshal(request) // a struct of strings and numbers can always be encoded
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func usedToken(token string) error {
	return fmt.Errorf("volume: Token %q was used for another request: %w", token, errdefs.ErrFailedPrecondition)
}
