// Package ca is a certificate authority for the processes of one cloud: controllers and nodes prove with its certificates
// who they are, to each other and to the store and the bus between them, and a node that is new gets its certificate for a
// token.
//
// It lives in a directory of one process, which alone holds its key. There are no intermediate authorities and no revocation lists: a
// certificate is short enough of life to be renewed, and a node that must go is refused by name by who serves it.
package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
)

// Lifetimes of certificates.
const (
	authorityLife = 20 * 365 * 24 * time.Hour
	// DefaultLife is that of a certificate whose [Request] names none.
	DefaultLife = 365 * 24 * time.Hour
	// MaxLife is the longest that one may have.
	MaxLife = 825 * 24 * time.Hour
	// early is how long before its issue a certificate begins to be valid: clocks differ.
	early = time.Hour
)

// CA signs certificates. It is safe for concurrent use.
type CA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// Config is what a [CA] is made of.
type Config struct {
	Dir  string // where it keeps ca.key and ca.crt; made if it is missing, its parent must exist. Required
	Name string // of the authority, in its certificate, when it is made; "": "Dewpoint CA"
}

// Open loads the authority of a directory, or makes one there if there is none. A key without a certificate, as a crash
// leaves it, is given one. Files that don't belong together, or that others than their owner can read, are refused.
func Open(cfg Config) (*CA, error) {
	if cfg.Dir == "" {
		return nil, fmt.Errorf("ca: Config.Dir is required: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.Name == "" {
		cfg.Name = "Dewpoint CA"
	}
	if err := os.Mkdir(cfg.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("ca: %w", err)
	}
	keyFile, certFile := filepath.Join(cfg.Dir, "ca.key"), filepath.Join(cfg.Dir, "ca.crt")
	key, err := loadKey(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(certFile); err == nil {
			return nil, fmt.Errorf("ca: %s is there, but its key, %s, is not; put it back, or remove both to begin anew: %w", certFile, keyFile,
				errdefs.ErrDataLoss)
		}
		key, err = makeKey(keyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	cert, err := loadCert(certFile)
	if errors.Is(err, fs.ErrNotExist) {
		cert, err = makeAuthority(certFile, cfg.Name, key)
	}
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("ca: %s is not the certificate of the key in %s: %w", certFile, keyFile, errdefs.ErrDataLoss)
	}
	return &CA{key: key, cert: cert}, nil
}

// PEM returns the authority's certificate.
func (c *CA) PEM() []byte { return encode(typeCert, c.cert.Raw) }

// Pool returns what trusts the authority and nobody else.
func (c *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(c.cert)
	return pool
}

// Fingerprint returns the SHA-256 of the authority's certificate, in hexadecimal.
func (c *CA) Fingerprint() string { return Fingerprint(c.cert) }

// Fingerprint returns the SHA-256 of a certificate, in hexadecimal.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Request is what a certificate shall say.
type Request struct {
	Name  string        // who has it, 1 to 64 bytes: its common name
	Hosts []string      // DNS names and IP addresses that a client may reach it under; none: it is for a client only
	Life  time.Duration // 0: DefaultLife; at most MaxLife. None outlives its authority
}

// Pair is a certificate and its key.
type Pair struct {
	Cert []byte // PEM
	Key  []byte // PEM, PKCS #8
}

// Issue makes a key and a certificate for it.
func (c *CA) Issue(r Request) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("ca: %w", err)
	}
	cert, err := c.sign(r, &key.PublicKey)
	if err != nil {
		return Pair{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("ca: %w", err)
	}
	return Pair{Cert: cert, Key: encode(typeKey, der)}, nil
}

// Sign makes a certificate for the key of a signing request in PEM (see [NewSigningRequest]). Of the request only the key
// counts: what the certificate says is what r says. The certificate is PEM.
func (c *CA) Sign(signingRequest []byte, r Request) ([]byte, error) {
	block, _ := pem.Decode(signingRequest)
	if block == nil || block.Type != typeRequest {
		return nil, fmt.Errorf("ca: the signing request is not a %s in PEM: %w", typeRequest, errdefs.ErrInvalidArgument)
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("ca: the signing request: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("ca: the signing request: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	public, ok := req.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, fmt.Errorf("ca: the key of the signing request must be ECDSA on P-256: %w", errdefs.ErrInvalidArgument)
	}
	return c.sign(r, public)
}

// NewSigningRequest makes a key, which stays with the caller, and a request to sign it, both PEM.
func NewSigningRequest() (key, request []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("ca: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, fmt.Errorf("ca: %w", err)
	}
	req, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	if err != nil {
		return nil, nil, fmt.Errorf("ca: %w", err)
	}
	return encode(typeKey, der), encode(typeRequest, req), nil
}

func (c *CA) sign(r Request, public *ecdsa.PublicKey) ([]byte, error) {
	if len(r.Name) == 0 || len(r.Name) > 64 { // RFC 5280, ub-common-name
		return nil, fmt.Errorf("ca: Request.Name has %d bytes, must have 1 to 64: %w", len(r.Name), errdefs.ErrInvalidArgument)
	}
	if r.Life == 0 {
		r.Life = DefaultLife
	}
	if r.Life < 0 || r.Life > MaxLife {
		return nil, fmt.Errorf("ca: Request.Life is %v, must be at most %v: %w", r.Life, MaxLife, errdefs.ErrInvalidArgument)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t := x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: r.Name},
		NotBefore: now.Add(-early), NotAfter: now.Add(r.Life),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if t.NotAfter.After(c.cert.NotAfter) {
		t.NotAfter = c.cert.NotAfter
	}
	for _, h := range r.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else if h == "" || len(h) > 253 {
			return nil, fmt.Errorf("ca: Request.Hosts has a name of %d bytes, must have 1 to 253: %w", len(h), errdefs.ErrInvalidArgument)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	if len(r.Hosts) > 0 {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, &t, c.cert, public, c.key)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return encode(typeCert, der), nil
}

// newSerial returns 127 random bits.
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}
