package cluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/auth/ca"
	"github.com/dewpoint-cloud/dewpoint/image"
)

// HandlerConfig is what a handler is made of.
type HandlerConfig struct {
	CA *ca.CA // signs the nodes' certificates. Required

	// Settings returns what a node must know to be one, such as where the store and the bus are, as JSON. It is told to those
	// who have joined and may hold secrets. Required.
	Settings func(ctx context.Context) (json.RawMessage, error)

	// Open returns the content of an image's upload; an unknown one is NotFound. Required.
	Open func(ctx context.Context, imageID string, upload uint64) (image.Blob, error)

	// Put takes the content of an upload of an image that the host makes: image.Service.Receive. nil: nodes bring none.
	Put func(ctx context.Context, hostID, imageID string, upload uint64, content io.Reader) (image.Stored, error)

	// Admit is asked before a node gets a certificate, the first or a further one; its error is the node's answer. nil: every
	// node that proves a token, or has a certificate, is welcome.
	Admit func(ctx context.Context, hostID, name string) error

	Logger *slog.Logger // nil: silent
}

// maxRequest is how large a request may be, in bytes.
const maxRequest = 16 << 10

type handler struct {
	cfg HandlerConfig
	mux http.ServeMux
}

type (
	joinRequest struct {
		Token   string `json:"token,omitempty"`
		HostID  string `json:"host_id,omitempty"`
		Name    string `json:"name,omitempty"`
		Request string `json:"signing_request"`
	}
	joinAnswer struct {
		Certificate string          `json:"certificate"`
		Authority   string          `json:"authority"`
		Settings    json.RawMessage `json:"settings"`
	}
	putAnswer struct {
		Size   int64  `json:"size"`
		SHA256 string `json:"sha256"`
	}
	failure struct {
		Error string `json:"error"`
		Class string `json:"class"`
	}
)

// NewHandler checks the configuration. The handler is safe for concurrent use, starts nothing, and bounds what it reads; time
// limits are those of the http.Server that it is served by.
func NewHandler(cfg HandlerConfig) (http.Handler, error) {
	for _, f := range []struct {
		name    string
		missing bool
	}{{"CA", cfg.CA == nil}, {"Settings", cfg.Settings == nil}, {"Open", cfg.Open == nil}} {
		if f.missing {
			return nil, fmt.Errorf("cluster: HandlerConfig.%s is required: %w", f.name, errdefs.ErrInvalidArgument)
		}
	}
	if cfg.Admit == nil {
		cfg.Admit = func(context.Context, string, string) error { return nil }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	h := &handler{cfg: cfg}
	h.mux.HandleFunc("POST /v1/join", h.join)
	h.mux.HandleFunc("POST /v1/renew", h.renew)
	h.mux.HandleFunc("GET /v1/images/{id}/{upload}", h.image)
	if cfg.Put != nil {
		h.mux.HandleFunc("PUT /v1/images/{id}/{upload}", h.put)
	}
	return &h.mux, nil
}

// TLS returns what a server of the handler presents: pair, which authority must have issued for the names that nodes reach it under,
// and the authority itself. Clients that have a certificate of the authority are known by it; others can join and no more.
func TLS(authority *ca.CA, pair ca.Pair) (*tls.Config, error) {
	cert, err := tls.X509KeyPair(append(append([]byte(nil), pair.Cert...), authority.PEM()...), pair.Key)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: authority.Pool(), ClientAuth: tls.VerifyClientCertIfGiven,
		MinVersion: tls.VersionTLS13}, nil
}

func (h *handler) join(w http.ResponseWriter, r *http.Request) {
	var req joinRequest
	if err := read(w, r, &req); err != nil {
		h.fail(w, r, err)
		return
	}
	if err := h.cfg.CA.CheckToken(req.Token); err != nil {
		h.fail(w, r, err)
		return
	}
	if uuid.Validate(req.HostID) != nil || len(req.HostID) != 36 {
		h.fail(w, r, fmt.Errorf("cluster: host_id is %.40q, must be a UUID: %w", req.HostID, errdefs.ErrInvalidArgument))
		return
	}
	if len(req.Name) == 0 || len(req.Name) > 253 {
		h.fail(w, r, fmt.Errorf("cluster: name has %d bytes, must have 1 to 253: %w", len(req.Name), errdefs.ErrInvalidArgument))
		return
	}
	h.sign(w, r, req.HostID, req.Name, req.Request)
}

func (h *handler) renew(w http.ResponseWriter, r *http.Request) {
	hostID, err := node(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	var req joinRequest
	if err := read(w, r, &req); err != nil {
		h.fail(w, r, err)
		return
	}
	h.sign(w, r, hostID, "", req.Request)
}

// certPrefix begins the common name of a node's certificate; its host's id follows.
const certPrefix = "node/"

// node returns the host id of the client, by its certificate.
func node(r *http.Request) (hostID string, err error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return "", fmt.Errorf("cluster: a certificate of the cloud's authority is needed: %w", errdefs.ErrUnauthenticated)
	}
	hostID, ok := strings.CutPrefix(r.TLS.VerifiedChains[0][0].Subject.CommonName, certPrefix)
	if !ok {
		return "", fmt.Errorf("cluster: the certificate is not a node's: %w", errdefs.ErrPermissionDenied)
	}
	return hostID, nil
}

func (h *handler) sign(w http.ResponseWriter, r *http.Request, hostID, name, request string) {
	if err := h.cfg.Admit(r.Context(), hostID, name); err != nil {
		h.fail(w, r, err)
		return
	}
	cert, err := h.cfg.CA.Sign([]byte(request), ca.Request{Name: certPrefix + hostID})
	if err != nil {
		h.fail(w, r, err)
		return
	}
	settings, err := h.cfg.Settings(r.Context())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.cfg.Logger.InfoContext(r.Context(), "cluster: a node has its certificate", "host", hostID, "name", name, "from", r.RemoteAddr)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(joinAnswer{string(cert), string(h.cfg.CA.PEM()), settings})
}

// upload returns the number of an upload, and the host that asks.
func upload(r *http.Request) (hostID string, n uint64, err error) {
	if hostID, err = node(r); err != nil {
		return "", 0, err
	}
	if n, err = strconv.ParseUint(r.PathValue("upload"), 10, 64); err != nil {
		return "", 0, fmt.Errorf("cluster: the upload %.20q is not a number: %w", r.PathValue("upload"), errdefs.ErrInvalidArgument)
	}
	return hostID, n, nil
}

// put takes the content of an image. Who takes it bounds it; one that breaks off is an error of its reader.
func (h *handler) put(w http.ResponseWriter, r *http.Request) {
	hostID, n, err := upload(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	stored, err := h.cfg.Put(r.Context(), hostID, r.PathValue("id"), n, r.Body)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(putAnswer{stored.Size, stored.SHA256})
}

func (h *handler) image(w http.ResponseWriter, r *http.Request) {
	_, upload, err := upload(r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	blob, err := h.cfg.Open(r.Context(), r.PathValue("id"), upload)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer blob.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(blob.Size(), 10))
	if _, err := io.Copy(w, blob); err != nil && r.Context().Err() == nil {
		h.cfg.Logger.WarnContext(r.Context(), "cluster: an image broke off on its way", "image", r.PathValue("id"), "error", err)
		panic(http.ErrAbortHandler) // so that the client sees it too
	}
}

// read decodes the JSON of a request.
func read(w http.ResponseWriter, r *http.Request, into any) error {
	body := http.MaxBytesReader(w, r.Body, maxRequest)
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return fmt.Errorf("cluster: the request has more than %d bytes: %w", maxRequest, errdefs.ErrInvalidArgument)
		}
		return fmt.Errorf("cluster: the request is not what it should be: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// classes are those that an answer carries, each with its status.
var classes = []struct {
	name   string
	err    error
	status int
}{
	{"invalid argument", errdefs.ErrInvalidArgument, http.StatusBadRequest},
	{"unauthenticated", errdefs.ErrUnauthenticated, http.StatusUnauthorized},
	{"permission denied", errdefs.ErrPermissionDenied, http.StatusForbidden},
	{"not found", errdefs.ErrNotFound, http.StatusNotFound},
	{"already exists", errdefs.ErrAlreadyExists, http.StatusConflict},
	{"failed precondition", errdefs.ErrFailedPrecondition, http.StatusPreconditionFailed},
	{"aborted", errdefs.ErrAborted, http.StatusConflict},
	{"resource exhausted", errdefs.ErrResourceExhausted, http.StatusInsufficientStorage},
	{"unavailable", errdefs.ErrUnavailable, http.StatusServiceUnavailable},
	{"internal", errdefs.ErrInternal, http.StatusInternalServerError},
}

func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	class := classes[len(classes)-1]
	for _, c := range classes {
		if errors.Is(err, c.err) {
			class = c
			break
		}
	}
	h.cfg.Logger.WarnContext(r.Context(), "cluster: refused", "request", r.URL.Path, "from", r.RemoteAddr, "error", err)
	text := err.Error()
	if class.err == errdefs.ErrInternal {
		text = "cluster: something went wrong; the controller's log has it"
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(class.status)
	_ = json.NewEncoder(w).Encode(failure{text, class.name})
}
