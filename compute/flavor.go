package compute

import (
	"context"
	"fmt"
	"regexp"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// Flavor is a size of instance. An instance keeps a copy, so that deleting a flavor changes nothing for it.
type Flavor struct {
	ID        string // 1 to 64 letters, digits, dots, dashes and underscores
	Name      string // unique; 1 to 255 characters
	VCPUs     int    // 1 to 256
	MemoryMiB int    // 16 to 16,777,216
	DiskGiB   int    // root disk, to 1,048,576; 0: as large as the image's

	// Limits are how much each network card may get and send. Instances that there are keep theirs; [Service.SetLimits] changes one's.
	Limits network.Limits
}

// DefaultFlavors returns the five that Nova has had since 2010.
func DefaultFlavors() []Flavor {
	return []Flavor{
		{ID: "1", Name: "m1.tiny", VCPUs: 1, MemoryMiB: 512, DiskGiB: 0},
		{ID: "2", Name: "m1.small", VCPUs: 1, MemoryMiB: 2048, DiskGiB: 20},
		{ID: "3", Name: "m1.medium", VCPUs: 2, MemoryMiB: 4096, DiskGiB: 40},
		{ID: "4", Name: "m1.large", VCPUs: 4, MemoryMiB: 8192, DiskGiB: 80},
		{ID: "5", Name: "m1.xlarge", VCPUs: 8, MemoryMiB: 16384, DiskGiB: 160},
	}
}

// Flavors holds the flavors of the cloud.
var Flavors = state.NewTable("flavor", func(f Flavor) string { return f.ID },
	state.Unique("name", func(f Flavor) []string { return []string{f.Name} }))

// Resources returns what an instance of the flavor takes of its host.
func (f Flavor) Resources() scheduler.Resources {
	return scheduler.Resources{VCPUs: f.VCPUs, MemoryMiB: f.MemoryMiB, DiskGiB: f.DiskGiB}
}

var flavorID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

func (f Flavor) check() error {
	bad := func(field, format string, args ...any) error {
		return fmt.Errorf("compute: flavor: %s %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	switch {
	case !flavorID.MatchString(f.ID):
		return bad("ID", "%.40q must be 1 to 64 letters, digits, dots, dashes and underscores", f.ID)
	case !validName(f.Name):
		return bad("Name", "%.40q must have 1 to 255 characters, none of them a control character", f.Name)
	case f.VCPUs < 1 || f.VCPUs > 256:
		return bad("VCPUs", "is %d, must be 1 to 256", f.VCPUs)
	case f.MemoryMiB < 16 || f.MemoryMiB > 16<<20:
		return bad("MemoryMiB", "is %d, must be 16 to %d", f.MemoryMiB, 16<<20)
	case f.DiskGiB < 0 || f.DiskGiB > 1<<20:
		return bad("DiskGiB", "is %d, must be 0 to %d", f.DiskGiB, 1<<20)
	}
	if err := f.Limits.Validate(); err != nil {
		return fmt.Errorf("compute: flavor: %w", err)
	}
	return nil
}

// CreateFlavor adds a flavor. An empty ID is made up. An ID or a name that another flavor has, as either, is AlreadyExists.
func (s *Service) CreateFlavor(ctx context.Context, f Flavor) (Flavor, error) {
	if _, err := s.cfg.Policy.Authorize(ctx, "compute:flavor:create", ""); err != nil {
		return Flavor{}, err
	}
	if f.ID == "" {
		f.ID = uuid.NewString()
	}
	if err := f.check(); err != nil {
		return Flavor{}, err
	}
	return f, s.cfg.Store.Update(ctx, func(tx *state.Tx) error { return insertFlavor(tx, f) })
}

func insertFlavor(tx *state.Tx, f Flavor) error {
	for _, word := range []string{f.ID, f.Name} {
		if other, err := findFlavor(tx, word); err == nil {
			return fmt.Errorf("compute: flavor %q: %q is what flavor %s (%q) is found by: %w", f.Name, word, other.ID, other.Name,
				errdefs.ErrAlreadyExists)
		}
	}
	return Flavors.Insert(tx, f)
}

// InstallFlavors adds the flavors to a cloud that has none, and changes nothing in one that has. A program calls it whenever it
// starts, with [DefaultFlavors] or its own; what administrators changed since stays as they left it.
func (s *Service) InstallFlavors(ctx context.Context, flavors []Flavor) error {
	if _, err := s.cfg.Policy.Authorize(ctx, "compute:flavor:create", ""); err != nil {
		return err
	}
	for _, f := range flavors {
		if err := f.check(); err != nil {
			return err
		}
	}
	return s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		for range Flavors.All(tx) {
			return nil
		}
		for _, f := range flavors {
			if err := insertFlavor(tx, f); err != nil {
				return err
			}
		}
		return nil
	})
}

// GetFlavor returns a flavor by its id or name.
func (s *Service) GetFlavor(ctx context.Context, idOrName string) (f Flavor, err error) {
	if _, err := s.cfg.Policy.Authorize(ctx, "compute:flavor:get", ""); err != nil {
		return f, err
	}
	err = s.cfg.Store.View(func(v *state.View) error { f, err = findFlavor(v, idOrName); return err })
	return f, err
}

// ListFlavors returns the flavors in the order of their ids.
func (s *Service) ListFlavors(ctx context.Context) (all []Flavor, err error) {
	if _, err := s.cfg.Policy.Authorize(ctx, "compute:flavor:list", ""); err != nil {
		return nil, err
	}
	err = s.cfg.Store.View(func(v *state.View) error {
		for f := range Flavors.All(v) {
			all = append(all, f)
		}
		return nil
	})
	return all, err
}

// DeleteFlavor removes a flavor by its id; an unknown one is NotFound. Instances of it go on.
func (s *Service) DeleteFlavor(ctx context.Context, id string) error {
	if _, err := s.cfg.Policy.Authorize(ctx, "compute:flavor:delete", ""); err != nil {
		return err
	}
	return s.cfg.Store.Update(ctx, func(tx *state.Tx) error { return Flavors.Delete(tx, id) })
}

func findFlavor(r state.Reader, idOrName string) (Flavor, error) {
	f, err := Flavors.Get(r, idOrName)
	if errdefs.IsNotFound(err) {
		f, err = Flavors.One(r, "name", idOrName)
	}
	if err != nil {
		return f, fmt.Errorf("flavor %.64q: %w", idOrName, errdefs.ErrNotFound)
	}
	return f, nil
}
