package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

// named finds the one of all that has an id or a name.
func named[T any](what, word string, all []T, of func(T) (id, name string)) (found T, err error) {
	n := 0
	for _, one := range all {
		id, name := of(one)
		if id == word {
			return one, nil
		}
		if name == word {
			found = one
			n++
		}
	}
	switch n {
	case 0:
		return found, fmt.Errorf("%s %q: %w", what, word, errdefs.ErrNotFound)
	case 1:
		return found, nil
	}
	return found, fmt.Errorf("%d are called %q: say which by its id: %w", n, word, errdefs.ErrInvalidArgument)
}

func findVolume(ctx context.Context, s *dewpoint.Services, word string) (volume.Volume, error) {
	all, err := s.Volumes.List(ctx, volume.ListOptions{})
	if err != nil {
		return volume.Volume{}, err
	}
	return named("volume", word, all, func(v volume.Volume) (string, string) { return v.ID, v.Name })
}

func findSnapshot(ctx context.Context, s *dewpoint.Services, word string) (volume.Snapshot, error) {
	all, err := s.Volumes.ListSnapshots(ctx, volume.ListOptions{})
	if err != nil {
		return volume.Snapshot{}, err
	}
	return named("snapshot", word, all, func(s volume.Snapshot) (string, string) { return s.ID, s.Name })
}

func findMachine(ctx context.Context, s *dewpoint.Services, word string) (compute.Instance, error) {
	all, err := s.Compute.List(ctx, compute.ListOptions{})
	if err != nil {
		return compute.Instance{}, err
	}
	return named("machine", word, all, func(i compute.Instance) (string, string) { return i.ID, i.Name })
}

func findImage(ctx context.Context, s *dewpoint.Services, word string) (image.Image, error) {
	all, err := s.Images.List(ctx, image.Query{})
	if err != nil {
		return image.Image{}, err
	}
	return named("image", word, all, func(i image.Image) (string, string) { return i.ID, i.Name })
}

func runVolumeCreate(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	req := volume.CreateRequest{Name: o.name, SizeGiB: o.size}
	if o.image != "" {
		from, err := findImage(ctx, s, o.image)
		if err != nil {
			return err
		}
		req.Image = from.ID
	}
	if o.snapshot != "" {
		from, err := findSnapshot(ctx, s, o.snapshot)
		if err != nil {
			return err
		}
		req.Snapshot = from.ID
	}
	v, err := s.Volumes.Create(ctx, req)
	if err != nil {
		return err
	}
	return come(w, v.ID)(s.Volumes.WaitFor(ctx, v.ID, volume.StateAvailable))
}

// come prints what a volume has come to.
func come(w io.Writer, id string) func(volume.Volume, error) error {
	return func(v volume.Volume, err error) error {
		if err != nil {
			return fmt.Errorf("volume %s: %w", id, err)
		}
		_, err = fmt.Fprintf(w, "%s\t%s\t%d GiB\t%s\n", v.ID, v.Name, v.SizeGiB, v.State)
		return err
	}
}

func runVolumeList(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	volumes, err := s.Volumes.List(ctx, volume.ListOptions{})
	if err != nil {
		return err
	}
	snapshots, err := s.Volumes.ListSnapshots(ctx, volume.ListOptions{})
	if err != nil {
		return err
	}
	slices.SortStableFunc(volumes, func(a, b volume.Volume) int { return a.Created.Compare(b.Created) })
	slices.SortStableFunc(snapshots, func(a, b volume.Snapshot) int { return a.Created.Compare(b.Created) })
	names := map[string]string{}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "VOLUME\tNAME\tSIZE\tSTATE\tHOST\tUSED BY\tFAULT")
	for _, v := range volumes {
		names[v.ID] = cmp.Or(v.Name, v.ID)
		user := v.AttachedTo
		if i, err := s.Compute.Get(ctx, user); err == nil {
			user = i.Name
		}
		if v.Device != "" {
			user += " as " + v.Device
		}
		fmt.Fprintf(t, "%s\t%s\t%d GiB\t%s\t%s\t%s\t%s\n", v.ID, v.Name, v.SizeGiB, v.State, hostName(ctx, s, v.HostID), user, v.Fault)
	}
	if len(snapshots) > 0 {
		fmt.Fprintln(t, "\nSNAPSHOT\tNAME\tSIZE\tSTATE\tHOST\tOF\tFAULT")
	}
	for _, x := range snapshots {
		fmt.Fprintf(t, "%s\t%s\t%d GiB\t%s\t%s\t%s\t%s\n", x.ID, x.Name, x.SizeGiB, x.State, hostName(ctx, s, x.HostID), names[x.VolumeID], x.Fault)
	}
	return t.Flush()
}

func runVolumeAttach(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	v, err := findVolume(ctx, s, o.args[0])
	if err != nil {
		return err
	}
	i, err := findMachine(ctx, s, o.args[1])
	if err != nil {
		return err
	}
	if _, err := s.Compute.AttachVolume(ctx, compute.AttachRequest{Instance: i.ID, Volume: v.ID, Device: o.device}); err != nil {
		return err
	}
	if v, err = s.Volumes.WaitFor(ctx, v.ID, volume.StateInUse); err != nil {
		return fmt.Errorf("volume %s: %w", v.ID, err)
	}
	_, err = fmt.Fprintf(w, "%s\t%s\t%d GiB\t%s\t%s as %s\n", v.ID, v.Name, v.SizeGiB, v.State, i.Name, v.Device)
	return err
}

func runVolumeDetach(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	v, err := findVolume(ctx, s, o.args[0])
	if err != nil {
		return err
	}
	if err := s.Compute.DetachVolume(ctx, v.ID); err != nil {
		return err
	}
	return come(w, v.ID)(s.Volumes.WaitFor(ctx, v.ID, volume.StateAvailable))
}

func runVolumeExtend(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	v, err := findVolume(ctx, s, o.args[0])
	if err != nil {
		return err
	}
	if _, err := s.Volumes.Extend(ctx, v.ID, o.size); err != nil {
		return err
	}
	v, err = s.Volumes.Wait(ctx, v.ID, func(v volume.Volume) bool { return v.State != volume.StateExtending })
	if err == nil && v.Fault != "" {
		err = fmt.Errorf("it has %d GiB: %s", v.SizeGiB, v.Fault)
	}
	return come(w, v.ID)(v, err)
}

func runVolumeSnapshot(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	v, err := findVolume(ctx, s, o.args[0])
	if err != nil {
		return err
	}
	x, err := s.Volumes.Snapshot(ctx, volume.SnapshotRequest{Volume: v.ID, Name: o.name})
	if err != nil {
		return err
	}
	x, err = s.Volumes.WaitSnapshot(ctx, x.ID, func(x volume.Snapshot) bool { return x.State != volume.StateCreating })
	if err == nil && x.State != volume.StateAvailable {
		err = fmt.Errorf("snapshot %s is %s: %s", x.ID, x.State, x.Fault)
	}
	if err == nil {
		_, err = fmt.Fprintf(w, "%s\t%s\t%d GiB\t%s\n", x.ID, x.Name, x.SizeGiB, x.State)
	}
	return err
}

func runVolumeImage(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	req := volume.ImageRequest{Name: o.name}
	v, err := findVolume(ctx, s, o.args[0])
	switch {
	case err == nil:
		req.Volume, req.Name = v.ID, cmp.Or(o.name, v.Name)
	case errdefs.IsNotFound(err):
		x, missing := findSnapshot(ctx, s, o.args[0])
		if missing != nil {
			return err // there is no such volume either
		}
		req.Snapshot, req.Name = x.ID, cmp.Or(o.name, x.Name)
	default:
		return err
	}
	img, err := s.Volumes.CreateImage(ctx, req)
	if err != nil {
		return err
	}
	err = image.Images.Await(ctx, s.Store, img.ID, func(now image.Image, found bool) (bool, error) {
		img.Status, img.Reason, img.Size = now.Status, now.Reason, now.Size
		return !found || now.Status != image.Uploading, nil
	})
	if err == nil && img.Status != image.Active {
		err = fmt.Errorf("image %s is %s: %s", img.ID, img.Status, img.Reason)
	}
	if err == nil {
		_, err = fmt.Fprintf(w, "%s\t%s\t%d bytes\t%s\n", img.ID, img.Name, img.Size, img.Status)
	}
	return err
}

func runVolumeDelete(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	v, err := findVolume(ctx, s, o.args[0])
	if errdefs.IsNotFound(err) {
		if x, missing := findSnapshot(ctx, s, o.args[0]); missing == nil {
			return deleteSnapshot(ctx, s, x, w)
		}
	}
	if err != nil {
		return err
	}
	if err := s.Volumes.Delete(ctx, v.ID); err != nil {
		return err
	}
	if err := s.Volumes.WaitGone(ctx, v.ID); err != nil {
		return fmt.Errorf("volume %s: %w", v.ID, err)
	}
	_, err = fmt.Fprintf(w, "%s\t%s\tgone\n", v.ID, v.Name)
	return err
}

func deleteSnapshot(ctx context.Context, s *dewpoint.Services, x volume.Snapshot, w io.Writer) error {
	if err := s.Volumes.DeleteSnapshot(ctx, x.ID); err != nil {
		return err
	}
	if _, err := s.Volumes.WaitSnapshot(ctx, x.ID, func(volume.Snapshot) bool { return false }); !errdefs.IsNotFound(err) {
		return fmt.Errorf("snapshot %s: %w", x.ID, err)
	}
	_, err := fmt.Fprintf(w, "%s\t%s\tgone\n", x.ID, x.Name)
	return err
}

func runImageDelete(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	i, err := findImage(ctx, s, o.args[0])
	if err != nil {
		return err
	}
	if err := s.Images.Delete(ctx, i.ID); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\t%s\tgone\n", i.ID, i.Name)
	return err
}

func runImages(ctx context.Context, _ options, s *dewpoint.Services, w io.Writer) error {
	all, err := s.Images.List(ctx, image.Query{})
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b image.Image) int { return a.Created.Compare(b.Created) })
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tNAME\tFORMAT\tSTATUS\tBYTES\tREASON")
	for _, i := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", i.ID, i.Name, i.Format, i.Status, i.Size, i.Reason)
	}
	return t.Flush()
}
