package image

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// Delete forgets an image and frees its space. Instances that were made of it go on, and can be started again on their
// nodes, which keep their own copy for as long as it is used; a launch that has not fetched the image yet fails. A kernel or
// ramdisk that another image of the same project is registered with is FailedPrecondition. Uploads of the image that are
// under way end with Aborted.
func (s *Service) Delete(ctx context.Context, id string) error {
	if _, err := s.manage(ctx, "image:delete", id); err != nil {
		return err
	}
	return s.remove(ctx, id)
}

func (s *Service) remove(ctx context.Context, id string) error {
	var img Image
	err := s.cfg.Store.Update(ctx, func(tx *state.Tx) (err error) {
		if img, err = Images.Get(tx, id); err != nil {
			return fmt.Errorf("image %.64q: %w", id, errdefs.ErrNotFound)
		}
		for user := range Images.By(tx, "part", id) {
			if user.ProjectID == img.ProjectID {
				return fmt.Errorf("image %s boots image %s (%q): delete that first: %w", id, user.ID, user.Name,
					errdefs.ErrFailedPrecondition)
			}
		}
		return Images.Delete(tx, id)
	})
	if err != nil {
		return err
	}
	if img.Upload > 0 {
		s.dropBlob(ctx, img)
	}
	return nil
}

// undoCreate removes the image of a Create that failed, unless it became active after all, or by another call.
func (s *Service) undoCreate(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	err := s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		img, err := Images.Get(tx, id)
		if err != nil || img.Status != Failed {
			return nil
		}
		return Images.Delete(tx, id)
	})
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "image of a failed upload could not be removed", "image", id, "error", err)
	}
}

// SetVisibility makes an image public, which the policy may keep for some, or private again.
func (s *Service) SetVisibility(ctx context.Context, id string, visibility Visibility) (Image, error) {
	action := "image:update"
	switch visibility {
	case Public:
		action = "image:publish"
	case Private:
	default:
		return Image{}, fmt.Errorf("image: Visibility is %.20q, must be private or public: %w", visibility, errdefs.ErrInvalidArgument)
	}
	if _, err := s.manage(ctx, action, id); err != nil {
		return Image{}, err
	}
	return s.change(ctx, id, func(tx *state.Tx, img *Image) error {
		img.Visibility = visibility
		owner := auth.Caller{UserID: img.UserID, ProjectID: img.ProjectID}
		if err := checkPart(tx, owner, "KernelID", img.KernelID, Kernel, visibility); err != nil {
			return err
		}
		return checkPart(tx, owner, "RamdiskID", img.RamdiskID, Ramdisk, visibility)
	})
}

// maxShares bounds how many projects one image can be shared with.
const maxShares = 128

// Share lets another project use a private image. Repeating it changes nothing.
func (s *Service) Share(ctx context.Context, id, projectID string) (Image, error) {
	if !validText(projectID, 1, maxName) || projectID == everyone {
		return Image{}, fmt.Errorf("image: project %.40q to share with must have 1 to %d characters and not be %q: %w", projectID,
			maxName, everyone, errdefs.ErrInvalidArgument)
	}
	return s.reshare(ctx, id, func(with []string) ([]string, error) {
		at, found := slices.BinarySearch(with, projectID)
		if found {
			return with, nil
		}
		if len(with) == maxShares {
			return nil, fmt.Errorf("image %s is shared with %d projects, more are not possible: %w", id, maxShares,
				errdefs.ErrResourceExhausted)
		}
		return slices.Insert(with, at, projectID), nil
	})
}

// Unshare ends what Share began; a project that the image is not shared with is success.
func (s *Service) Unshare(ctx context.Context, id, projectID string) (Image, error) {
	return s.reshare(ctx, id, func(with []string) ([]string, error) {
		return slices.DeleteFunc(with, func(p string) bool { return p == projectID }), nil
	})
}

func (s *Service) reshare(ctx context.Context, id string, fn func(with []string) ([]string, error)) (Image, error) {
	if _, err := s.manage(ctx, "image:share", id); err != nil {
		return Image{}, err
	}
	return s.change(ctx, id, func(_ *state.Tx, img *Image) (err error) {
		img.SharedWith, err = fn(img.SharedWith)
		return err
	})
}
