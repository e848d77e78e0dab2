package image

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/image/inspect"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// ServiceConfig is what a [Service] is made of.
type ServiceConfig struct {
	Store  *state.Store // required; its schema has [Images] and what [auth.Schema] returns
	Blobs  Blobs        // required; used by nothing but image services over the same store
	Policy auth.Policy  // zero: denies everything

	MaxBytes int64          // the largest upload, in bytes; 0: 64 GiB
	Limits   inspect.Limits // what an image may describe; its zero values have defaults
	Logger   *slog.Logger   // nil: silent
}

// DefaultMaxBytes is the largest upload where [ServiceConfig] does not say.
const DefaultMaxBytes = 64 << 30

// Service registers images, takes in their content and hands it out, for callers whom the policy lets. It is safe for
// concurrent use, also by several services over one store and one [Blobs].
//
// An image that the caller can't see is NotFound to it, whatever the call. What only the owner may do is
// PermissionDenied to others who see the image. Bad input is InvalidArgument and names the field.
type Service struct {
	cfg ServiceConfig
}

// NewService checks the configuration. It starts nothing.
func NewService(cfg ServiceConfig) (*Service, error) {
	switch {
	case cfg.Store == nil:
		return nil, fmt.Errorf("image: ServiceConfig.Store is required: %w", errdefs.ErrInvalidArgument)
	case cfg.Blobs == nil:
		return nil, fmt.Errorf("image: ServiceConfig.Blobs is required: %w", errdefs.ErrInvalidArgument)
	case cfg.MaxBytes < 0:
		return nil, fmt.Errorf("image: ServiceConfig.MaxBytes is %d, must be at least 0: %w", cfg.MaxBytes, errdefs.ErrInvalidArgument)
	case cfg.MaxBytes == 0:
		cfg.MaxBytes = DefaultMaxBytes
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg: cfg}, nil
}

// Get returns an image that the caller can see: its project's, one shared with that, a public one.
func (s *Service) Get(ctx context.Context, id string) (Image, error) {
	return s.visible(ctx, "image:get", id)
}

func (s *Service) visible(ctx context.Context, action, id string) (img Image, err error) {
	caller, err := s.cfg.Policy.Authorize(ctx, action, "")
	if err != nil {
		return Image{}, err
	}
	err = s.cfg.Store.View(func(v *state.View) error {
		img, err = Visible(v, caller, id)
		return err
	})
	return img, err
}

// manage returns an image that the caller may change.
func (s *Service) manage(ctx context.Context, action, id string) (Image, error) {
	img, err := s.visible(ctx, action, id)
	if err != nil {
		return Image{}, err
	}
	_, err = s.cfg.Policy.Authorize(ctx, action, img.ProjectID)
	return img, err
}

// Query chooses among the images that a caller can see. The zero value chooses all.
type Query struct {
	Name   string // exactly; "": any
	Format Format // "": any
	Status Status // "": any

	After string // only ids after this one, for reading on after a limited answer
	Limit int    // at most so many; 0: no limit
}

// List returns the images that the caller can see and q chooses, in the order of their ids. An administrator sees
// those of all projects.
func (s *Service) List(ctx context.Context, q Query) ([]Image, error) {
	caller, err := s.cfg.Policy.Authorize(ctx, "image:list", "")
	if err != nil {
		return nil, err
	}
	if q.Limit < 0 {
		return nil, fmt.Errorf("image: Limit is %d, must be at least 0: %w", q.Limit, errdefs.ErrInvalidArgument)
	}
	var all []Image
	err = s.cfg.Store.View(func(v *state.View) error {
		all = q.choose(v, caller)
		return nil
	})
	return all, err
}

func (q Query) choose(r state.Reader, caller auth.Caller) []Image {
	found := map[string]Image{}
	if caller.Admin {
		for img := range Images.All(r) {
			found[img.ID] = img
		}
	} else {
		for _, user := range []string{caller.ProjectID, everyone} {
			for img := range Images.By(r, "user", user) {
				found[img.ID] = img
			}
		}
	}
	all := []Image{}
	for _, img := range found {
		if q.matches(img) {
			all = append(all, img)
		}
	}
	slices.SortFunc(all, func(a, b Image) int { return strings.Compare(a.ID, b.ID) })
	if q.Limit > 0 && len(all) > q.Limit {
		all = all[:q.Limit]
	}
	return all
}

func (q Query) matches(img Image) bool {
	return (q.Name == "" || q.Name == img.Name) && (q.Format == "" || q.Format == img.Format) &&
		(q.Status == "" || q.Status == img.Status) && img.ID > q.After
}

// Download returns an active image and its content, which the caller closes; it stays readable if the image is deleted
// meanwhile. An image without content is FailedPrecondition.
func (s *Service) Download(ctx context.Context, id string) (Image, Blob, error) {
	img, err := s.visible(ctx, "image:download", id)
	if err != nil {
		return Image{}, nil, err
	}
	if img.Status != Active {
		return Image{}, nil, fmt.Errorf("image %s is %s, must be active to be downloaded: %w", id, img.Status,
			errdefs.ErrFailedPrecondition)
	}
	blob, err := s.cfg.Blobs.Open(ctx, img.blobID())
	return img, blob, err
}
