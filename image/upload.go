package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// errSuperseded ends an upload whose image has gone, or is being uploaded anew.
var errSuperseded = fmt.Errorf("another upload of the image began, or the image was deleted: %w", errdefs.ErrAborted)

// cleanupTime bounds what is tidied up after a failure, when the caller's context may have ended.
const cleanupTime = 10 * time.Second

// Upload takes in the content of an image and returns when the image is active: the content is stored durably, is
// what the record declares, and passed inspection.
//
// An image that is active already is FailedPrecondition: its content never changes. Content that is refused is
// InvalidArgument, and one over the limit [ErrTooLarge]; then, and when the reader fails, the image is Failed, its Reason
// says why, and it can be uploaded again. It can also be uploaded again while another upload is under way, or was
// when its process was killed: the later one wins, and the earlier ends with Aborted.
func (s *Service) Upload(ctx context.Context, id string, content io.Reader) (Image, error) {
	if _, err := s.manage(ctx, "image:upload", id); err != nil {
		return Image{}, err
	}
	// From here on the record names the blob that is about to arrive, so that a sweep knows it.
	img, err := s.change(ctx, id, func(_ *state.Tx, img *Image) error {
		if img.Status == Active {
			return fmt.Errorf("image %s has content, which can't be changed; register another image: %w", id,
				errdefs.ErrFailedPrecondition)
		}
		img.Status, img.Reason, img.From = Uploading, "", ""
		img.Upload++
		return nil
	})
	if err != nil {
		return Image{}, err
	}
	stored, info, err := s.receive(ctx, img, content)
	if err != nil {
		s.failUpload(ctx, img, err)
		return Image{}, err
	}
	return s.finishUpload(ctx, img, stored, info)
}

// receive stores the content under the upload's own id and looks at it.
func (s *Service) receive(ctx context.Context, img Image, content io.Reader) (Stored, inspect.Info, error) {
	stored, err := s.cfg.Blobs.Put(ctx, img.blobID(), content, s.cfg.MaxBytes)
	if err != nil {
		return Stored{}, inspect.Info{}, err
	}
	if img.WantSHA256 != "" && !strings.EqualFold(img.WantSHA256, stored.SHA256) {
		return Stored{}, inspect.Info{}, fmt.Errorf("content has SHA-256 %s, the image was registered with %s; upload it again: %w",
			stored.SHA256, strings.ToLower(img.WantSHA256), errdefs.ErrInvalidArgument)
	}
	blob, err := s.cfg.Blobs.Open(ctx, img.blobID())
	if err != nil {
		return Stored{}, inspect.Info{}, err
	}
	defer blob.Close()
	info, err := inspect.Check(img.Format, blob, blob.Size(), s.cfg.Limits)
	return stored, info, contextOrNil(ctx, err)
}

// contextOrNil keeps success, and lets the context's error stand for any other when it has ended.
func contextOrNil(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return contextOr(ctx, err)
}

func (s *Service) finishUpload(ctx context.Context, upload Image, stored Stored, info inspect.Info) (Image, error) {
	img, err := s.change(ctx, upload.ID, func(_ *state.Tx, img *Image) error {
		if img.Upload != upload.Upload {
			return errSuperseded
		}
		img.Status, img.Reason = Active, ""
		img.Size, img.SHA256, img.VirtualBytes = stored.Size, stored.SHA256, info.VirtualBytes
		return nil
	})
	if errdefs.IsNotFound(err) {
		err = errSuperseded
	}
	if errors.Is(err, errSuperseded) {
		s.dropBlob(ctx, upload)
	} // after any other error the commit may have happened: the blob stays until a sweep sees that it did not
	if err != nil {
		return Image{}, err
	}
	s.cfg.Logger.InfoContext(ctx, "image active", "image", img.ID, "bytes", img.Size, "sha256", img.SHA256)
	return img, nil
}

// failUpload removes the content and tells the owner why, as far as the time allows.
func (s *Service) failUpload(ctx context.Context, upload Image, cause error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	_, err := s.change(ctx, upload.ID, func(_ *state.Tx, img *Image) error {
		if img.Upload != upload.Upload {
			return errSuperseded
		}
		img.Status, img.Reason = Failed, reason(cause)
		return nil
	})
	if err != nil && !errors.Is(err, errSuperseded) && !errdefs.IsNotFound(err) {
		s.cfg.Logger.WarnContext(ctx, "failed upload could not be recorded", "image", upload.ID, "error", err)
	}
	s.dropBlob(ctx, upload)
}

// reason is what an owner is told of a failure: all of it if the content is to blame, nothing of the service's insides
// else.
func reason(cause error) string {
	switch {
	case errdefs.IsInvalidArgument(cause):
		return cause.Error()
	case errors.Is(cause, context.Canceled), errors.Is(cause, context.DeadlineExceeded):
		return "the upload was broken off"
	case errdefs.IsResourceExhausted(cause):
		return "no space left for images"
	}
	return "the content could not be read or stored"
}

func (s *Service) dropBlob(ctx context.Context, img Image) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if err := s.cfg.Blobs.Delete(ctx, img.blobID()); err != nil {
		s.cfg.Logger.WarnContext(ctx, "content of an image could not be removed; a sweep will", "image", img.ID, "error", err)
	}
}

// change applies fn to the record in one transaction and returns the result.
func (s *Service) change(ctx context.Context, id string, fn func(tx *state.Tx, img *Image) error) (Image, error) {
	var img Image
	err := s.cfg.Store.Update(ctx, func(tx *state.Tx) (err error) {
		if img, err = Images.Get(tx, id); err != nil {
			return fmt.Errorf("image %.64q: %w", id, errdefs.ErrNotFound)
		}
		if err := fn(tx, &img); err != nil {
			return err
		}
		img.Updated = time.Now().UTC()
		return Images.Put(tx, img)
	})
	if err != nil {
		return Image{}, err
	}
	return img, nil
}
