package cluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/image"
)

// NodeConfig is what a [Node] is made of.
type NodeConfig struct {
	Credentials Credentials  // required
	File        string       // where renewed ones are saved; "": nowhere
	Logger      *slog.Logger // nil: silent
}

// Node is a node's side of the handler: it keeps the node's certificate fresh, and is the node's image.Source. It is safe for
// concurrent use.
type Node struct {
	cfg  NodeConfig
	cred atomic.Pointer[Credentials]
	pair atomic.Pointer[tls.Certificate]
	http *http.Transport
	put  *http.Transport // the same, but that an answer may take as long as it takes to look through an image
}

// NewNode checks the credentials. It connects to nothing.
func NewNode(cfg NodeConfig) (*Node, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	n := &Node{cfg: cfg}
	if err := n.set(cfg.Credentials); err != nil {
		return nil, err
	}
	t, err := n.TLS()
	if err != nil {
		return nil, err
	}
	n.http, n.put = transport(t), transport(t)
	n.put.ResponseHeaderTimeout = putTimeout
	return n, nil
}

func (n *Node) set(c Credentials) error {
	t, err := c.TLS()
	if err != nil {
		return err
	}
	n.cred.Store(&c)
	n.pair.Store(&t.Certificates[0])
	return nil
}

// Credentials returns the node's, as they are now.
func (n *Node) Credentials() Credentials { return *n.cred.Load() }

// TLS returns what clients of the cloud's servers need, such as those of the store and the bus. Each connection that is made with it
// presents the certificate that is then the newest. Each call returns a new one.
func (n *Node) TLS() (*tls.Config, error) {
	t, err := n.Credentials().TLS()
	if err != nil {
		return nil, err
	}
	t.Certificates = nil
	t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return n.pair.Load(), nil }
	return t, nil
}

// Renew gets a new key and certificate, and the settings as they are now. It fails as [Join] does; nothing has changed then.
func (n *Node) Renew(ctx context.Context) error {
	next := n.Credentials()
	if err := next.ask(ctx, n.http, "renew", joinRequest{}); err != nil {
		return err
	}
	if n.cfg.File != "" {
		if err := next.Save(n.cfg.File); err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
	}
	return n.set(next)
}

// renewEvery is how often it is looked whether the certificate must be renewed, and renewed again after a failure.
const renewEvery = time.Hour

// putTimeout is how long the controller may take to store and inspect an image when all of it has arrived.
const putTimeout = 10 * time.Minute

// Run renews the certificate when a third of its life is left, until ctx ends; then it returns nil.
func (n *Node) Run(ctx context.Context) error {
	defer n.put.CloseIdleConnections()
	defer n.http.CloseIdleConnections()
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		if leaf := n.pair.Load().Leaf; time.Until(leaf.NotAfter) < leaf.NotAfter.Sub(leaf.NotBefore)/3 {
			if err := n.Renew(ctx); err != nil && ctx.Err() == nil {
				n.cfg.Logger.Error("cluster: this node's certificate could not be renewed", "ends", leaf.NotAfter, "error", err, "again in", renewEvery)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// PutImage brings the content of an image that this host makes, as an image.Sink does.
func (n *Node) PutImage(ctx context.Context, img image.Image, content io.Reader) (image.Stored, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPut,
		"https://"+n.Credentials().Address+"/v1/images/"+img.ID+"/"+strconv.FormatUint(img.Upload, 10), content)
	if err != nil {
		return image.Stored{}, fmt.Errorf("cluster: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	resp, err := do(n.put, r)
	if err != nil {
		return image.Stored{}, err
	}
	defer resp.Body.Close()
	var a putAnswer
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxRequest)).Decode(&a); err != nil {
		return image.Stored{}, fmt.Errorf("cluster: the answer of %s: %w: %w", r.URL.Host, err, errdefs.ErrUnavailable)
	}
	return image.Stored{Size: a.Size, SHA256: a.SHA256}, nil
}

// OpenImage returns the content of an image, as an image.Source does.
func (n *Node) OpenImage(ctx context.Context, img image.Image) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"https://"+n.Credentials().Address+"/v1/images/"+img.ID+"/"+strconv.FormatUint(img.Upload, 10), nil)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	resp, err := do(n.http, r)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}
