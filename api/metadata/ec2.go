package metadata

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/dewpoint-cloud/dewpoint/compute/guestdata"
)

// ec2Versions are what EC2 had in 2011. All have the same tree.
func ec2Versions() []string {
	return []string{"1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01", "2008-09-01", "2009-04-04", "latest"}
}

// tree is a directory: its values are strings and trees.
type tree map[string]any

// list is a directory as EC2 shows it: a name in each line, with a slash if it is a directory; a key is shown with its name.
func (t tree) list() string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if dir, ok := t[name].(tree); ok {
			if title, ok := dir[""].(string); ok {
				name += "=" + title
			} else {
				name += "/"
			}
		}
		if name != "" {
			lines = append(lines, name)
		}
	}
	return strings.Join(lines, "\n")
}

// find returns what is at a path: a value, or the list of a directory.
func (t tree) find(path []string) (string, bool) {
	for i, name := range path {
		if name == "" {
			return "", false
		}
		switch v := t[name].(type) {
		case tree:
			t = v
		case string:
			return v, i == len(path)-1
		default:
			return "", false
		}
	}
	return t.list(), true
}

func (s *Server) showEC2(ctx context.Context, w http.ResponseWriter, g guestdata.Guest, path []string) error {
	if len(path) == 0 {
		say(w, plainText, []byte(strings.Join(ec2Versions(), "\n")))
		return nil
	}
	if !slices.Contains(ec2Versions(), path[0]) {
		return errNoSuchPath
	}
	path = path[1:]
	switch {
	case len(path) == 0:
		text := "meta-data/"
		if len(g.UserData) > 0 {
			text += "\nuser-data"
		}
		say(w, plainText, []byte(text))
		return nil
	case path[0] == "user-data" && len(path) == 1 && len(g.UserData) > 0:
		say(w, anything, g.UserData)
		return nil
	case path[0] != "meta-data":
		return errNoSuchPath
	}
	data := ec2Tree(g)
	if len(path) > 1 && path[1] == "mpi" {
		all, err := s.cfg.Source.Cluster(ctx, g.ProjectID)
		if err != nil {
			return err
		}
		mpi := tree{}
		for key, lines := range all {
			mpi[key] = strings.Join(lines, "\n")
		}
		data["mpi"] = mpi
	}
	text, ok := data.find(path[1:])
	if !ok {
		return errNoSuchPath
	}
	say(w, plainText, []byte(text))
	return nil
}

// ec2Tree is meta-data of EC2.
func ec2Tree(g guestdata.Guest) tree {
	t := tree{
		"ami-id":               guestdata.EC2ID("ami", g.ImageID),
		"ami-launch-index":     strconv.Itoa(g.LaunchIndex),
		"ami-manifest-path":    "(unknown)",
		"block-device-mapping": tree{"ami": "vda", "root": "/dev/vda"},
		"hostname":             g.FQDN(),
		"local-hostname":       g.FQDN(),
		"instance-action":      "none",
		"instance-id":          guestdata.EC2ID("i", g.ID),
		"instance-type":        g.Flavor,
		"mpi":                  tree{},
		"placement":            tree{"availability-zone": g.Zone},
		"reservation-id":       g.ReservationID,
		"security-groups":      strings.Join(g.SecurityGroups, "\n"),
		"public-hostname":      g.FQDN(),
		"public-ipv4":          "",
		"local-ipv4":           "",
	}
	if a := g.IPv4(); a.IsValid() {
		t["local-ipv4"] = a.String()
	}
	if g.PublicIPv4.IsValid() {
		t["public-ipv4"] = g.PublicIPv4.String()
	}
	if g.KernelID != "" {
		t["kernel-id"] = guestdata.EC2ID("aki", g.KernelID)
	}
	if g.RamdiskID != "" {
		t["ramdisk-id"] = guestdata.EC2ID("ari", g.RamdiskID)
	}
	if g.PublicKey != "" {
		t["public-keys"] = tree{"0": tree{"": g.KeyName, "openssh-key": g.PublicKey}}
	}
	return t
}
