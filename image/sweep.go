package image

import (
	"context"
	"strconv"
	"strings"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// SweepBlobs removes contents that belong to no image, which uploads and deletions leave that were killed, and
// returns how many. It is for the program that runs the service, not for callers, and may run at any time.
//
// It can't meet an upload under way: an upload's record names its blob before the first byte of it arrives, no name is
// used twice, and the store confirms that a record is absent, and not only unknown to this process, before its blob goes.
func (s *Service) SweepBlobs(ctx context.Context) (int, error) {
	var seen []string
	for id, err := range s.cfg.Blobs.List(ctx) {
		if err != nil {
			return 0, err
		}
		seen = append(seen, id)
	}
	removed := 0
	for _, id := range seen {
		orphan, err := s.orphan(ctx, id)
		if err != nil {
			return removed, err
		}
		if !orphan {
			continue
		}
		if err := s.cfg.Blobs.Delete(ctx, id); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// orphan tells whether a blob is of no use to anyone, now and for ever.
func (s *Service) orphan(ctx context.Context, blobID string) (orphan bool, err error) {
	id, number, _ := strings.Cut(blobID, ".")
	upload, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return false, nil // not a name that blobID makes
	}
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if img, err := Images.Get(tx, id); err == nil {
			// Upload only grows, and a failed upload never succeeds: even an old view of the record is right in this.
			orphan = upload < img.Upload || upload == img.Upload && img.Status == Failed
			return nil
		}
		// Adding and removing the record leaves nothing, but makes the log check that there is none. If there is one,
		// this runs again on a view that has it.
		orphan = true
		if err := Images.Insert(tx, Image{ID: id}); err != nil {
			return err
		}
		return Images.Delete(tx, id)
	})
	return orphan, err
}
