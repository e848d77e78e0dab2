package auth

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// ServiceConfig is what a [Service] is made of.
type ServiceConfig struct {
	Store  *state.Store // required; its schema has that of [Schema]
	Policy Policy       // zero: denies everything

	// Used tells what a project uses, read through r from a [state.Sum]. It is shown beside a quota, and a project that
	// uses anything is not deleted. nil: nothing is known to be used.
	Used func(r state.Reader, projectID string) Amounts

	Logger *slog.Logger // nil: silent
}

// Service keeps the users, projects, members, key pairs and quotas of a cloud, for callers whom the policy lets. It is safe
// for concurrent use, also by several services over one log.
//
// A caller that is not an administrator is told PermissionDenied of whatever is not its own, whether that exists or
// not. Bad input is InvalidArgument and names the field and its limit, what is unknown is NotFound, a name that is taken
// AlreadyExists.
type Service struct {
	cfg ServiceConfig
}

// NewService checks the configuration. It starts nothing.
func NewService(cfg ServiceConfig) (*Service, error) {
	if cfg.Store == nil {
		return nil, fmt.Errorf("auth: ServiceConfig.Store is required: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.Used == nil {
		cfg.Used = func(state.Reader, string) Amounts { return Amounts{} }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg: cfg}, nil
}

// Limits of what records hold.
const (
	MaxName        = 255     // bytes of a name
	MaxDescription = 4 << 10 // bytes
	MaxMembers     = 1000    // members of a project
	MaxMemberships = 1000    // projects that a user is a member of
)

// checkName refuses what is no name: empty, too long, or not a line of text.
func checkName(field, name string) error {
	if name == "" || len(name) > MaxName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("auth: %s must have 1 to %d bytes of UTF-8 without control characters, but is %.40q (%d bytes): %w", field,
			MaxName, name, len(name), errdefs.ErrInvalidArgument)
	}
	return nil
}

// absent is what is said of a record that is not there.
func absent(what, id string) error {
	return fmt.Errorf("auth: %s %.64q: %w", what, id, errdefs.ErrNotFound)
}

// put records rec in one of this package's tables; a unique value that another has is AlreadyExists.
func put[T any](tx *state.Tx, table *state.Table[T], rec T) error {
	if err := table.Put(tx, rec); err != nil {
		return fmt.Errorf("auth: %w", err)
	}
	return nil
}

// note logs a change of who may do what.
func (s *Service) note(ctx context.Context, by Caller, what string, attrs ...any) {
	s.cfg.Logger.InfoContext(ctx, "auth: "+what, append([]any{"by", by.UserID}, attrs...)...)
}
