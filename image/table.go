package image

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// Images is the table of images. Only this package writes it; others read it in their own transactions, by [Visible].
var Images = state.NewTable("image", func(i Image) string { return i.ID },
	state.Index("user", Image.users),
	state.Index("part", func(i Image) []string { return nonEmpty(i.KernelID, i.RamdiskID) }),
	state.Unique("token", func(i Image) []string {
		if i.Token == "" {
			return nil
		}
		return []string{i.ProjectID + "/" + i.Token}
	}))

// everyone stands for all projects in the index of who can use an image; no project has this id.
const everyone = "*"

func (i Image) users() []string {
	all := append([]string{i.ProjectID}, i.SharedWith...)
	if i.Visibility == Public {
		all = append(all, everyone)
	}
	return all
}

func nonEmpty(all ...string) []string {
	var some []string
	for _, s := range all {
		if s != "" {
			some = append(some, s)
		}
	}
	return some
}

// Visible returns an image that the caller can see: its project's, one shared with that, a public one; an
// administrator sees all. Any other is NotFound.
func Visible(r state.Reader, caller auth.Caller, id string) (Image, error) {
	img, err := Images.Get(r, id)
	if err != nil || !caller.Admin && !img.UsableBy(caller.ProjectID) {
		return Image{}, fmt.Errorf("image %.64q: %w", id, errdefs.ErrNotFound)
	}
	return img, nil
}
