package metadata

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute/guestdata"
)

// Source is where the face has its data from. Its methods are safe for concurrent use.
type Source interface {
	// Guest returns the machine that has the port. NotFound says that there is none.
	Guest(ctx context.Context, portID string) (guestdata.Guest, error)

	// Cluster returns the machines of a project for MPI: for each key pair, a line for each machine launched with it, in the
	// form "10.0.0.3 slots=2", where slots are virtual CPUs.
	Cluster(ctx context.Context, projectID string) (map[string][]string, error)
}

// Config is what a [Server] is made of.
type Config struct {
	Source Source // required

	// Resolve returns the id of the port that a connection comes from; required. It is called for every request, and goes by
	// the connection alone. Any error is told to the guest as 404.
	Resolve func(net.Conn) (portID string, err error)

	// RequireToken refuses (401) every request without a session token, of OpenStack's tree too, whose clients know of none.
	// False: a request may have one, and then it must be right.
	RequireToken bool

	// HopLimit is the IP time-to-live of an answer with a token, where the connection can be told (a method
	// SetHopLimit(int) error), so that no router in the guest passes it on; 0: 1, as on EC2.
	HopLimit int

	Vendor  json.RawMessage // vendor_data.json; nil: {}
	PerPort int             // connections that one port may have at once; more are closed; 0: 16
	Logger  *slog.Logger    // nil: silent
}

// Server answers guests. It is safe for concurrent use.
type Server struct {
	cfg    Config
	secret [32]byte // of the tokens of this Server
	count  connections
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Server, error) {
	bad := func(format string, args ...any) (*Server, error) {
		return nil, fmt.Errorf("metadata: Config."+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	switch {
	case cfg.Source == nil:
		return bad("Source is required")
	case cfg.Resolve == nil:
		return bad("Resolve is required")
	case cfg.HopLimit < 0 || cfg.HopLimit > 255:
		return bad("HopLimit is %d, must be 0 to 255", cfg.HopLimit)
	case cfg.PerPort < 0:
		return bad("PerPort is %d, must be at least 0", cfg.PerPort)
	case cfg.Vendor != nil && !json.Valid(cfg.Vendor):
		return bad("Vendor is not JSON")
	}
	if cfg.HopLimit == 0 {
		cfg.HopLimit = 1
	}
	if cfg.PerPort == 0 {
		cfg.PerPort = 16
	}
	if cfg.Vendor == nil {
		cfg.Vendor = json.RawMessage("{}")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg}
	_, _ = rand.Read(s.secret[:]) // never fails (crypto/rand)
	return s, nil
}

// Bounds of what one connection may cost.
const (
	maxHeader = 8 << 10 // bytes
	headTime  = 5 * time.Second
	readTime  = 10 * time.Second
	writeTime = 30 * time.Second
	idleTime  = 15 * time.Second
)

// Serve answers the connections of a listener until ctx ends or the listener fails, then closes it. When ctx has ended it returns
// nil. It may serve several listeners at once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	h := &http.Server{
		Handler: s, ConnContext: s.ConnContext, BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		MaxHeaderBytes: maxHeader, ReadHeaderTimeout: headTime, ReadTimeout: readTime, WriteTimeout: writeTime, IdleTimeout: idleTime,
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug), // of what guests do
	}
	stop := context.AfterFunc(ctx, func() { _ = h.Close() })
	defer stop()
	err := h.Serve(s.limit(l))
	_ = h.Close()
	if ctx.Err() != nil && (errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed)) {
		return nil
	}
	return err
}

type connKey struct{}

// ConnContext puts the connection where [Server.ServeHTTP] finds it: it is the ConnContext of an [http.Server].
func (s *Server) ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// resolve returns the port of a connection, and the connection as the listener gave it.
func (s *Server) resolve(ctx context.Context) (net.Conn, string, error) {
	c, _ := ctx.Value(connKey{}).(net.Conn)
	if counted, ok := c.(*countedConn); ok {
		c = counted.Conn
	}
	if c == nil {
		return nil, "", fmt.Errorf("metadata: the request has no connection: %w", errdefs.ErrNotFound)
	}
	port, err := s.cfg.Resolve(c)
	return c, port, err
}

// ServeHTTP answers one request. Its context must come from [Server.ConnContext].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, port, err := s.resolve(r.Context())
	if err != nil {
		s.cfg.Logger.Debug("metadata: a connection of no port", "remote", r.RemoteAddr, "error", err)
		refuse(w, http.StatusNotFound)
		return
	}
	if r.ContentLength != 0 { // nothing that is asked here has a body
		w.Header().Set("Connection", "close")
		refuse(w, http.StatusRequestEntityTooLarge)
		return
	}
	path := strings.FieldsFunc(r.URL.Path, func(c rune) bool { return c == '/' })
	if len(path) == 3 && path[0] == "latest" && path[1] == "api" && path[2] == "token" {
		s.token(w, r, conn, port)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed)
		return
	}
	if !s.authentic(r, port) {
		refuse(w, http.StatusUnauthorized)
		return
	}
	guest, err := s.cfg.Source.Guest(r.Context(), port)
	if err == nil {
		err = s.show(r.Context(), w, guest, path)
	}
	switch {
	case err == nil:
	case errdefs.IsNotFound(err):
		refuse(w, http.StatusNotFound)
	default:
		s.cfg.Logger.Warn("metadata: a request can't be answered", "port", port, "error", err)
		refuse(w, http.StatusInternalServerError)
	}
}

// refuse says no more than what the status says.
func refuse(w http.ResponseWriter, status int) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, http.StatusText(status), status)
}

// say sends a document.
func say(w http.ResponseWriter, kind string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(body) // to a guest that may be gone
}

const (
	plainText = "text/plain; charset=utf-8"
	jsonText  = "application/json"
	anything  = "application/octet-stream"
)

var errNoSuchPath = fmt.Errorf("metadata: no such path: %w", errdefs.ErrNotFound)

// show answers with what is at a path.
func (s *Server) show(ctx context.Context, w http.ResponseWriter, g guestdata.Guest, path []string) error {
	if len(path) > 0 && path[0] == "openstack" {
		return s.showOpenStack(w, g, path[1:])
	}
	return s.showEC2(ctx, w, g, path)
}
