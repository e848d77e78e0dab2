package auth

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/ssh"
)

// KeyType is the algorithm of a key, by its name in SSH.
type KeyType string

// The types of keys that are generated. Keys of the other types that OpenSSH trusts can be imported.
const (
	Ed25519 KeyType = ssh.KeyAlgoED25519
	RSA     KeyType = ssh.KeyAlgoRSA // 3072 bits
)

// Limits of imported keys.
const (
	MaxPublicKey = 16 << 10 // bytes of the line
	MinRSABits   = 2048
	MaxRSABits   = 16384
)

const rsaBits = 3072

// publicKey is a key as a record has it.
type publicKey struct {
	typ         KeyType
	line        string
	sha256, md5 string
}

// generateKey makes a key and returns its private half in OpenSSH's PEM format, without a passphrase.
func generateKey(t KeyType, comment string) (public publicKey, private []byte, err error) {
	var key crypto.Signer
	switch t {
	case Ed25519:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case RSA:
		key, err = rsa.GenerateKey(rand.Reader, rsaBits)
	default:
		err = fmt.Errorf("auth: Type is %.40q, must be %q or %q: %w", t, Ed25519, RSA, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return publicKey{}, nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return publicKey{}, nil, fmt.Errorf("auth: %v: %w", err, errdefs.ErrInternal)
	}
	half, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return publicKey{}, nil, fmt.Errorf("auth: %v: %w", err, errdefs.ErrInternal)
	}
	return describe(half, comment), pem.EncodeToMemory(block), nil
}

// parsePublicKey reads one line in the format of authorized_keys: type, key and perhaps a comment. It refuses options (they
// would be commands to the guest), certificates, algorithms that OpenSSH no longer trusts, and more than one line.
func parsePublicKey(text string) (publicKey, error) {
	bad := func(format string, args ...any) (publicKey, error) {
		return publicKey{}, fmt.Errorf("auth: PublicKey %s: %w", fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
	}
	if len(text) > MaxPublicKey {
		return bad("has %d bytes, at most %d are possible", len(text), MaxPublicKey)
	}
	line := strings.TrimSpace(text)
	if !utf8.ValidString(line) || strings.ContainsFunc(line, unicode.IsControl) {
		return bad("must be one line of text in the format of authorized_keys")
	}
	typ, _, _ := strings.Cut(line, " ")
	if !allowed(typ) {
		return bad("must begin with a type like ssh-ed25519, but begins with %.40q", typ)
	}
	key, comment, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	switch {
	case err != nil:
		return bad("is not a key of type %s in base64", typ)
	case len(options) > 0 || key.Type() != typ:
		return bad("says it has type %s, but the key in it has type %.40q", typ, key.Type())
	}
	if c, ok := key.(ssh.CryptoPublicKey); ok {
		if r, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok {
			if bits := r.N.BitLen(); bits < MinRSABits || bits > MaxRSABits {
				return bad("is an RSA key of %d bits, must have %d to %d", bits, MinRSABits, MaxRSABits)
			}
		}
	}
	return describe(key, comment), nil
}

func allowed(typ string) bool {
	switch typ {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoRSA, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return true
	}
	return false
}

func describe(key ssh.PublicKey, comment string) publicKey {
	line := string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))
	if comment != "" {
		line += " " + comment
	}
	return publicKey{typ: KeyType(key.Type()), line: line, sha256: ssh.FingerprintSHA256(key), md5: ssh.FingerprintLegacyMD5(key)}
}
