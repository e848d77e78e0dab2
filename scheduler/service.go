package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// ServiceConfig is what a [Service] is made of.
type ServiceConfig struct {
	Store  *state.Store // required; its schema has that of [Schema]
	Policy auth.Policy  // zero: denies everything

	// Used tells what the instances on a host take, as in a [Config]. Required.
	Used func(r state.Reader, hostID string) Resources

	Members *Members // as in a [Config]

	Logger *slog.Logger // nil: silent
}

// Service shows administrators the hosts of the cloud, and takes hosts out of use. It is safe for concurrent use. A host is
// named by its id or its name; one that does not exist is NotFound.
type Service struct{ cfg ServiceConfig }

// HostState is a host and how it is.
type HostState struct {
	Candidate
	Seen time.Time // its last sign of life, by its own clock; zero: none ever
}

// NewService checks the configuration. It starts nothing.
func NewService(cfg ServiceConfig) (*Service, error) {
	switch {
	case cfg.Store == nil:
		return nil, fmt.Errorf("scheduler: ServiceConfig.Store is required: %w", errdefs.ErrInvalidArgument)
	case cfg.Used == nil:
		return nil, fmt.Errorf("scheduler: ServiceConfig.Used is required: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg}, nil
}

// List returns all hosts, in the order of their names.
func (s *Service) List(ctx context.Context) ([]HostState, error) {
	if _, err := s.cfg.Policy.Authorize(ctx, "compute:host:list", ""); err != nil {
		return nil, err
	}
	all := []HostState{}
	now := time.Now()
	err := s.cfg.Store.View(func(v *state.View) error {
		for h := range Hosts.All(v) {
			all = append(all, s.look(v, h, now))
		}
		return nil
	})
	slices.SortFunc(all, func(a, b HostState) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}

// Get returns one host.
func (s *Service) Get(ctx context.Context, idOrName string) (h HostState, err error) {
	if _, err := s.cfg.Policy.Authorize(ctx, "compute:host:get", ""); err != nil {
		return HostState{}, err
	}
	err = s.cfg.Store.View(func(v *state.View) error {
		found, err := findHost(v, idOrName)
		if err == nil {
			h = s.look(v, found, time.Now())
		}
		return err
	})
	return h, err
}

func (s *Service) look(r state.Reader, h Host, now time.Time) HostState {
	st := HostState{Candidate: Candidate{Host: h, Used: s.cfg.Used(r, h.ID)}}
	st.hear(s.cfg.Members, r, now)
	if beat, err := Beats.Get(r, h.ID); err == nil {
		st.Seen = beat.At
	}
	return st
}

// MaxReason is how many bytes the reason of [Service.Disable] may have.
const MaxReason = 255

// Disable keeps new instances off a host; those on it stay as they are. The reason, which may be empty, is for people.
// From the moment it returns nothing is placed on the host any more, by whatever process. To repeat it replaces the reason.
func (s *Service) Disable(ctx context.Context, idOrName, reason string) (HostState, error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "compute:host:disable", "")
	if err != nil {
		return HostState{}, err
	}
	if len(reason) > MaxReason || !utf8.ValidString(reason) || strings.ContainsFunc(reason, unicode.IsControl) {
		return HostState{}, fmt.Errorf("scheduler: Reason must have at most %d bytes of UTF-8 without control characters, but has %d: %w",
			MaxReason, len(reason), errdefs.ErrInvalidArgument)
	}
	return s.set(ctx, caller, idOrName, true, reason)
}

// Enable lets a host have new instances again. One that is enabled is success.
func (s *Service) Enable(ctx context.Context, idOrName string) (HostState, error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "compute:host:enable", "")
	if err != nil {
		return HostState{}, err
	}
	return s.set(ctx, caller, idOrName, false, "")
}

func (s *Service) set(ctx context.Context, by auth.Caller, idOrName string, disabled bool, reason string) (now HostState, err error) {
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		h, err := findHost(tx, idOrName)
		if err != nil {
			return err
		}
		h.Disabled, h.Reason = disabled, reason
		now = s.look(tx.Unguarded(), h, time.Now())
		return Hosts.Put(tx, h)
	})
	if err != nil {
		return HostState{}, err
	}
	s.cfg.Logger.InfoContext(ctx, "scheduler: host set", "by", by.UserID, "host", now.Name, "disabled", disabled, "reason", reason)
	return now, nil
}
