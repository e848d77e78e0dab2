package metadata

import (
	"crypto/rand"
	"net/http"
	"slices"
	"strings"

	"github.com/dewpoint-cloud/dewpoint/compute/guestdata"
)

// openStackVersions are those of OpenStack Nova that changed what is here.
func openStackVersions() []string {
	return []string{"2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15", "2016-06-30", "2016-10-06", "2017-02-22", "2018-08-27", "latest"}
}

// seedBytes is how much randomness a guest gets with each meta_data.json, as from Nova.
const seedBytes = 512

func (s *Server) showOpenStack(w http.ResponseWriter, g guestdata.Guest, path []string) error {
	if len(path) == 0 {
		say(w, plainText, []byte(strings.Join(openStackVersions(), "\n")))
		return nil
	}
	version := path[0]
	if !slices.Contains(openStackVersions(), version) {
		return errNoSuchPath
	}
	files := []string{"meta_data.json"}
	if version >= "2015-10-15" {
		files = append(files, "network_data.json")
	}
	if len(g.UserData) > 0 {
		files = append(files, "user_data")
	}
	if version >= "2013-10-17" {
		files = append(files, "vendor_data.json")
	}
	switch {
	case len(path) == 1:
		say(w, plainText, []byte(strings.Join(files, "\n")))
		return nil
	case len(path) > 2 || !slices.Contains(files, path[1]):
		return errNoSuchPath
	}
	switch path[1] {
	case "meta_data.json":
		var seed []byte
		if version >= "2013-10-17" {
			seed = make([]byte, seedBytes)
			_, _ = rand.Read(seed) // never fails (crypto/rand)
		}
		say(w, jsonText, g.MetaData(seed))
	case "network_data.json":
		say(w, jsonText, g.NetworkData())
	case "user_data":
		say(w, anything, g.UserData)
	case "vendor_data.json":
		say(w, jsonText, s.cfg.Vendor)
	}
	return nil
}
