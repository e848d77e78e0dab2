package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/auth/ca"
)

// JoinConfig is what a node says to join.
type JoinConfig struct {
	Address string // of the controller, host:port. Required
	Token   string // of its authority. Required
	HostID  string // the node's, a UUID that never changes. Required
	Name    string // the node's, for people, 1 to 253 bytes. Required
}

// Credentials are what makes a process a node of a cloud. They are secret.
type Credentials struct {
	Address     string          // of the controller
	HostID      string          // whose they are
	Authority   []byte          // certificate of the cloud's authority, PEM
	Certificate []byte          // the node's, PEM
	Key         []byte          // its key, PEM
	Settings    json.RawMessage // what the controller said that a node must know
}

// joinTimeout bounds one request that is no image.
const joinTimeout = 30 * time.Second

// Join proves the token to the controller and returns what it takes to be a node. It may be repeated: each time gives a new certificate
// for the same host. A controller that can't be reached is Unavailable, and the caller may try again; one whose certificate is
// of another authority than the token's, or for another address, is PermissionDenied, and has been told nothing; a token that it does not
// take is PermissionDenied too.
func Join(ctx context.Context, cfg JoinConfig) (Credentials, error) {
	fingerprint, err := ca.TokenAuthority(cfg.Token)
	if err != nil {
		return Credentials{}, err
	}
	host, _, err := net.SplitHostPort(cfg.Address)
	if err != nil {
		return Credentials{}, fmt.Errorf("cluster: JoinConfig.Address is %.100q, must be host:port: %w", cfg.Address, errdefs.ErrInvalidArgument)
	}
	t := transport(&tls.Config{
		InsecureSkipVerify: true, // as far as the library goes: who has the token's fingerprint is known below
		VerifyConnection:   func(s tls.ConnectionState) error { return verify(s, fingerprint, host) },
		MinVersion:         tls.VersionTLS13,
	})
	defer t.CloseIdleConnections()
	c := Credentials{Address: cfg.Address, HostID: cfg.HostID}
	return c, c.ask(ctx, t, "join", joinRequest{Token: cfg.Token, HostID: cfg.HostID, Name: cfg.Name})
}

// verify holds a server to the authority with this fingerprint.
func verify(s tls.ConnectionState, fingerprint, host string) error {
	for _, cert := range s.PeerCertificates {
		if ca.Fingerprint(cert) != fingerprint {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(cert)
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: host})
		if err != nil {
			return fmt.Errorf("the controller's certificate: %w: %w", err, errdefs.ErrPermissionDenied)
		}
		return nil
	}
	return fmt.Errorf("the controller's certificate is of another authority than the token: %w", errdefs.ErrPermissionDenied)
}

func transport(t *tls.Config) *http.Transport {
	return &http.Transport{TLSClientConfig: t, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute,
		TLSHandshakeTimeout: joinTimeout, ResponseHeaderTimeout: joinTimeout,
		DialContext: (&net.Dialer{Timeout: joinTimeout}).DialContext}
}

// ask has a new key signed, and fills in c.
func (c *Credentials) ask(ctx context.Context, t *http.Transport, what string, req joinRequest) error {
	key, request, err := ca.NewSigningRequest()
	if err != nil {
		return err
	}
	req.Request = string(request)
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+c.Address+"/v1/"+what, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("cluster: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	resp, err := do(t, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer joinAnswer
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer); err != nil {
		return fmt.Errorf("cluster: the answer of %s: %w: %w", c.Address, err, errdefs.ErrUnavailable)
	}
	if _, err := tls.X509KeyPair([]byte(answer.Certificate), key); err != nil {
		return fmt.Errorf("cluster: the certificate from %s: %w: %w", c.Address, err, errdefs.ErrInternal)
	}
	c.Certificate, c.Key, c.Authority, c.Settings = []byte(answer.Certificate), key, []byte(answer.Authority), answer.Settings
	return nil
}

// do returns the answer to a request, if it is a good one.
func do(t *http.Transport, r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTrip(r)
	if err != nil {
		var unknown x509.UnknownAuthorityError
		switch {
		case r.Context().Err() != nil && errors.Is(err, r.Context().Err()):
			return nil, r.Context().Err()
		case errdefs.IsPermissionDenied(err):
			return nil, fmt.Errorf("cluster: %s: %w", r.URL.Host, err)
		case errors.As(err, &unknown):
			return nil, fmt.Errorf("cluster: %s: %w: %w", r.URL.Host, err, errdefs.ErrPermissionDenied)
		}
		return nil, fmt.Errorf("cluster: %s: %w: %w", r.URL.Host, err, errdefs.ErrUnavailable)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var f failure
	_ = json.NewDecoder(io.LimitReader(resp.Body, maxRequest)).Decode(&f)
	for _, c := range classes {
		if c.name == f.Class {
			return nil, fmt.Errorf("cluster: %s says: %w", r.URL.Host, &told{f.Error, c.err})
		}
	}
	return nil, fmt.Errorf("cluster: %s answers %s: %w", r.URL.Host, resp.Status, errdefs.ErrUnavailable)
}

// told is an error in the words of a controller, with its class.
type told struct {
	text  string
	class error
}

func (t *told) Error() string { return t.text }
func (t *told) Unwrap() error { return t.class }

// Save writes the credentials to a file that only its owner can read, durably and at once.
func (c Credentials) Save(file string) error {
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return ca.WriteFile(file, append(text, '\n'))
}

// Load reads what [Credentials.Save] wrote; a missing file is fs.ErrNotExist, one that is damaged is DataLoss.
func Load(file string) (c Credentials, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return Credentials{}, fmt.Errorf("cluster: %s: %w: %w", file, err, errdefs.ErrDataLoss)
	}
	if _, err := tls.X509KeyPair(c.Certificate, c.Key); err != nil {
		return Credentials{}, fmt.Errorf("cluster: %s: %w: %w", file, err, errdefs.ErrDataLoss)
	}
	return c, nil
}

// TLS returns what the node presents to servers of the cloud, and trusts them by: servers must have a certificate of the cloud's
// authority for the address that they are reached under. Each call returns a new one.
func (c Credentials) TLS() (*tls.Config, error) {
	pair, err := tls.X509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, fmt.Errorf("cluster: the certificate: %w: %w", err, errdefs.ErrDataLoss)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(c.Authority) {
		return nil, fmt.Errorf("cluster: there is no certificate of an authority: %w", errdefs.ErrDataLoss)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

// Expires returns when the certificate ends.
func (c Credentials) Expires() (time.Time, error) {
	t, err := c.TLS()
	if err != nil {
		return time.Time{}, err
	}
	return t.Certificates[0].Leaf.NotAfter, nil
}
