package auth

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// KeyPair is the public half of a user's SSH key. The private half is nowhere on record.
type KeyPair struct {
	UserID            string
	Name              string  // unique among the user's
	Type              KeyType // of the key
	PublicKey         string  // one line in the format of authorized_keys, without a line end
	FingerprintSHA256 string  // as ssh-keygen -l prints it: "SHA256:…"
	FingerprintMD5    string  // as ssh-keygen -l -E md5 prints it, without its "MD5:": 16 pairs of hex digits and colons
	Created           time.Time
}

// MaxKeyPairs is how many key pairs a user may have.
const MaxKeyPairs = 100

// FindKeyPair returns a user's key pair in a transaction or a view; one that does not exist is NotFound.
func FindKeyPair(r state.Reader, userID, name string) (KeyPair, error) {
	if userID != "" && name != "" {
		if k, err := KeyPairs.Get(r, pair(userID, name)); err == nil {
			return k, nil
		}
	}
	return KeyPair{}, fmt.Errorf("key pair %.64q of user %s: %w", name, userID, errdefs.ErrNotFound)
}
