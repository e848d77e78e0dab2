package etcdserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/dewpoint-cloud/dewpoint/state/etcd/internal/zaplog"
)

// TLS is a certificate and who is believed, as PEM files. All are required. The certificate must be good for servers and for
// clients, and name the addresses that others use: a member is both. Files that are replaced are read again at the next connection.
type TLS struct {
	Cert string
	Key  string
	CA   string // of the others, which must show a certificate of it
}

// Config is what a [Server] is made of.
type Config struct {
	// Dir is the member's directory, required. It is made, with mode 0700, if it is not there. One process at a time uses it.
	Dir string

	// Name is the member's in Cluster; "": "dewpoint".
	Name string

	// Client is host and port where clients are served, required. Port 0: any that is free; see [Server.Endpoints].
	Client string
	// ClientURL is what clients are told of this member's address, if it isn't the above: "https://host:port".
	ClientURL string
	ClientTLS *TLS // nil: none

	// Peer is host and port for the other members, required if there are any. A member that is alone needs none.
	Peer    string
	PeerTLS *TLS // nil: none

	// Cluster holds the peer URL of each member by its name, this one included: "https://10.0.0.1:2380". All members are given the
	// same when they start for the first time; later it is ignored. Nil: the member is alone.
	Cluster map[string]string
	// Join says that the cluster exists and this member has been added to it, with etcdctl member add.
	Join bool
	// Token tells clusters apart whose members might meet by mistake; "": "dewpoint".
	Token string

	// Plaintext allows addresses other than loopback without TLS.
	Plaintext bool

	// KeepHistory is for how long old revisions are kept, at least; a follower that was away for longer is given a snapshot.
	// 0: 1 h. At least a minute.
	KeepHistory time.Duration

	// Quota is how large the database may grow before it takes no more, in bytes; 0: 2 GiB, which is etcd's.
	Quota int64

	// MaxOps and MaxBytes are etcd's --max-txn-ops and --max-request-bytes; 0: 128 and 1.5 MiB, which are etcd's.
	MaxOps   int
	MaxBytes int

	// Logger is told etcd's warnings and errors, but not what is so on purpose; nil: silent.
	Logger *slog.Logger
}

// Server is a member that runs.
type Server struct {
	etcd   *embed.Etcd
	lock   *os.File
	scheme string

	stopping chan struct{}
	close    sync.Once
}

// Start starts a member. It returns when the member listens, and before it has found the others: see [Server.Ready]. Close ends it.
// A directory that another process, or another Server, uses is refused at once as Unavailable, and so is an address in use.
func Start(cfg Config) (s *Server, err error) {
	embedded, err := cfg.embedded()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, foreign(cfg.Dir, err)
	}
	lock, err := os.OpenFile(filepath.Join(cfg.Dir, "in-use"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, foreign(cfg.Dir, err)
	}
	defer func() {
		if p := recover(); p != nil { // as zaplog does where etcd would end the process
			s, err = nil, foreign(cfg.Dir, fmt.Errorf("%v", p))
		}
		if err != nil {
			_ = lock.Close()
		}
	}()
	if err := exclusive(lock); err != nil {
		return nil, foreign(cfg.Dir, err)
	}
	e, err := embed.StartEtcd(embedded)
	if err != nil {
		return nil, foreign(cfg.Dir, err)
	}
	return &Server{etcd: e, lock: lock, scheme: scheme(cfg.ClientTLS), stopping: make(chan struct{})}, nil
}

// Ready returns when the member takes part in its cluster, which needs a majority of the members, or when ctx or the member ends.
func (s *Server) Ready(ctx context.Context) error {
	select {
	case <-s.etcd.Server.StopNotify():
		return s.ended()
	default:
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
		return nil
	case <-s.etcd.Server.StopNotify():
		return s.ended()
	case err := <-s.etcd.Err():
		return errors.Join(err, s.ended())
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Server) ended() error {
	return fmt.Errorf("state/etcd/etcdserver: the member has ended: %w", errdefs.ErrUnavailable)
}

// Endpoints returns the URLs of this member, for clients in this process or on this host.
func (s *Server) Endpoints() []string {
	var all []string
	for _, l := range s.etcd.Clients {
		all = append(all, s.scheme+"://"+l.Addr().String())
	}
	return all
}

// Wait returns nil after Close, and an error when the member has ended by itself: it can't listen any more, or was removed from its
// cluster. Close is still needed then.
func (s *Server) Wait() error {
	select {
	case <-s.stopping:
		return nil
	case err, ok := <-s.etcd.Err():
		if ok && err != nil {
			return fmt.Errorf("state/etcd/etcdserver: %w: %w", err, errdefs.ErrUnavailable)
		}
	case <-s.etcd.Server.StopNotify():
	}
	select {
	case <-s.stopping:
		return nil
	default:
		return s.ended()
	}
}

// Close stops the member: requests under way are answered, for a few seconds at most, and a leader hands over. A second Close does
// nothing.
func (s *Server) Close() error {
	var err error
	s.close.Do(func() {
		close(s.stopping)
		select {
		case <-s.etcd.Server.ReadyNotify():
		default:
			s.etcd.Server.HardStop() // etcd's own Close would wait until it is ready
		}
		s.etcd.Close()
		err = s.lock.Close()
	})
	return err
}

// expected tells of what etcd says whether it is no news: that what Close closes is closed, and what is so on purpose. There is one port, which
// TLS guards or which is on loopback, and etcd's own users, whose tokens it speaks of, are not used.
func expected(message string, err error) bool {
	return message == "Running http and grpc server on single port. This is not recommended for production." ||
		message == "simple token is not cryptographically signed" ||
		errors.Is(err, net.ErrClosed) || err != nil && (err.Error() == "http: Server closed" || err.Error() == "mux: server closed")
}

// embedded is the configuration in etcd's own form.
func (cfg *Config) embedded() (*embed.Config, error) {
	refuse := func(format string, args ...any) (*embed.Config, error) {
		return nil, fmt.Errorf("state/etcd/etcdserver: Config."+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	if cfg.Name == "" {
		cfg.Name = "dewpoint"
	}
	if cfg.Token == "" {
		cfg.Token = "dewpoint"
	}
	if cfg.KeepHistory == 0 {
		cfg.KeepHistory = time.Hour
	}
	switch {
	case cfg.Dir == "":
		return refuse("Dir is required")
	case cfg.Client == "":
		return refuse("Client is required")
	case strings.ContainsAny(cfg.Name, ",= "):
		return refuse("Name is %q, must have no comma, space or equals sign", cfg.Name)
	case cfg.Peer == "" && len(cfg.Cluster) > 1:
		return refuse("Peer is required: Config.Cluster has %d members", len(cfg.Cluster))
	case cfg.Cluster != nil && cfg.Cluster[cfg.Name] == "":
		return refuse("Cluster has no member %q, which Config.Name says this is", cfg.Name)
	case cfg.Join && len(cfg.Cluster) < 2:
		return refuse("Join is set and Config.Cluster has %d members, must have those that are there and this one", len(cfg.Cluster))
	case cfg.KeepHistory < time.Minute:
		return refuse("KeepHistory is %v, must be at least 1m", cfg.KeepHistory)
	case cfg.Quota < 0 || cfg.MaxOps < 0 || cfg.MaxBytes < 0:
		return refuse("Quota, MaxOps and MaxBytes are %d, %d and %d, must be at least 0", cfg.Quota, cfg.MaxOps, cfg.MaxBytes)
	}
	for name, t := range map[string]*TLS{"ClientTLS": cfg.ClientTLS, "PeerTLS": cfg.PeerTLS} {
		if t != nil && (t.Cert == "" || t.Key == "" || t.CA == "") {
			return refuse("%s has no Cert, no Key or no CA: all three are required", name)
		}
		if err := t.check(); err != nil {
			return nil, fmt.Errorf("state/etcd/etcdserver: Config.%s: %w", name, err)
		}
	}
	e := embed.NewConfig()
	e.Name, e.Dir, e.InitialClusterToken = cfg.Name, cfg.Dir, cfg.Token
	e.EnableGRPCGateway = false
	e.StrictReconfigCheck = true
	e.AutoCompactionMode, e.AutoCompactionRetention = embed.CompactorModePeriodic, cfg.KeepHistory.String()
	e.QuotaBackendBytes = cfg.Quota
	if cfg.MaxOps > 0 {
		e.MaxTxnOps = uint(cfg.MaxOps)
	}
	if cfg.MaxBytes > 0 {
		e.MaxRequestBytes = uint(cfg.MaxBytes)
	}
	e.ClientTLSInfo, e.PeerTLSInfo = cfg.ClientTLS.info(), cfg.PeerTLS.info()
	e.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zaplog.New(cfg.Logger, "etcd: ", slog.LevelWarn, expected))

	client, err := cfg.listen("Client", cfg.Client, cfg.ClientTLS)
	if err != nil {
		return nil, err
	}
	e.ListenClientUrls, e.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	if cfg.ClientURL != "" {
		u, err := url.Parse(cfg.ClientURL)
		if err != nil || u.Host == "" {
			return refuse("ClientURL is %q, must be a URL", cfg.ClientURL)
		}
		e.AdvertiseClientUrls = []url.URL{*u}
	}
	e.ListenPeerUrls = nil
	if cfg.Peer != "" {
		peer, err := cfg.listen("Peer", cfg.Peer, cfg.PeerTLS)
		if err != nil {
			return nil, err
		}
		e.ListenPeerUrls = []url.URL{peer}
	}
	return e, cfg.cluster(e)
}

// cluster fills in the members.
func (cfg *Config) cluster(e *embed.Config) error {
	if cfg.Join {
		e.ClusterState = embed.ClusterStateFlagExisting
	}
	all := cfg.Cluster
	if all == nil {
		host := cfg.Peer
		if host == "" {
			host = "localhost:2380" // a name: nobody listens there, and nobody asks
		}
		all = map[string]string{cfg.Name: scheme(cfg.PeerTLS) + "://" + host}
	}
	var members []string
	for name, at := range all {
		u, err := url.Parse(at)
		if err != nil || u.Host == "" {
			return fmt.Errorf("state/etcd/etcdserver: Config.Cluster has %q for member %q, must be a URL: %w", at, name, errdefs.ErrInvalidArgument)
		}
		members = append(members, name+"="+at)
		if name == cfg.Name {
			e.AdvertisePeerUrls = []url.URL{*u}
		}
	}
	slices.Sort(members)
	e.InitialCluster = strings.Join(members, ",")
	return nil
}

// listen is an address to listen on as a URL.
func (cfg *Config) listen(field, address string, t *TLS) (url.URL, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return url.URL{}, fmt.Errorf("state/etcd/etcdserver: Config.%s is %q, must be an IP address and a port: %w", field, address, errdefs.ErrInvalidArgument)
	}
	ip := net.ParseIP(host)
	switch {
	case ip == nil && host != "localhost":
		return url.URL{}, fmt.Errorf("state/etcd/etcdserver: Config.%s is %q, must be an IP address and a port: %w", field, address, errdefs.ErrInvalidArgument)
	case t == nil && !cfg.Plaintext && ip != nil && !ip.IsLoopback():
		return url.URL{}, fmt.Errorf("state/etcd/etcdserver: Config.%s is %s, which others reach, without Config.%sTLS; or set Config.Plaintext: %w",
			field, address, field, errdefs.ErrInvalidArgument)
	}
	return url.URL{Scheme: scheme(t), Host: address}, nil
}

func scheme(t *TLS) string {
	if t == nil {
		return "http"
	}
	return "https"
}

func (t *TLS) info() transport.TLSInfo {
	if t == nil {
		return transport.TLSInfo{}
	}
	return transport.TLSInfo{CertFile: t.Cert, KeyFile: t.Key, TrustedCAFile: t.CA, ClientCertAuth: true}
}

// check reads the files, which etcd itself would only do when somebody connects.
func (t *TLS) check() error {
	if t == nil {
		return nil
	}
	classed := func(err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
		case errors.Is(err, fs.ErrPermission):
			return fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
		}
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if _, err := tls.LoadX509KeyPair(t.Cert, t.Key); err != nil {
		return classed(err)
	}
	ca, err := os.ReadFile(t.CA)
	if err != nil {
		return classed(err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(ca) {
		return fmt.Errorf("%s holds no certificate in PEM: %w", t.CA, errdefs.ErrInvalidArgument)
	}
	return nil
}

// foreign gives the errors of etcd and of the system their classes.
func foreign(dir string, err error) error {
	var c error = errdefs.ErrUnavailable
	switch {
	case errors.Is(err, errdefs.ErrUnavailable):
		return fmt.Errorf("state/etcd/etcdserver: %s: %w", dir, err)
	case errors.Is(err, fs.ErrPermission):
		c = errdefs.ErrPermissionDenied
	case errors.Is(err, syscall.EADDRINUSE):
	case errors.Is(err, fs.ErrNotExist):
		c = errdefs.ErrNotFound
	}
	return fmt.Errorf("state/etcd/etcdserver: start in %s: %w: %w", dir, err, c)
}
