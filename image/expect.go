package image

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/image/inspect"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// Expect registers an image whose content a host of the cloud makes, as one part of a transaction: it is Uploading, and stays so until [Arrived]
// or [Lost]. The image is private. Whoever calls it has asked the policy for "image:register". With a token that was used, made is
// false, and the image is what was made then.
func Expect(tx *state.Tx, caller auth.Caller, hostID string, spec Spec) (img Image, made bool, err error) {
	if err := spec.check(); err != nil {
		return Image{}, false, err
	}
	if spec.Visibility != Private {
		return Image{}, false, fmt.Errorf("image: Visibility is %s, must be private: %w", spec.Visibility, errdefs.ErrInvalidArgument)
	}
	fresh := spec.image(caller)
	fresh.Status, fresh.From = Uploading, hostID
	img, err = register(tx, caller, fresh)
	return img, img.ID == fresh.ID, err
}

// expected returns an image that a host is to bring the content of; if that is not so any more, it is Aborted.
func expected(r state.Reader, id, hostID string) (Image, error) {
	img, err := Images.Get(r, id)
	if err != nil || img.Status != Uploading || img.From != hostID || hostID == "" {
		return Image{}, fmt.Errorf("image %.64q: %w", id, errSuperseded)
	}
	return img, nil
}

// Attempt begins an attempt to bring the content of an image that [Expect] registered, as one part of a transaction: those before it count no
// more. Aborted says that nobody waits for the content any more.
func Attempt(tx *state.Tx, id, hostID string) (Image, error) {
	img, err := expected(tx, id, hostID)
	if err != nil {
		return img, err
	}
	img.Upload++
	return img, Images.Put(tx, img)
}

// Receive takes in the content of an image from the host that makes it, by the attempt with the number upload, and returns when it is stored
// durably, has passed inspection and is on record. The image is not active by that. Content that is refused is InvalidArgument, and one over the limit
// [ErrTooLarge]; another host than the one that makes the image is PermissionDenied, and an attempt that does not count any more Aborted.
// There is no caller: who lets hosts in has made sure which one it is.
func (s *Service) Receive(ctx context.Context, hostID, id string, upload uint64, content io.Reader) (Stored, error) {
	var img Image
	err := s.cfg.Store.View(func(r *state.View) (err error) {
		if img, err = Images.Get(r, id); err == nil && img.From != "" && img.From != hostID {
			return fmt.Errorf("image %s is another host's to make than %s's: %w", id, hostID, errdefs.ErrPermissionDenied)
		}
		img, err = expected(r, id, hostID)
		if err == nil && img.Upload != upload {
			err = fmt.Errorf("image %s: %w", id, errSuperseded)
		}
		return err
	})
	if err != nil {
		return Stored{}, err
	}
	stored, info, err := s.receive(ctx, img, content)
	if err == nil {
		err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
			now, err := expected(tx, id, hostID)
			if err != nil || now.Upload != upload {
				return fmt.Errorf("image %s: %w", id, errSuperseded)
			}
			return now.has(tx, stored, info)
		})
	}
	if err != nil {
		s.dropBlob(ctx, img) // it is this attempt's alone
		return Stored{}, err
	}
	return stored, nil
}

func (i Image) has(tx *state.Tx, stored Stored, info inspect.Info) error {
	i.Size, i.SHA256, i.VirtualBytes, i.Updated = stored.Size, stored.SHA256, info.VirtualBytes, time.Now().UTC()
	return Images.Put(tx, i)
}

// Arrived makes an image active whose content its host has brought by the attempt with the number upload. One that is gone, or that somebody has
// begun to upload instead, stays as it is.
func Arrived(tx *state.Tx, id, hostID string, upload uint64) error {
	img, err := expected(tx, id, hostID)
	if err != nil || img.Upload != upload || img.SHA256 == "" {
		return nil
	}
	img.Status, img.Reason, img.From = Active, "", ""
	return Images.Put(tx, img)
}

// Lost says that the content of an image will not come: it is Failed, for a reason in words for its owner, and can be uploaded or deleted. One that
// nobody waits for stays as it is.
func Lost(tx *state.Tx, id, hostID, reason string) error {
	img, err := expected(tx, id, hostID)
	if err != nil {
		return nil
	}
	img.Status, img.Reason, img.From = Failed, reason, ""
	img.Size, img.SHA256, img.VirtualBytes = 0, "", 0
	return Images.Put(tx, img)
}
