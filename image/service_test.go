package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
)

func ids(t *testing.T, s *Service, ctx context.Context, q Query) []string {
	t.Helper()
	all, err := s.List(ctx, q)
	require.NoError(t, err)
	names := []string{}
	for _, img := range all {
		names = append(names, img.Name)
	}
	return names
}

func TestLifeOfAnImage(t *testing.T) {
	r := newRig(t)
	ctx := as(t, "p")
	img, err := r.Register(ctx, Spec{Name: "debian", Format: Raw, MinRAMMiB: 64, Properties: map[string]string{"os": "linux"}})
	require.NoError(t, err)
	require.Equal(t, Queued, img.Status)
	require.Equal(t, Private, img.Visibility)
	require.Equal(t, "p", img.ProjectID)
	_, _, err = r.Download(ctx, img.ID)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)

	active, err := r.Upload(ctx, img.ID, bytes.NewReader(disk(1000)))
	require.NoError(t, err)
	sum := sha256.Sum256(disk(1000))
	require.Equal(t, Active, active.Status)
	require.EqualValues(t, 1000, active.Size)
	require.EqualValues(t, 1024, active.VirtualBytes)
	require.Equal(t, hex.EncodeToString(sum[:]), active.SHA256)
	got, err := r.Get(ctx, img.ID)
	require.NoError(t, err)
	require.Equal(t, active, got)

	got, blob, err := r.Download(ctx, img.ID)
	require.NoError(t, err)
	require.Equal(t, active, got)
	defer blob.Close()
	content, err := io.ReadAll(blob)
	require.NoError(t, err)
	require.Equal(t, disk(1000), content)

	_, err = r.Upload(ctx, img.ID, bytes.NewReader(disk(2000)))
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition, "what is active never changes")
	require.NoError(t, r.Delete(ctx, img.ID))
	require.ErrorIs(t, r.Delete(ctx, img.ID), errdefs.ErrNotFound)
	_, err = r.Get(ctx, img.ID)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.Empty(t, names(t, filepath.Join(r.dir, blobsDir)))
}

func TestWhoSeesAnImage(t *testing.T) {
	r := newRig(t)
	owner, friend, other := as(t, "owner"), as(t, "friend"), as(t, "other")
	img, err := r.Create(owner, Spec{Name: "img", Format: Raw}, bytes.NewReader(disk(512)))
	require.NoError(t, err)
	sees := func(ctx context.Context, yes bool) {
		t.Helper()
		_, err := r.Get(ctx, img.ID)
		_, blob, downloadErr := r.Download(ctx, img.ID)
		if !yes {
			require.ErrorIs(t, err, errdefs.ErrNotFound)
			require.ErrorIs(t, downloadErr, errdefs.ErrNotFound)
			require.ErrorIs(t, r.Delete(ctx, img.ID), errdefs.ErrNotFound)
			require.Empty(t, ids(t, r.Service, ctx, Query{}))
			return
		}
		require.NoError(t, err)
		require.NoError(t, downloadErr)
		require.NoError(t, blob.Close())
		require.Equal(t, []string{"img"}, ids(t, r.Service, ctx, Query{}))
	}
	sees(owner, true)
	sees(friend, false)
	sees(asAdmin(t), true)
	for range 2 {
		shared, err := r.Share(owner, img.ID, "friend")
		require.NoError(t, err)
		require.Equal(t, []string{"friend"}, shared.SharedWith)
	}
	sees(friend, true)
	sees(other, false)
	require.ErrorIs(t, r.Delete(friend, img.ID), errdefs.ErrPermissionDenied)
	_, err = r.Share(friend, img.ID, "other")
	require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
	_, err = r.SetVisibility(friend, img.ID, Public)
	require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
	for range 2 {
		_, err = r.Unshare(owner, img.ID, "friend")
		require.NoError(t, err)
	}
	sees(friend, false)
	_, err = r.SetVisibility(owner, img.ID, Public)
	require.NoError(t, err)
	sees(other, true)
	_, err = r.SetVisibility(owner, img.ID, Private)
	require.NoError(t, err)
	sees(other, false)
	_, err = r.SetVisibility(owner, img.ID, "open")
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	_, err = r.Share(owner, img.ID, "*")
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	_, err = r.Get(t.Context(), img.ID)
	require.Error(t, err, "no caller")
}

func TestListIsReadOnInPages(t *testing.T) {
	r := newRig(t)
	ctx := as(t, "p")
	for n := range 5 {
		_, err := r.Register(ctx, Spec{Name: fmt.Sprint(n), Format: Raw})
		require.NoError(t, err)
	}
	_, err := r.Create(ctx, Spec{Name: "kernel", Format: Kernel}, bytes.NewReader(disk(10)))
	require.NoError(t, err)
	all, err := r.List(ctx, Query{})
	require.NoError(t, err)
	require.Len(t, all, 6)
	var paged []Image
	for after := ""; ; after = paged[len(paged)-1].ID {
		page, err := r.List(ctx, Query{After: after, Limit: 2})
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		paged = append(paged, page...)
	}
	require.Equal(t, all, paged)
	require.Equal(t, []string{"3"}, ids(t, r.Service, ctx, Query{Name: "3"}))
	require.Equal(t, []string{"kernel"}, ids(t, r.Service, ctx, Query{Status: Active}))
	require.Equal(t, []string{"kernel"}, ids(t, r.Service, ctx, Query{Format: Kernel}))
	_, err = r.List(ctx, Query{Limit: -1})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

func TestBadSpecs(t *testing.T) {
	r := newRig(t)
	many := map[string]string{}
	for n := range 129 {
		many[fmt.Sprint(n)] = ""
	}
	for field, spec := range map[string]Spec{
		"Name":             {Format: Raw},
		"Name ":            {Name: "a\nb", Format: Raw},
		"Name  ":           {Name: strings.Repeat("x", 256), Format: Raw},
		"Format":           {Name: "x", Format: "vmdk"},
		"Visibility":       {Name: "x", Format: Raw, Visibility: "open"},
		"SHA256":           {Name: "x", Format: Raw, SHA256: "abcd"},
		"SHA256 ":          {Name: "x", Format: Raw, SHA256: strings.Repeat("x", 64)},
		"MinDiskGiB":       {Name: "x", Format: Raw, MinDiskGiB: -1},
		"MinRAMMiB":        {Name: "x", Format: Raw, MinRAMMiB: 1 << 21},
		"KernelID":         {Name: "x", Format: Raw, RamdiskID: "r"},
		"KernelID, Ramdis": {Name: "x", Format: Kernel, KernelID: "k"},
		"Properties":       {Name: "x", Format: Raw, Properties: many},
		"property":         {Name: "x", Format: Raw, Properties: map[string]string{"": ""}},
		"property ":        {Name: "x", Format: Raw, Properties: map[string]string{"k": strings.Repeat("x", 256)}},
		"Token":            {Name: "x", Format: Raw, Token: "two words"},
		"Token ":           {Name: "x", Format: Raw, Token: strings.Repeat("x", 65)},
	} {
		_, err := r.Register(as(t, "p"), spec)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, field)
		require.ErrorContains(t, err, strings.TrimSpace(field))
	}
	require.Empty(t, ids(t, r.Service, asAdmin(t), Query{}))
}

func TestKernelAndRamdiskOfAnImage(t *testing.T) {
	r := newRig(t)
	ctx := as(t, "p")
	kernel, err := r.Create(ctx, Spec{Name: "k", Format: Kernel}, bytes.NewReader(disk(10)))
	require.NoError(t, err)
	ramdisk, err := r.Create(ctx, Spec{Name: "r", Format: Ramdisk}, bytes.NewReader(disk(10)))
	require.NoError(t, err)
	queued, err := r.Register(ctx, Spec{Name: "q", Format: Kernel})
	require.NoError(t, err)
	foreign, err := r.Create(as(t, "other"), Spec{Name: "f", Format: Kernel}, bytes.NewReader(disk(10)))
	require.NoError(t, err)

	spec := Spec{Name: "img", Format: Raw, KernelID: kernel.ID, RamdiskID: ramdisk.ID}
	for name, row := range map[string]struct {
		change func(s *Spec)
		class  error
	}{
		"unknown":        {func(s *Spec) { s.KernelID = "unknown" }, errdefs.ErrNotFound},
		"foreign":        {func(s *Spec) { s.KernelID = foreign.ID }, errdefs.ErrNotFound},
		"queued":         {func(s *Spec) { s.KernelID = queued.ID }, errdefs.ErrFailedPrecondition},
		"swapped":        {func(s *Spec) { s.KernelID, s.RamdiskID = s.RamdiskID, s.KernelID }, errdefs.ErrInvalidArgument},
		"private kernel": {func(s *Spec) { s.Visibility = Public }, errdefs.ErrFailedPrecondition},
	} {
		bad := spec
		row.change(&bad)
		_, err := r.Register(ctx, bad)
		require.ErrorIs(t, err, row.class, name)
	}
	img, err := r.Create(ctx, spec, bytes.NewReader(disk(512)))
	require.NoError(t, err)
	require.NoError(t, img.Bootable(64, 1))
	require.ErrorIs(t, kernel.Bootable(64, 1), errdefs.ErrInvalidArgument)
	require.ErrorIs(t, r.Delete(ctx, kernel.ID), errdefs.ErrFailedPrecondition)
	_, err = r.SetVisibility(ctx, img.ID, Public)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	for _, part := range []Image{kernel, ramdisk, img} {
		_, err = r.SetVisibility(ctx, part.ID, Public)
		require.NoError(t, err)
	}
	require.NoError(t, r.Delete(ctx, img.ID))
	require.NoError(t, r.Delete(ctx, kernel.ID))
}

func TestBootable(t *testing.T) {
	img := Image{Format: Raw, Status: Active, VirtualBytes: 3 << 30, MinRAMMiB: 256}
	require.NoError(t, img.Bootable(256, 3))
	require.NoError(t, img.Bootable(256, 0))
	require.ErrorContains(t, img.Bootable(255, 3), "256 MiB of memory, the flavor has 255")
	require.ErrorContains(t, img.Bootable(256, 2), "3221225472 bytes, the flavor has 2 GiB")
	img.MinDiskGiB = 10
	require.ErrorIs(t, img.Bootable(256, 9), errdefs.ErrInvalidArgument)
	require.NoError(t, img.Bootable(256, 10))
	img.Status = Uploading
	require.ErrorIs(t, img.Bootable(256, 10), errdefs.ErrFailedPrecondition)
}

func TestTokensMakeRegisteringRepeatable(t *testing.T) {
	r := newRig(t)
	ctx := as(t, "p")
	spec := Spec{Name: "img", Format: Raw, Token: "once", Properties: map[string]string{"a": "1", "b": "2"}}
	first, err := r.Create(ctx, spec, bytes.NewReader(disk(512)))
	require.NoError(t, err)
	again, err := r.Create(ctx, spec, failingContent{t})
	require.NoError(t, err)
	require.Equal(t, first, again)
	spec.Name = "another"
	_, err = r.Register(ctx, spec)
	require.ErrorIs(t, err, errdefs.ErrAlreadyExists)
	_, err = r.Register(as(t, "other"), spec)
	require.NoError(t, err, "tokens are a project's own")
	require.Equal(t, []string{"img"}, ids(t, r.Service, ctx, Query{}))
}

// failingContent must not be read.
type failingContent struct{ t *testing.T }

func (f failingContent) Read([]byte) (int, error) {
	f.t.Error("content was read")
	return 0, io.EOF
}

func TestConfigIsChecked(t *testing.T) {
	r := newRig(t)
	for _, cfg := range []ServiceConfig{{Store: r.store}, {Blobs: r.blobs}, {Store: r.store, Blobs: r.blobs, MaxBytes: -1}} {
		_, err := NewService(cfg)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	}
}

// Two services over one log: one deletes a kernel while the other registers an image with it.
func TestAKernelIsNotDeletedUnderItsImages(t *testing.T) {
	r := newRig(t)
	ctx := as(t, "p")
	other, err := NewService(ServiceConfig{Store: newStore(t, r.log), Blobs: r.blobs, Policy: policy()})
	require.NoError(t, err)
	outcomes := map[string]int{}
	for range 100 {
		kernel, err := r.Create(ctx, Spec{Name: "k", Format: Kernel}, bytes.NewReader(disk(10)))
		require.NoError(t, err)
		require.Eventually(t, func() bool { _, err := other.Get(ctx, kernel.ID); return err == nil }, time.Minute, 100*time.Microsecond)
		deleted := make(chan error, 1)
		go func() { deleted <- other.Delete(ctx, kernel.ID) }()
		_, registerErr := r.Register(ctx, Spec{Name: "img", Format: Raw, KernelID: kernel.ID})
		deleteErr := <-deleted
		switch {
		case registerErr == nil:
			require.ErrorIs(t, deleteErr, errdefs.ErrFailedPrecondition)
			outcomes["registered"]++
		default:
			require.ErrorIs(t, registerErr, errdefs.ErrNotFound)
			require.NoError(t, deleteErr)
			outcomes["deleted"]++
		}
	}
	t.Log(outcomes)
}

func TestNothingComesToADeletedProject(t *testing.T) {
	r := newRig(t)
	people, err := auth.NewService(auth.ServiceConfig{Store: r.store, Policy: policy()})
	require.NoError(t, err)
	p, err := people.CreateProject(asAdmin(t), auth.ProjectSpec{Name: "weather"})
	require.NoError(t, err)
	_, err = r.Register(as(t, p.ID), Spec{Name: "img", Format: Raw})
	require.NoError(t, err)
	require.NoError(t, people.DeleteProject(asAdmin(t), p.ID))
	_, err = r.Register(as(t, p.ID), Spec{Name: "another", Format: Raw})
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
}
