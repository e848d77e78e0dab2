package ca

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// A token is "dp1.", the fingerprint of the authority, ".", and base64url of 8 bytes of Unix time, when it ends, and 32 bytes of
// HMAC over all before. Whoever has it knows whom to trust before anything is sent, and is trusted to join.

const (
	tokenPrefix = "dp1."
	// MaxTokenLife is the longest that a token may live.
	MaxTokenLife = 30 * 24 * time.Hour
)

// Token returns a secret with which a node can join, as often as it likes, until life has passed, 1 s to [MaxTokenLife]. Nothing
// is recorded: a token can't be taken back.
func (c *CA) Token(life time.Duration) (string, error) {
	if life < time.Second || life > MaxTokenLife {
		return "", fmt.Errorf("ca: a token's life is %v, must be 1s to %v: %w", life, MaxTokenLife, errdefs.ErrInvalidArgument)
	}
	return c.token(time.Now().Add(life).Unix())
}

func (c *CA) token(end int64) (string, error) {
	body := binary.BigEndian.AppendUint64(nil, uint64(end))
	key, err := c.tokenKey()
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(tokenPrefix + c.Fingerprint()))
	mac.Write(body)
	return tokenPrefix + c.Fingerprint() + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(body)), nil
}

// tokenKey is derived from the authority's key, so that there is one secret to keep.
func (c *CA) tokenKey() ([]byte, error) {
	secret, err := c.key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return hkdf.Key(sha256.New, secret, nil, "dewpoint join token", 32)
}

// CheckToken is nil for a token of this authority that has not ended, and PermissionDenied otherwise.
func (c *CA) CheckToken(token string) error {
	_, body, err := splitToken(token)
	if err != nil {
		return fmt.Errorf("ca: the token is none of this authority: %w", errdefs.ErrPermissionDenied)
	}
	end := int64(binary.BigEndian.Uint64(body))
	want, err := c.token(end)
	if err != nil {
		return err
	}
	switch {
	case !hmac.Equal([]byte(want), []byte(token)):
		return fmt.Errorf("ca: the token is none of this authority: %w", errdefs.ErrPermissionDenied)
	case time.Now().Unix() >= end:
		return fmt.Errorf("ca: the token ended at %v: %w", time.Unix(end, 0).UTC().Format(time.RFC3339), errdefs.ErrPermissionDenied)
	}
	return nil
}

// TokenAuthority returns the fingerprint of the authority that a token is of, for the node that has the token: it trusts the
// server whose authority has it. A text that is no token is InvalidArgument.
func TokenAuthority(token string) (fingerprint string, err error) {
	fingerprint, _, err = splitToken(token)
	return fingerprint, err
}

func splitToken(token string) (fingerprint string, body []byte, err error) {
	bad := fmt.Errorf("ca: the token must be %q, 64 hexadecimal digits, a dot and 54 characters: %w", tokenPrefix, errdefs.ErrInvalidArgument)
	rest, ok := strings.CutPrefix(token, tokenPrefix)
	if !ok {
		return "", nil, bad
	}
	fingerprint, end, ok := strings.Cut(rest, ".")
	if sum, err := hex.DecodeString(fingerprint); !ok || err != nil || len(sum) != sha256.Size {
		return "", nil, bad
	}
	body, err = base64.RawURLEncoding.Strict().DecodeString(end)
	if err != nil || len(body) != 8+sha256.Size {
		return "", nil, bad
	}
	return fingerprint, body[:8], nil
}
