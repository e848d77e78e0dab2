package image

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
)

// verdict is what becomes of a call: y(es), - for PermissionDenied, 0 for NotFound, ? for Unauthenticated.
func verdict(err error) string {
	switch {
	case err == nil:
		return "y"
	case errdefs.IsPermissionDenied(err):
		return "-"
	case errdefs.IsNotFound(err):
		return "0"
	case errdefs.IsUnauthorized(err):
		return "?"
	}
	return err.Error()
}

// calls does each action to a fresh image of project "mine", made by fresh.
func calls(s *Service, fresh func(active bool) Image) map[string]func(ctx context.Context) error {
	return map[string]func(ctx context.Context) error{
		"image:register": func(ctx context.Context) error {
			_, err := s.Register(ctx, Spec{Name: "new", Format: Raw})
			return err
		},
		"image:upload": func(ctx context.Context) error {
			_, err := s.Upload(ctx, fresh(false).ID, bytes.NewReader(disk(512)))
			return err
		},
		"image:download": func(ctx context.Context) error {
			_, blob, err := s.Download(ctx, fresh(true).ID)
			if err == nil {
				err = blob.Close()
			}
			return err
		},
		"image:get":     func(ctx context.Context) error { _, err := s.Get(ctx, fresh(true).ID); return err },
		"image:list":    func(ctx context.Context) error { _, err := s.List(ctx, Query{}); return err },
		"image:delete":  func(ctx context.Context) error { return s.Delete(ctx, fresh(true).ID) },
		"image:publish": func(ctx context.Context) error { _, err := s.SetVisibility(ctx, fresh(true).ID, Public); return err },
		"image:update":  func(ctx context.Context) error { _, err := s.SetVisibility(ctx, fresh(true).ID, Private); return err },
		"image:share":   func(ctx context.Context) error { _, err := s.Share(ctx, fresh(true).ID, "third"); return err },
	}
}

// Every action by: a sysadmin of the project that owns the image, a member of it without a role, a sysadmin of the project
// that a shared image is shared with, a sysadmin of another, a caller in no project, an administrator, one in no
// project, and nobody.
func TestEveryActionByEveryone(t *testing.T) {
	r := newRig(t)
	role := func(project string, roles ...string) context.Context {
		return auth.NewContext(t.Context(), auth.Caller{UserID: "ann", ProjectID: project, Roles: roles})
	}
	owner := role("mine", auth.SysAdmin)
	callers := []context.Context{owner, role("mine"), role("friend", auth.SysAdmin), role("other", auth.SysAdmin), role("", auth.SysAdmin),
		asAdmin(t), auth.NewContext(t.Context(), auth.Admin("")), t.Context()}
	fresh := func(kind string) func(active bool) Image {
		return func(active bool) Image {
			img, err := r.Register(owner, Spec{Name: "img", Format: Raw})
			require.NoError(t, err)
			if active {
				img, err = r.Upload(owner, img.ID, bytes.NewReader(disk(512)))
				require.NoError(t, err)
			}
			switch kind {
			case "public":
				img, err = r.SetVisibility(owner, img.ID, Public)
			case "shared":
				img, err = r.Share(owner, img.ID, "friend")
			}
			require.NoError(t, err)
			return img
		}
	}
	see := map[string]string{"private": "yy00-yy?", "shared": "yyy0-yy?", "public": "yyyy-yy?"}
	change := map[string]string{"private": "y-00-yy?", "shared": "y--0-yy?", "public": "y----yy?"}
	for kind := range see {
		want := map[string]string{"image:get": see[kind], "image:download": see[kind], "image:list": "yyyy-yy?", "image:register": "y-yy-y-?"}
		for action := range auth.DefaultPolicy().Rules {
			if want[action] == "" && strings.HasPrefix(action, "image:") {
				want[action] = change[kind]
			}
		}
		all := calls(r.Service, fresh(kind))
		require.Len(t, all, len(want), "each action is called")
		for action, call := range all {
			got := ""
			for _, ctx := range callers {
				got += verdict(call(ctx))
			}
			// That an image is there is hidden from those that can't see it, whatever role they lack besides.
			require.Equal(t, want[action], got, "%s of a %s image", action, kind)

			without := auth.DefaultPolicy()
			delete(without.Rules, action)
			bare, err := NewService(ServiceConfig{Store: r.store, Blobs: r.blobs, Policy: without})
			require.NoError(t, err)
			require.Equal(t, "-", verdict(calls(bare, fresh(kind))[action](callers[5])), "%s goes past the policy", action)
		}
	}
}
