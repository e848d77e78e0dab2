// Package configdrive writes the disk that tells a machine about itself where no network can: an ISO 9660 file system (ECMA-119)
// with the documents of OpenStack or of NoCloud, as cloud-init, cloudbase-init, Ignition and their like look for it by its label.
package configdrive

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/kdomanski/iso9660"

	"github.com/dewpoint-cloud/dewpoint/compute/guestdata"
)

// Format says for whom a drive is.
type Format string

// The formats, with the label that each is found by.
const (
	OpenStack Format = "openstack" // config-2
	NoCloud   Format = "nocloud"   // cidata
)

// seedBytes is how much randomness a guest gets for its generator.
const seedBytes = 512

// Write writes a drive for a machine. An unknown format is InvalidArgument.
func Write(w io.Writer, format Format, g guestdata.Guest) (err error) {
	label, files, err := contents(format, g)
	if err != nil {
		return err
	}
	// The library collects the files in a directory of its own, under the one for temporary files, that only we can read.
	image, err := iso9660.NewWriter()
	if err != nil {
		return fmt.Errorf("config drive: %w", err)
	}
	defer func() { err = errors.Join(err, image.Cleanup()) }()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := image.AddFile(bytes.NewReader(files[name]), name); err != nil {
			return fmt.Errorf("config drive: %s: %w", name, err)
		}
	}
	if err := image.WriteTo(w, label); err != nil {
		return fmt.Errorf("config drive: %w", err)
	}
	return nil
}

// contents are the label and the files. Their names are such that ISO 9660 leaves them as they are: no capital letter, and one
// dot at most, in the last part.
func contents(format Format, g guestdata.Guest) (label string, files map[string][]byte, err error) {
	switch format {
	case OpenStack:
		seed := make([]byte, seedBytes)
		_, _ = rand.Read(seed) // never fails (crypto/rand)
		files = map[string][]byte{
			"openstack/latest/meta_data.json":    g.MetaData(seed),
			"openstack/latest/network_data.json": g.NetworkData(),
			"openstack/latest/vendor_data.json":  []byte("{}"),
		}
		if len(g.UserData) > 0 {
			files["openstack/latest/user_data"] = g.UserData
		}
		return "config-2", files, nil
	case NoCloud:
		return "cidata", map[string][]byte{
			"meta-data":      g.NoCloudMeta(),
			"network-config": g.NoCloudNetwork(),
			"user-data":      g.UserData, // it must be there
		}, nil
	}
	return "", nil, fmt.Errorf("config drive: format %q is not one of %q and %q: %w", format, OpenStack, NoCloud, errdefs.ErrInvalidArgument)
}
