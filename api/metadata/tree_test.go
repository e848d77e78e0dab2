package metadata

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// MD-03: every value of Nova's tree, from a machine that has all of them.
func TestTheTreeOfEC2(t *testing.T) {
	s := newServer(t, nil)
	for path, want := range map[string]string{
		"user-data":                                  "#!/bin/sh\necho alpha",
		"meta-data/ami-id":                           "ami-11111111222243338",
		"meta-data/ami-launch-index":                 "0",
		"meta-data/ami-manifest-path":                "(unknown)",
		"meta-data/block-device-mapping/ami":         "vda",
		"meta-data/block-device-mapping/root":        "/dev/vda",
		"meta-data/hostname":                         "alpha.novalocal",
		"meta-data/instance-action":                  "none",
		"meta-data/instance-id":                      "i-4ff0b6c18c1b4b52a",
		"meta-data/instance-type":                    "m1.tiny",
		"meta-data/kernel-id":                        "aki-21111111222243338",
		"meta-data/ramdisk-id":                       "ari-31111111222243338",
		"meta-data/local-hostname":                   "alpha.novalocal",
		"meta-data/local-ipv4":                       "10.0.0.5",
		"meta-data/placement/availability-zone":      "nova",
		"meta-data/public-hostname":                  "alpha.novalocal",
		"meta-data/public-ipv4":                      "192.0.2.7",
		"meta-data/public-keys/0/openssh-key":        "ssh-ed25519 AAAA alpha",
		"meta-data/reservation-id":                   "r-12345678",
		"meta-data/security-groups":                  "default\nweb",
		"meta-data/mpi/mine":                         "10.0.0.5 slots=2\n10.0.0.6 slots=4",
		"/meta-data///placement//availability-zone/": "nova",
	} {
		require.Equal(t, want, get(t, s, "a", "/latest/"+path), path)
	}
	bare := twoGuests()
	g := bare.all["a"]
	g.KernelID, g.RamdiskID, g.PublicKey, g.UserData = "", "", "", nil
	bare.all["a"] = g
	s = newServer(t, func(c *Config) { c.Source = bare })
	for _, path := range []string{"kernel-id", "ramdisk-id", "public-keys", "public-keys/0/openssh-key"} {
		require.Equal(t, http.StatusNotFound, status(t, s, "a", "/latest/meta-data/"+path), path)
	}
	require.Equal(t, http.StatusNotFound, status(t, s, "a", "/latest/user-data"))
	require.Equal(t, "meta-data/", get(t, s, "a", "/latest/"))
}

// MD-04: a directory is a name a line, with a slash behind directories, and 0=name for keys.
func TestListings(t *testing.T) {
	s := newServer(t, nil)
	require.Equal(t, "meta-data/\nuser-data", get(t, s, "a", "/latest"))
	all := "ami-id ami-launch-index ami-manifest-path block-device-mapping/ hostname instance-action instance-id instance-type kernel-id " +
		"local-hostname local-ipv4 mpi/ placement/ public-hostname public-ipv4 public-keys/ ramdisk-id reservation-id security-groups"
	require.Equal(t, strings.ReplaceAll(all, " ", "\n"), get(t, s, "a", "/latest/meta-data/"))
	require.Equal(t, get(t, s, "a", "/latest/meta-data/"), get(t, s, "a", "/latest/meta-data"))
	require.Equal(t, "0=mine", get(t, s, "a", "/latest/meta-data/public-keys/"))
	require.Equal(t, "openssh-key", get(t, s, "a", "/latest/meta-data/public-keys/0/"))
	require.Equal(t, "mine", get(t, s, "a", "/latest/meta-data/mpi/"))
	for _, path := range []string{"meta-data/nothing", "meta-data/hostname/x", "meta-data/public-keys/1", "meta-data/mpi/other", "other", "user-data/x"} {
		require.Equal(t, http.StatusNotFound, status(t, s, "a", "/latest/"+path), path)
	}
}

// MD-06: all versions have the same tree.
func TestVersions(t *testing.T) {
	s := newServer(t, nil)
	versions := strings.Split(get(t, s, "a", "/"), "\n")
	require.Equal(t, []string{"1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01",
		"2009-04-04", "latest"}, versions)
	for _, v := range versions {
		for _, path := range []string{"", "/user-data", "/meta-data", "/meta-data/instance-id"} {
			require.Equal(t, get(t, s, "a", "/latest"+path), get(t, s, "a", "/"+v+path))
		}
	}
	require.Equal(t, http.StatusNotFound, status(t, s, "a", "/2006-01-01/meta-data/"))
}

func TestOpenStackTree(t *testing.T) {
	s := newServer(t, func(c *Config) { c.Vendor = []byte(`{"motd":"hello"}`) })
	require.Contains(t, get(t, s, "a", "/openstack"), "2012-08-10\n2013-04-04\n")
	require.Equal(t, "meta_data.json\nuser_data", get(t, s, "a", "/openstack/2012-08-10/"))
	require.Equal(t, "meta_data.json\nuser_data\nvendor_data.json", get(t, s, "a", "/openstack/2013-10-17"))
	require.Equal(t, "meta_data.json\nnetwork_data.json\nuser_data\nvendor_data.json", get(t, s, "a", "/openstack/latest"))
	require.Equal(t, "#!/bin/sh\necho alpha", get(t, s, "a", "/openstack/latest/user_data"))
	require.Equal(t, `{"motd":"hello"}`, get(t, s, "a", "/openstack/latest/vendor_data.json"))
	require.Contains(t, get(t, s, "a", "/openstack/latest/network_data.json"), `"ipv4_dhcp"`)
	require.NotContains(t, get(t, s, "a", "/openstack/2013-04-04/meta_data.json"), "random_seed")
	first, second := get(t, s, "a", "/openstack/latest/meta_data.json"), get(t, s, "a", "/openstack/latest/meta_data.json")
	require.Contains(t, first, `"hostname":"alpha.novalocal"`)
	require.Contains(t, first, "random_seed")
	require.NotEqual(t, first, second, "each has a seed of its own")
	for _, path := range []string{"/openstack/2012-08-10/vendor_data.json", "/openstack/2013-10-17/network_data.json",
		"/openstack/2011-01-01", "/openstack/latest/other", "/openstack/latest/user_data/x"} {
		require.Equal(t, http.StatusNotFound, status(t, s, "a", path), path)
	}
	require.Equal(t, `{}`, get(t, newServer(t, nil), "a", "/openstack/latest/vendor_data.json"))
}

// Nobody hears why something is wrong with us.
func TestAFailingSource(t *testing.T) {
	s := newServer(t, func(c *Config) { c.Source = &guests{fail: errors.New("secret: disk /dev/sda")} })
	w := ask(t, s, &fakeConn{port: "a"}, http.MethodGet, "/latest/meta-data/")
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.NotContains(t, w.Body.String(), "secret")
}
