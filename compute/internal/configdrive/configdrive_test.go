package configdrive

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/kdomanski/iso9660"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute/guestdata"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

func guest() guestdata.Guest {
	return guestdata.Guest{ID: "4ff0b6c1-8c1b-4b52-a3f5-0f6d5f1f2a01", Name: "web", Hostname: "web", KeyName: "k", PublicKey: "ssh-ed25519 AAAA",
		UserData: bytes.Repeat([]byte("#!/bin/sh\n"), 6000), Cards: []guestdata.Card{{PortID: "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d",
			MAC: "52:54:00:00:00:01", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24")}}}}
}

// read lists the files of an image, by names without the version that ISO 9660 has.
func read(t *testing.T, image []byte) (label string, files map[string][]byte) {
	t.Helper()
	i, err := iso9660.OpenImage(bytes.NewReader(image))
	require.NoError(t, err)
	label, err = i.Label()
	require.NoError(t, err)
	files = map[string][]byte{}
	var walk func(f *iso9660.File, path string)
	walk = func(f *iso9660.File, path string) {
		if !f.IsDir() {
			files[path], err = io.ReadAll(f.Reader())
			require.NoError(t, err)
			return
		}
		children, err := f.GetChildren()
		require.NoError(t, err)
		for _, c := range children {
			name, _, _ := strings.Cut(c.Name(), ";")
			walk(c, strings.TrimPrefix(path+"/"+name, "/"))
		}
	}
	root, err := i.RootDir()
	require.NoError(t, err)
	walk(root, "")
	return label, files
}

func TestDrives(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for format, label := range map[Format]string{OpenStack: "config-2", NoCloud: "cidata"} {
		var image bytes.Buffer
		require.NoError(t, Write(&image, format, guest()))
		require.Zero(t, image.Len()%2048)
		got, files := read(t, image.Bytes())
		require.Equal(t, label, strings.TrimSpace(got))
		_, want, err := contents(format, guest())
		require.NoError(t, err)
		require.Len(t, files, len(want))
		for name, content := range want {
			if name == "openstack/latest/meta_data.json" { // with a seed of its own
				var m map[string]any
				require.NoError(t, json.Unmarshal(files[name], &m))
				require.Equal(t, guest().ID, m["uuid"])
				require.NotEmpty(t, m["random_seed"])
				continue
			}
			require.Equal(t, string(content), string(files[name]), name)
		}
		// What machines find it by, and an eye that is not ours.
		testneed.Tools(t, "blkid")
		file := filepath.Join(t.TempDir(), "drive")
		require.NoError(t, os.WriteFile(file, image.Bytes(), 0o600))
		out, err := exec.Command("blkid", "-p", "-o", "export", file).CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), "LABEL="+label+"\n")
		require.Contains(t, string(out), "TYPE=iso9660\n")
	}
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestNoUserData(t *testing.T) {
	g := guest()
	g.UserData = nil
	var image bytes.Buffer
	require.NoError(t, Write(&image, OpenStack, g))
	_, files := read(t, image.Bytes())
	require.NotContains(t, files, "openstack/latest/user_data")
	image.Reset()
	require.NoError(t, Write(&image, NoCloud, g))
	_, files = read(t, image.Bytes())
	require.Contains(t, files, "user-data")
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("the disk is full") }

func TestFailures(t *testing.T) {
	require.ErrorIs(t, Write(io.Discard, "floppy", guest()), errdefs.ErrInvalidArgument)
	require.ErrorContains(t, Write(full{}, OpenStack, guest()), "the disk is full")
	t.Setenv("TMPDIR", filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, Write(io.Discard, OpenStack, guest()), os.ErrNotExist)
}
