package compute_test

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// depot is an image service with a cache and the disks made of it.
type depot struct {
	*cloud
	images *image.Service
	cache  *image.Cache
	disks  *compute.ImageDisks
	dir    string
}

func newDepot(t *testing.T) *depot {
	testneed.Tools(t, "qemu-img", "prlimit")
	d := &depot{cloud: newCloud(t, 1), dir: t.TempDir()}
	d.enlist(t)
	blobs, err := image.NewFiles(filepath.Join(d.dir, "blobs"))
	require.NoError(t, err)
	d.images, err = image.NewService(image.ServiceConfig{Store: d.store, Blobs: blobs, Policy: auth.DefaultPolicy()})
	require.NoError(t, err)
	d.cache, err = image.NewCache(image.CacheConfig{Dir: filepath.Join(d.dir, "cache"), Source: image.BlobSource{Blobs: blobs}})
	require.NoError(t, err)
	d.disks, err = compute.NewImageDisks(compute.ImageDisksConfig{Store: d.store, Cache: d.cache, ConsoleDir: filepath.Join(d.dir, "consoles"),
		Unused: time.Nanosecond})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, d.cache.Close())
		require.NoError(t, blobs.Close())
		require.NoError(t, d.close())
	})
	return d
}

func (d *depot) image(t *testing.T, spec image.Spec, content string) image.Image {
	t.Helper()
	spec.Name = "img"
	img, err := d.images.Create(d.ctx, spec, strings.NewReader(content))
	require.NoError(t, err)
	return img
}

// bootable registers a disk with a kernel and a ramdisk.
func (d *depot) bootable(t *testing.T) image.Image {
	kernel := d.image(t, image.Spec{Format: image.Kernel}, "kernel")
	ramdisk := d.image(t, image.Spec{Format: image.Ramdisk}, "ramdisk")
	return d.image(t, image.Spec{Format: image.Raw, KernelID: kernel.ID, RamdiskID: ramdisk.ID,
		Properties: map[string]string{"os_command_line": "root=/dev/vda quiet"}}, strings.Repeat("disk", 1<<18))
}

func (d *depot) instance(t *testing.T, imageID string) compute.Instance {
	req := one()
	req.Image = imageID
	return d.run(t, req)[0]
}

func TestImageDisksMakeWhatTheRecordsSay(t *testing.T) {
	d := newDepot(t)
	i := d.instance(t, d.bootable(t).ID)
	require.Equal(t, "root=/dev/vda quiet", i.Cmdline)
	files, err := d.disks.Make(d.ctx, i)
	require.NoError(t, err)
	content := func(path string) string {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		return string(b)
	}
	require.Equal(t, "kernel", content(files.Kernel))
	require.Equal(t, "ramdisk", content(files.Ramdisk))
	require.Equal(t, i.Cmdline, files.Cmdline)
	require.Equal(t, filepath.Join(d.dir, "consoles", i.ID, "console.log"), files.ConsoleLog)
	require.DirExists(t, filepath.Dir(files.ConsoleLog))
	require.Len(t, files.Disks, 1)
	root := files.Disks[0]
	require.Equal(t, "qcow2", root.Format)
	require.Equal(t, strings.ReplaceAll(i.ID, "-", "")[:20], root.Serial)
	require.Len(t, root.Backing, 1)
	require.Equal(t, "raw", root.Backing[0].Format)
	require.Equal(t, strings.Repeat("disk", 1<<18), content(root.Backing[0].Path))
	m := compute.Machine{ID: i.ID, Name: "web", VCPUs: 1, MemoryMiB: 64, Kernel: files.Kernel, Ramdisk: files.Ramdisk, Cmdline: files.Cmdline,
		Disks: files.Disks, ConsoleLog: files.ConsoleLog}
	require.NoError(t, m.Validate())
	header := []byte(content(root.Path))
	require.Equal(t, int64(20)<<30, int64(header[24+2])<<40|int64(header[24+3])<<32|int64(header[24+4])<<24, "as large as the flavor says")

	// Again: the same, with all that the guest wrote, and without the image.
	require.NoError(t, os.WriteFile(files.ConsoleLog, []byte("login:"), 0o600))
	require.NoError(t, d.images.Delete(d.ctx, i.ImageID))
	require.NoError(t, d.images.Delete(d.ctx, i.KernelID))
	again, err := d.disks.Make(d.ctx, i)
	require.NoError(t, err)
	require.Equal(t, files, again)
	require.Equal(t, "login:", content(files.ConsoleLog))

	// A base in use is not swept, one that is not is.
	require.NoError(t, d.disks.Sweep(d.ctx))
	require.FileExists(t, root.Backing[0].Path)
	bases := func() int {
		all, err := os.ReadDir(filepath.Join(d.dir, "cache", "bases"))
		require.NoError(t, err)
		return len(all)
	}
	require.Equal(t, 3, bases())
	for range 2 {
		require.NoError(t, d.disks.Remove(d.ctx, i.ID))
		ids, err := d.disks.List(d.ctx)
		require.NoError(t, err)
		require.Empty(t, ids)
	}
	require.NoFileExists(t, files.ConsoleLog)
	require.NoError(t, d.disks.Sweep(d.ctx))
	require.Zero(t, bases())
}

// Whatever a process that was killed left of a Make or a Remove is listed, and settled by the next Make or Remove.
func TestImageDisksGoOnFromHalf(t *testing.T) {
	d := newDepot(t)
	img := d.bootable(t)
	records := map[string]image.Image{}
	_ = d.store.View(func(v *state.View) error {
		for i := range image.Images.All(v) {
			records[i.ID] = i
		}
		return nil
	})
	for name, half := range map[string]func(t *testing.T, i compute.Instance){
		"a kernel": func(t *testing.T, i compute.Instance) {
			_, err := d.cache.BootFile(d.ctx, i.ID, records[img.KernelID])
			require.NoError(t, err)
		},
		"no console": func(t *testing.T, i compute.Instance) {
			_, err := d.disks.Make(d.ctx, i)
			require.NoError(t, err)
			require.NoError(t, os.RemoveAll(filepath.Join(d.dir, "consoles", i.ID)))
		},
		"a console only": func(t *testing.T, i compute.Instance) {
			_, err := d.disks.Make(d.ctx, i)
			require.NoError(t, err)
			require.NoError(t, d.cache.Release(d.ctx, i.ID))
		},
		"a part of a disk": func(t *testing.T, i compute.Instance) {
			_, err := d.cache.BootFile(d.ctx, i.ID, records[img.KernelID])
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(d.dir, "cache", "instances", i.ID, "disk.new-x"), []byte("QFI"), 0o600))
		},
	} {
		for _, finish := range []bool{true, false} {
			i := d.instance(t, img.ID)
			half(t, i)
			ids, err := d.disks.List(d.ctx)
			require.NoError(t, err)
			require.Equal(t, []string{i.ID}, ids, name)
			if finish {
				files, err := d.disks.Make(d.ctx, i)
				require.NoError(t, err, name)
				require.NotEmpty(t, files.Ramdisk)
				require.FileExists(t, files.Disks[0].Path)
			}
			require.NoError(t, d.disks.Remove(d.ctx, i.ID), name)
			ids, err = d.disks.List(d.ctx)
			require.NoError(t, err)
			require.Empty(t, ids, name)
		}
	}
}

func TestImageDisksRefuse(t *testing.T) {
	d := newDepot(t)
	img := d.image(t, image.Spec{Format: image.Raw}, string(bytes.Repeat([]byte{0}, 1<<20)))
	i := d.instance(t, img.ID)
	require.Empty(t, i.Cmdline, "it boots by itself")
	ended, cancel := context.WithCancel(d.ctx)
	cancel()
	_, err := d.disks.Make(ended, i)
	require.Equal(t, context.Canceled, err)
	require.NoError(t, d.images.Delete(d.ctx, img.ID))
	_, err = d.disks.Make(d.ctx, i)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.ErrorContains(t, err, img.ID)
	for _, id := range []string{"", "..", "../" + i.ID, strings.ToUpper(uuid.NewString())} {
		_, err = d.disks.Make(d.ctx, compute.Instance{ID: id})
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorIs(t, d.disks.Remove(d.ctx, id), errdefs.ErrInvalidArgument)
	}
	ids, err := d.disks.List(d.ctx)
	require.NoError(t, err)
	require.Empty(t, ids)
	for want, cfg := range map[string]compute.ImageDisksConfig{
		"Store is required":      {},
		"Cache is required":      {Store: d.store},
		"ConsoleDir is required": {Store: d.store, Cache: d.cache},
		"Unused is -1ns":         {Store: d.store, Cache: d.cache, ConsoleDir: d.dir, Unused: -1},
	} {
		_, err := compute.NewImageDisks(cfg)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, want)
	}
}

// MOD-02: what a network without DHCP can't tell its guests is on a disk.
func TestConfigDrive(t *testing.T) {
	d := newDepot(t)
	d.update(t, func(tx *state.Tx) error {
		return network.Networks.Put(tx, network.Network{ID: "flat", Name: "flat", Mode: network.Flat, Bridge: "br-flat", MTU: 1500, Domain: "novalocal",
			CIDR: netip.MustParsePrefix("192.168.0.0/24"), Gateway: netip.MustParseAddr("192.168.0.1"), Router: netip.MustParseAddr("192.168.0.1")})
	})
	img := d.bootable(t).ID
	launch := func(change func(*compute.RunRequest)) compute.Instance {
		req := one()
		req.Image, req.UserData, req.Networks = img, []byte("#!/bin/sh\necho hello"), []string{"lan"}
		change(&req)
		return d.run(t, req)[0]
	}
	require.Empty(t, launch(func(*compute.RunRequest) {}).ConfigDrive, "DHCP tells it")
	require.Empty(t, launch(func(r *compute.RunRequest) { r.Networks, r.ConfigDrive = []string{"flat"}, compute.DriveNone }).ConfigDrive)
	require.Equal(t, compute.DriveNoCloud, launch(func(r *compute.RunRequest) { r.ConfigDrive = compute.DriveNoCloud }).ConfigDrive)
	d.update(t, func(tx *state.Tx) error {
		i, err := image.Images.Get(tx, img)
		if err != nil {
			return err
		}
		i.Properties["img_config_drive"] = "mandatory"
		return image.Images.Put(tx, i)
	})
	require.Equal(t, compute.DriveOpenStack, launch(func(*compute.RunRequest) {}).ConfigDrive)
	_, err := d.service.Run(d.ctx, compute.RunRequest{Name: "x", Image: img, Flavor: "m1.tiny", ConfigDrive: "floppy"})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.ErrorContains(t, err, "ConfigDrive")

	i := launch(func(r *compute.RunRequest) { r.Networks = []string{"lan", "flat"} })
	require.Equal(t, compute.DriveOpenStack, i.ConfigDrive)
	dir := filepath.Join(d.dir, "consoles", i.ID)
	require.NoError(t, os.MkdirAll(dir, 0o711))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.new-1"), nil, 0o600)) // of one that was killed
	files, err := d.disks.Make(d.ctx, i)
	require.NoError(t, err)
	require.Len(t, files.Disks, 2)
	drive := files.Disks[1]
	require.True(t, drive.ReadOnly)
	require.Equal(t, "raw", drive.Format)
	info, err := os.Stat(drive.Path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it has secrets")
	content, err := os.ReadFile(drive.Path)
	require.NoError(t, err)
	for _, part := range []string{`"ip_address":"192.168.0.3"`, `"type":"ipv4_dhcp"`, "echo hello"} { // .2 is another's
		require.True(t, bytes.Contains(content, []byte(part)), part)
	}
	m := compute.Machine{ID: i.ID, Name: "web", VCPUs: 1, MemoryMiB: 64, Disks: files.Disks}
	require.NoError(t, m.Validate())
	again, err := d.disks.Make(d.ctx, i)
	require.NoError(t, err)
	require.Equal(t, files, again)
	same, err := os.ReadFile(drive.Path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, same), "it is made once")
	left, err := filepath.Glob(filepath.Join(dir, "config.new-*"))
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, d.disks.Remove(d.ctx, i.ID))
	require.NoDirExists(t, dir)
}

// MOD-02, CMP-04: an image without cloud-init has its address in /etc/network/interfaces of its own copy, and nowhere else.
func TestInterfacesAreWrittenIntoTheDisk(t *testing.T) {
	testneed.Tools(t, "mke2fs", "debugfs")
	d := newDepot(t)
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "etc/network"), 0o755))
	disk := filepath.Join(t.TempDir(), "disk")
	out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-d", root, disk, "4M").CombinedOutput()
	require.NoError(t, err, string(out))
	content, err := os.ReadFile(disk)
	require.NoError(t, err)
	img := d.image(t, image.Spec{Format: image.Raw, Properties: map[string]string{"inject_network": "interfaces"}}, string(content))
	d.update(t, func(tx *state.Tx) error {
		return network.Networks.Put(tx, network.Network{ID: "flat", Name: "flat", Mode: network.Flat, Bridge: "br-flat", MTU: 1500, Domain: "novalocal",
			CIDR: netip.MustParsePrefix("192.168.0.0/24"), Gateway: netip.MustParseAddr("192.168.0.1"), Router: netip.MustParseAddr("192.168.0.1")})
	})
	req := one()
	req.Image, req.Networks = img.ID, []string{"flat"}
	i := d.run(t, req)[0]
	files, err := d.disks.Make(d.ctx, i)
	require.NoError(t, err)
	require.Equal(t, "raw", files.Disks[0].Format)
	require.Empty(t, files.Disks[0].Backing)
	info, err := os.Stat(files.Disks[0].Path)
	require.NoError(t, err)
	require.Equal(t, int64(i.Flavor.DiskGiB)<<30, info.Size(), "as large as the flavor says")
	written, err := exec.Command("debugfs", "-R", "cat /etc/network/interfaces", files.Disks[0].Path).Output()
	require.NoError(t, err)
	require.Contains(t, string(written), "    address 192.168.0.2\n    netmask 255.255.255.0\n")

	// What the guest does to it stays, and its header is believed by nobody.
	f, err := os.OpenFile(files.Disks[0].Path, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("QFI\xfb\x00\x00\x00\x03"), 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, d.images.Delete(d.ctx, img.ID))
	again, err := d.disks.Make(d.ctx, i)
	require.NoError(t, err)
	require.Equal(t, files, again)
	ids, err := d.disks.List(d.ctx)
	require.NoError(t, err)
	require.Equal(t, []string{i.ID}, ids)
	bases, err := filepath.Glob(filepath.Join(d.dir, "cache", "bases", "*"))
	require.NoError(t, err)
	require.Len(t, bases, 1)
	shared, err := os.ReadFile(bases[0])
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, shared), "what instances share is not written")
	require.NoError(t, d.disks.Remove(d.ctx, i.ID))
	require.NoFileExists(t, files.Disks[0].Path)

	// One without a place for it is refused, and leaves no disk.
	bare := d.image(t, image.Spec{Format: image.Raw, Properties: map[string]string{"inject_network": "interfaces"}}, strings.Repeat("disk", 1<<18))
	req.Image = bare.ID
	i = d.run(t, req)[0]
	_, err = d.disks.Make(d.ctx, i)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	left, err := filepath.Glob(filepath.Join(d.dir, "cache", "instances", i.ID, "disk*"))
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, d.disks.Remove(d.ctx, i.ID))
}
