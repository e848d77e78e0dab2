package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/examples/minicloud/guest"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
)

const (
	networkName = "mini"
	flavorName  = "mini"
)

// own matches what the machines are called that minicloud launches by itself. What a person has launched with a command is that person's.
var own = regexp.MustCompile(`^mini-[1-9][0-9]*$`)

// converge makes the cloud have the machines mini-1 to mini-n, running, and no others that are called so, or none at all with -remove, and returns
// their ids. Whatever an earlier run left, half-done or not, is gone on with.
func converge(ctx context.Context, o options, c *dewpoint.Services, s *screen) ([]string, error) {
	if o.instances == 0 && !o.exit && !o.remove { // those that a person launches need it too
		if _, err := furnish(ctx, o, c); err != nil {
			return nil, err
		}
	}
	have, err := c.Compute.List(ctx, compute.ListOptions{})
	if err != nil {
		return nil, err
	}
	var ids []string
	for n := 1; n <= o.instances; n++ {
		name := fmt.Sprintf("mini-%d", n)
		at := slices.IndexFunc(have, func(i compute.Instance) bool { return i.Name == name })
		var i compute.Instance
		if at >= 0 {
			i = have[at]
			have = slices.Delete(have, at, at+1)
		}
		if at >= 0 && (i.State == compute.StateError || i.Task == compute.TaskDeleting) {
			s.print("%s is %s: %s", name, i.Status(), i.Fault)
			if err := terminate(ctx, c, s, i); err != nil {
				return nil, err
			}
			at = -1
		}
		switch {
		case at < 0:
			if i, err = launch(ctx, o, c, name); err != nil {
				return nil, fmt.Errorf("launching %s: %w", name, err)
			}
			s.print("%s: launching as %s", name, i.ID)
		case i.State == compute.StateStopped && i.Task == compute.TaskNone:
			if err := c.Compute.Start(ctx, i.ID); err != nil {
				return nil, err
			}
			s.print("%s: was stopped, starting it", name)
		default:
			s.print("%s: found, %s", name, i.Status())
		}
		ids = append(ids, i.ID)
	}
	return ids, terminate(ctx, c, s, slices.DeleteFunc(have, func(i compute.Instance) bool { return !o.remove && !own.MatchString(i.Name) })...)
}

// terminate terminates machines, and returns when they are gone.
func terminate(ctx context.Context, c *dewpoint.Services, s *screen, machines ...compute.Instance) error {
	for _, i := range machines {
		s.print("%s: terminating", i.Name)
		if err := c.Compute.Terminate(ctx, i.ID); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	for _, i := range machines {
		if err := c.Compute.WaitGone(ctx, i.ID); err != nil {
			return err
		}
		s.print("%s: gone", i.Name)
	}
	return nil
}

func launch(ctx context.Context, o options, c *dewpoint.Services, name string) (compute.Instance, error) {
	req, err := furnish(ctx, o, c)
	if err != nil {
		return compute.Instance{}, err
	}
	req.Name = name
	made, err := c.Compute.Run(ctx, req)
	if err != nil {
		return compute.Instance{}, err
	}
	return made[0], nil
}

// furnish makes what machines need, if it is missing, and returns what to ask for one with.
func furnish(ctx context.Context, o options, c *dewpoint.Services) (compute.RunRequest, error) {
	img, err := guestImage(ctx, o, c)
	if err != nil {
		return compute.RunRequest{}, err
	}
	if err := ensureNetwork(ctx, o, c); err != nil {
		return compute.RunRequest{}, err
	}
	// On one's own hardware, the hosts are the limit.
	if _, err := c.Auth.SetQuota(ctx, projectName, map[auth.Resource]int{auth.Instances: auth.Unlimited, auth.Cores: auth.Unlimited,
		auth.MemoryMiB: auth.Unlimited}); err != nil {
		return compute.RunRequest{}, err
	}
	flavor, err := ensureFlavor(ctx, o, c)
	return compute.RunRequest{Image: img.ID, Flavor: flavor, Networks: []string{networkName}}, err
}

func ensureNetwork(ctx context.Context, o options, c *dewpoint.Services) error {
	_, err := c.Networks.Get(ctx, networkName)
	if errdefs.IsNotFound(err) {
		_, err = c.Networks.Create(ctx, network.Network{Name: networkName, Mode: network.FlatDHCP, CIDR: o.cidr, CIDRv6: o.cidr6,
			Bridge: o.bridge, Uplink: o.uplink})
	}
	return err
}

// ensureFlavor returns the flavor of the machines: with a disk as large as the image's, and as much memory as was asked for.
func ensureFlavor(ctx context.Context, o options, c *dewpoint.Services) (string, error) {
	name := fmt.Sprintf("%s.%d", flavorName, o.memory)
	_, err := c.Compute.CreateFlavor(ctx, compute.Flavor{Name: name, VCPUs: 1, MemoryMiB: o.memory})
	if errdefs.IsAlreadyExists(err) {
		err = nil
	}
	return name, err
}

// guestImage registers the guest: a kernel, a ramdisk, and a disk that boots with them. Registering is safe to repeat: each
// has a token that is its content's.
func guestImage(ctx context.Context, o options, c *dewpoint.Services) (image.Image, error) {
	files, err := guest.Build(ctx, guest.Config{Dir: filepath.Join(o.dir, "guest"), Peers: max(8, o.instances+1)})
	if err != nil {
		return image.Image{}, err
	}
	kernel, err := register(ctx, c, files.Kernel, image.Spec{Name: "mini kernel", Format: image.Kernel})
	if err != nil {
		return image.Image{}, err
	}
	ramdisk, err := register(ctx, c, files.Ramdisk, image.Spec{Name: "mini ramdisk", Format: image.Ramdisk})
	if err != nil {
		return image.Image{}, err
	}
	return register(ctx, c, files.Disk, image.Spec{Name: "mini", Format: image.Format(files.DiskFormat), KernelID: kernel.ID, RamdiskID: ramdisk.ID,
		Properties: map[string]string{"os_command_line": files.Cmdline}})
}

// register registers an image with the content of a file, once: its token says what it is made of.
func register(ctx context.Context, c *dewpoint.Services, file string, spec image.Spec) (image.Image, error) {
	f, err := os.Open(file)
	if err != nil {
		return image.Image{}, err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return image.Image{}, err
	}
	spec.SHA256 = hex.EncodeToString(sum.Sum(nil))
	fmt.Fprintf(sum, "%+v", spec)
	spec.Token = hex.EncodeToString(sum.Sum(nil))
	img, err := c.Images.Register(ctx, spec)
	if err != nil || img.Status == image.Active {
		return img, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return image.Image{}, err
	}
	return c.Images.Upload(ctx, img.ID, f)
}
