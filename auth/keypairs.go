package auth

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// KeyPairSpec is a key pair to be made.
//
// It belongs to a user who need not be on record, as a host program's own users are not; but a caller that
// [FindCaller] returned, and a user that an administrator names, must still be.
type KeyPairSpec struct {
	UserID string  // whose; "": the caller's. Another's than the caller's is for administrators
	Name   string  // required: 1 to [MaxName] bytes, unique among the user's
	Type   KeyType // of a key to generate: Ed25519 or RSA; "": Ed25519

	// PublicKey is a key to import: one line in the format of authorized_keys, without options.
	PublicKey string
}

// CreateKeyPair generates a key pair, records its public half, and returns both; the private half is in OpenSSH's PEM
// format, without a passphrase. It is on record nowhere: this is the only time that it is seen. A name that the user has
// already is AlreadyExists, more than [MaxKeyPairs] are ResourceExhausted.
func (s *Service) CreateKeyPair(ctx context.Context, spec KeyPairSpec) (KeyPair, []byte, error) {
	by, err := s.keyOwner(ctx, "auth:keypair:create", &spec)
	if err != nil {
		return KeyPair{}, nil, err
	}
	switch {
	case spec.PublicKey != "":
		return KeyPair{}, nil, fmt.Errorf("auth: PublicKey must be empty where a key is generated: %w", errdefs.ErrInvalidArgument)
	case spec.Type == "":
		spec.Type = Ed25519
	}
	// To find a large prime takes a while: what can be refused is refused before.
	if err := s.cfg.Store.View(func(v *state.View) error { return roomForKey(v, spec, by) }); err != nil {
		return KeyPair{}, nil, err
	}
	public, private, err := generateKey(spec.Type, spec.Name)
	if err != nil {
		return KeyPair{}, nil, err
	}
	k, err := s.recordKey(ctx, spec, by, public)
	if err != nil {
		return KeyPair{}, nil, err
	}
	return k, private, nil
}

// ImportKeyPair records the public half of a user's own key, which must be of a type that OpenSSH trusts; an RSA key has
// [MinRSABits] to [MaxRSABits]. Otherwise it is as [Service.CreateKeyPair].
func (s *Service) ImportKeyPair(ctx context.Context, spec KeyPairSpec) (KeyPair, error) {
	by, err := s.keyOwner(ctx, "auth:keypair:import", &spec)
	if err != nil {
		return KeyPair{}, err
	}
	if spec.Type != "" {
		return KeyPair{}, fmt.Errorf("auth: Type must be empty where a key is imported, which has its own: %w", errdefs.ErrInvalidArgument)
	}
	public, err := parsePublicKey(spec.PublicKey)
	if err != nil {
		return KeyPair{}, err
	}
	return s.recordKey(ctx, spec, by, public)
}

// keyOwner authorizes the making of a key pair and completes and checks whose it is to be.
func (s *Service) keyOwner(ctx context.Context, action string, spec *KeyPairSpec) (Caller, error) {
	by, err := s.forUser(ctx, action, &spec.UserID)
	if err != nil {
		return Caller{}, err
	}
	return by, checkName("Name", spec.Name)
}

// forUser authorizes what is done to a user's own: the caller does it to itself, an administrator to anyone.
func (s *Service) forUser(ctx context.Context, action string, userID *string) (Caller, error) {
	by, err := s.cfg.Policy.Authorize(ctx, action, "")
	switch {
	case err != nil:
		return Caller{}, err
	case *userID == "":
		*userID = by.UserID
	case *userID != by.UserID && !by.Admin:
		return Caller{}, fmt.Errorf("auth: %s: user %s has its own key pairs and no others: %w", action, by.UserID,
			errdefs.ErrPermissionDenied)
	}
	return by, nil
}

// roomForKey tells whether a user can have one more key pair, under a name.
func roomForKey(r state.Reader, spec KeyPairSpec, by Caller) error {
	if by.recorded || spec.UserID != by.UserID {
		if _, err := findUser(r, spec.UserID); err != nil {
			return err
		}
	}
	if _, err := FindKeyPair(r, spec.UserID, spec.Name); err == nil {
		return fmt.Errorf("auth: user %s has a key pair %q: %w", spec.UserID, spec.Name, errdefs.ErrAlreadyExists)
	}
	if KeyPairUse.Get(r, spec.UserID) >= MaxKeyPairs {
		return fmt.Errorf("auth: user %s has %d key pairs, more are not possible: %w", spec.UserID, MaxKeyPairs,
			errdefs.ErrResourceExhausted)
	}
	return nil
}

func (s *Service) recordKey(ctx context.Context, spec KeyPairSpec, by Caller, public publicKey) (KeyPair, error) {
	k := KeyPair{UserID: spec.UserID, Name: spec.Name, Type: public.typ, PublicKey: public.line, FingerprintSHA256: public.sha256,
		FingerprintMD5: public.md5, Created: time.Now().UTC()}
	err := s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if err := roomForKey(tx, spec, by); err != nil {
			return err
		}
		return put(tx, KeyPairs, k)
	})
	if err != nil {
		return KeyPair{}, err
	}
	s.note(ctx, by, "key pair recorded", "user", k.UserID, "key pair", k.Name, "fingerprint", k.FingerprintSHA256)
	return k, nil
}

// GetKeyPair returns the public half of a user's key pair; userID "" is the caller.
func (s *Service) GetKeyPair(ctx context.Context, userID, name string) (k KeyPair, err error) {
	if _, err := s.forUser(ctx, "auth:keypair:get", &userID); err != nil {
		return KeyPair{}, err
	}
	err = s.cfg.Store.View(func(v *state.View) error {
		k, err = FindKeyPair(v, userID, name)
		return err
	})
	return k, err
}

// ListKeyPairs returns the public halves of a user's key pairs, in the order of their names; userID "" is the caller. A
// user that nobody knows has none.
func (s *Service) ListKeyPairs(ctx context.Context, userID string) (all []KeyPair, err error) {
	if _, err := s.forUser(ctx, "auth:keypair:list", &userID); err != nil {
		return nil, err
	}
	err = s.cfg.Store.View(func(v *state.View) error {
		all = collect(KeyPairs, v, "user", userID)
		return nil
	})
	return all, err
}

// DeleteKeyPair forgets a user's key pair; userID "" is the caller. Guests that were given the key keep it. One that does not
// exist is NotFound, as in Nova; Nova's EC2 API, as Amazon's, called that a success.
func (s *Service) DeleteKeyPair(ctx context.Context, userID, name string) error {
	by, err := s.forUser(ctx, "auth:keypair:delete", &userID)
	if err != nil {
		return err
	}
	err = s.cfg.Store.Update(ctx, func(tx *state.Tx) error {
		if _, err := FindKeyPair(tx, userID, name); err != nil {
			return err
		}
		return KeyPairs.Delete(tx, pair(userID, name))
	})
	if err != nil {
		return err
	}
	s.note(ctx, by, "key pair deleted", "user", userID, "key pair", name)
	return nil
}
