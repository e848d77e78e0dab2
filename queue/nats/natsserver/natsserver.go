// Package natsserver runs a NATS server inside a program: for the bus of package nats in a cloud that shall need no service
// besides its own programs, and for tests. It is NATS core alone: messages, no streams, no files, no monitoring port.
//
// One server is enough for a cloud with one controller. With several, each runs one and they form a cluster; a bus that is
// connected to any of them reaches all. A server takes no signals, ends no process, and writes to a logger only.
package natsserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/nats-io/nats-server/v2/server"
)

// Config is what a [Server] is made of. The zero value is a server for this process alone.
type Config struct {
	// Listen is where clients connect, as host:port with an IP address or "localhost"; the port 0 is any that is free. "": in
	// this process only, by [Server.InProcessConn].
	Listen string
	// Advertise is what clients are told to connect to, as host:port, where that is not Listen. They use it when the server
	// that they know is gone. "": the addresses that Listen stands for.
	Advertise string
	// TLS encrypts the connections at Listen, and with ClientAuth asks who the client is. It is required, and so are
	// credentials or tls.RequireAndVerifyClientCert, where Listen is not on the loopback interface, unless Insecure is set.
	TLS      *tls.Config
	Insecure bool // allows listeners on other interfaces without TLS or without credentials: whoever reaches them rules the cloud

	// The credentials of all clients, in this process too: a user and a password, or a token, or neither.
	User, Password string
	Token          string

	Cluster *Cluster // nil: alone; needs Listen

	MaxPayload     int // bytes of a message with its envelope; 0: 1 MiB, of which the bus needs a little more than half
	MaxConnections int // of clients; 0: 65536

	Logger *slog.Logger // nil: silent
}

// Cluster is how servers find and trust each other.
type Cluster struct {
	Name   string // the same at all of them, without spaces; required
	Listen string // where the others connect, as in Config; required
	// Routes are the others' Listen addresses, as host:port. It does no harm that a server's own is among them, so that all
	// may have the same list. A server that is not there yet is tried again, once a second.
	Routes []string
	// TLS is used in both directions: it needs Certificates, RootCAs and ClientCAs. It is required where Listen is not on the
	// loopback interface, unless Insecure is set.
	TLS            *tls.Config
	User, Password string // the same at all of them; "": none
}

// Server is a NATS server that runs.
type Server struct {
	ns     *server.Server
	scheme string
	log    *slog.Logger
	begun  chan struct{} // closed when the server's own start has returned
	once   sync.Once
}

const (
	startLimit = 10 * time.Second
	handshake  = 10. // seconds that TLS may take; as long again for credentials
)

// Start starts a server and returns when it can be connected to. Wrong settings are InvalidArgument; an address that can't be
// listened on is Unavailable. ctx bounds Start only.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	opts, err := cfg.options()
	if err != nil {
		return nil, err
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("natsserver: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	s := &Server{ns: ns, scheme: "nats", log: cfg.Logger, begun: make(chan struct{})}
	if cfg.TLS != nil {
		s.scheme = "tls"
	}
	fatal := make(chan string, 1)
	ns.SetLoggerV2(bridge{cfg.Logger, fatal}, false, false, false)
	go func() {
		defer close(s.begun)
		ns.Start()
	}()
	if err := s.ready(ctx, fatal); err != nil {
		_ = s.Close()
		return nil, err
	}
	s.log.Info("natsserver: ready", "url", s.URL(), "cluster", s.ClusterAddr())
	return s, nil
}

// ready waits until the server can be connected to.
func (s *Server) ready(ctx context.Context, fatal <-chan string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for begun := s.begun; ; {
		select {
		case reason := <-fatal:
			return fmt.Errorf("natsserver: the server does not start: %s: %w", reason, errdefs.ErrUnavailable)
		case <-ctx.Done():
			return fmt.Errorf("natsserver: the server does not start: %w", ctx.Err())
		case <-begun: // the route listener may still be on its way
			begun = nil
		case <-time.After(time.Millisecond):
		}
		if begun == nil && len(fatal) == 0 && s.ns.ReadyForConnections(time.Millisecond) {
			return nil
		}
	}
}

// URL is where clients connect: nats://host:port or tls://host:port, "" if there is no listener. It is the address that was
// listened on, which is not one to connect to if Listen is all addresses.
func (s *Server) URL() string {
	if addr := s.ns.Addr(); addr != nil {
		return s.scheme + "://" + addr.String()
	}
	return ""
}

// ClusterAddr is where other servers of the cluster connect, as host:port, "" if there is none.
func (s *Server) ClusterAddr() string {
	if addr := s.ns.ClusterAddr(); addr != nil {
		return addr.String()
	}
	return ""
}

// Peers returns how many other servers of the cluster this one is connected to.
func (s *Server) Peers() int { return s.ns.NumRemotes() }

// Clients returns how many clients are connected.
func (s *Server) Clients() int { return s.ns.NumClients() }

// Close ends all connections and the server, and returns when nothing of it runs. A second Close returns nil.
func (s *Server) Close() error {
	s.once.Do(func() {
		<-s.begun // to stop what has not begun would leave half of it
		s.ns.Shutdown()
	})
	s.ns.WaitForShutdown()
	return nil
}

func (cfg Config) options() (*server.Options, error) {
	opts := &server.Options{
		DontListen: cfg.Listen == "", ClientAdvertise: cfg.Advertise, TLSConfig: cfg.TLS, TLS: cfg.TLS != nil,
		Username: cfg.User, Password: cfg.Password, Authorization: cfg.Token,
		NoSigs: true, MaxConn: cfg.MaxConnections, MaxPayload: 1 << 20,
		// All hosts connect at once when a server is back: their handshakes take time.
		TLSTimeout: handshake, AuthTimeout: 2 * handshake,
		// The topics of a host that has died must soon be nobody's.
		PingInterval: 5 * time.Second, MaxPingsOut: 2, WriteDeadline: 5 * time.Second,
	}
	if cfg.MaxPayload < 0 || cfg.MaxPayload > 8<<20 {
		return nil, invalid("Config.MaxPayload is %d, must be 0 to %d", cfg.MaxPayload, 8<<20) // NATS's own advice
	} else if cfg.MaxPayload > 0 {
		opts.MaxPayload = int32(cfg.MaxPayload)
	}
	if cfg.MaxConnections < 0 {
		return nil, invalid("Config.MaxConnections is %d, must be at least 0", cfg.MaxConnections)
	}
	if (cfg.User == "") != (cfg.Password == "") {
		return nil, invalid("Config.User and Config.Password: both or neither")
	}
	if cfg.User != "" && cfg.Token != "" {
		return nil, invalid("Config.Token and Config.User: not both")
	}
	if cfg.Listen != "" {
		known := cfg.User != "" || cfg.Token != "" || cfg.TLS != nil && cfg.TLS.ClientAuth == tls.RequireAndVerifyClientCert
		var err error
		if opts.Host, opts.Port, err = cfg.listen("Config.Listen", cfg.Listen, cfg.TLS != nil && known, "TLS and credentials"); err != nil {
			return nil, err
		}
		if len(opts.Host) > 0 && cfg.TLS != nil && len(cfg.TLS.Certificates) == 0 && cfg.TLS.GetCertificate == nil {
			return nil, invalid("Config.TLS has no certificate")
		}
	}
	if cfg.Cluster != nil {
		if cfg.Listen == "" { // the server would wait for its clients' listener before it listens for others
			return nil, invalid("Config.Cluster needs Config.Listen")
		}
		if err := cfg.cluster(opts); err != nil {
			return nil, err
		}
	}
	return opts, nil
}

func (cfg Config) cluster(opts *server.Options) error {
	c := cfg.Cluster
	if c.Name == "" || strings.Contains(c.Name, " ") {
		return invalid("Config.Cluster.Name is %.100q, must be a name without spaces", c.Name)
	}
	if (c.User == "") != (c.Password == "") {
		return invalid("Config.Cluster.User and Password: both or neither")
	}
	o := &opts.Cluster
	o.Name, o.Username, o.Password, o.ConnectBackoff = c.Name, c.User, c.Password, false
	o.PingInterval, o.MaxPingsOut = 5*time.Second, 2
	o.TLSTimeout, o.AuthTimeout = handshake, 2*handshake
	var err error
	if o.Host, o.Port, err = cfg.listen("Config.Cluster.Listen", c.Listen, c.TLS != nil, "TLS"); err != nil {
		return err
	}
	if c.TLS != nil {
		if c.TLS.RootCAs == nil || c.TLS.ClientCAs == nil || len(c.TLS.Certificates) == 0 && c.TLS.GetCertificate == nil {
			return invalid("Config.Cluster.TLS needs Certificates, RootCAs and ClientCAs: each server is the client of others too")
		}
		o.TLSConfig = c.TLS.Clone()
		o.TLSConfig.ClientAuth = tls.RequireAndVerifyClientCert
	}
	for i, route := range c.Routes {
		if host, _, err := net.SplitHostPort(route); err != nil || host == "" || strings.Contains(route, "@") {
			return invalid("Config.Cluster.Routes[%d] is not host:port", i)
		}
		u := &url.URL{Scheme: "nats-route", Host: route}
		if c.User != "" {
			u.User = url.UserPassword(c.User, c.Password)
		}
		opts.Routes = append(opts.Routes, u)
	}
	return nil
}

// listen takes an address apart. One that is not of the loopback interface must be safe.
func (cfg Config) listen(field, address string, safe bool, what string) (string, int, error) {
	host, text, err := net.SplitHostPort(address)
	port, wrong := strconv.ParseUint(text, 10, 16)
	addr, notIP := netip.ParseAddr(host)
	if err != nil || wrong != nil || notIP != nil && host != "localhost" {
		return "", 0, invalid("%s is %.100q, must be an IP address or localhost, and a port", field, address)
	}
	if host != "localhost" && !addr.IsLoopback() && !safe && !cfg.Insecure {
		return "", 0, invalid("%s is %.100q, which other machines can reach: that needs %s, or Config.Insecure", field, address, what)
	}
	if port == 0 {
		return host, server.RANDOM_PORT, nil
	}
	return host, int(port), nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("natsserver: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// bridge takes the server's log to a slog.Logger. What is only about the server's start and end is of level debug.
type bridge struct {
	log   *slog.Logger
	fatal chan<- string // the first reason why the server does not start
}

func (b bridge) Noticef(format string, v ...any) { b.log.Debug("natsserver: " + text(format, v)) }
func (b bridge) Warnf(format string, v ...any) {
	if strings.HasPrefix(format, "Plaintext passwords") {
		return // it is about passwords in a configuration file, and there is none
	}
	b.log.Warn("natsserver: " + text(format, v))
}
func (b bridge) Errorf(format string, v ...any) { b.log.Error("natsserver: " + text(format, v)) }
func (b bridge) Fatalf(format string, v ...any) {
	b.log.Error("natsserver: " + text(format, v))
	select {
	case b.fatal <- text(format, v):
	default:
	}
}

// The server is not asked for these.
func (b bridge) Debugf(string, ...any) {}
func (b bridge) Tracef(string, ...any) {}

func text(format string, v []any) string { return strings.TrimSpace(fmt.Sprintf(format, v...)) }
