package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/etcd/internal/zaplog"
)

// Config is what a [Log] is made of. Either Client or Endpoints is required.
type Config struct {
	// Client is the caller's, used and not closed. It should have DialKeepAliveTime and DialKeepAliveTimeout set, without which a
	// member that vanishes is noticed late; and MaxCallSendMsgSize, if MaxBytes is above its default. Such a client does not say why
	// it has no connection, so a certificate that is refused is not told from an etcd that is down, and a batch that was
	// never sent not from one whose answer was lost.
	Client *clientv3.Client

	// Endpoints are the members' client URLs, "https://10.0.0.1:2379", or host and port; for a client that Open makes.
	Endpoints []string
	TLS       *tls.Config // of the client that Open makes; nil: as the endpoints' schemes say, with the system's roots
	Username  string      // and Password: for etcd's authentication; both or neither
	Password  string

	// Prefix is what all keys of the log begin with; it must end in "/" and no other log, or use of etcd, may have keys below
	// it. "": "dewpoint/".
	Prefix string

	// MaxOps is the servers' --max-txn-ops; 0: 128, which is theirs. MaxBytes is their --max-request-bytes; 0: 1.5 MiB, which is
	// theirs. A batch that would be over one of them is refused before it is sent.
	MaxOps   int
	MaxBytes int

	// History is how many batches a follower may fall behind before it is given a snapshot; 0: 1024.
	History int

	// Timeout is how long one request may take, how long Commit goes on trying when etcd does not answer, and how long it then
	// tries to learn what became of a batch; 0: 10 s. It is at most a minute.
	Timeout time.Duration

	// SingleKey has each batch be one key, so that no transaction has more, for servers that take no others: kine. All logs on a
	// prefix must have the same. MaxOps is not used then, and Compact must be 0.
	SingleKey bool

	// Compact, if it is not 0, has the log compact etcd: every Compact, it has it forget what is older than that. It is for an
	// etcd that has no other use and no --auto-compaction; several logs may do it at once. At least one second.
	Compact time.Duration

	Logger *slog.Logger // nil: silent

	every, retain state.Revision // of tests: see journal
}

// Defaults, and the bounds of what may be configured.
const (
	defaultPrefix   = "dewpoint/"
	defaultMaxOps   = 128
	defaultMaxBytes = 3 << 19
	defaultHistory  = 1024
	defaultTimeout  = 10 * time.Second

	leastMaxOps   = 4
	leastMaxBytes = 128 << 10
	mostTimeout   = time.Minute
)

func (cfg *Config) check() error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("state/etcd: Config."+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	if cfg.Prefix == "" {
		cfg.Prefix = defaultPrefix
	}
	if cfg.MaxOps == 0 {
		cfg.MaxOps = defaultMaxOps
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = defaultMaxBytes
	}
	if cfg.History == 0 {
		cfg.History = defaultHistory
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Client == nil && len(cfg.Endpoints) == 0:
		return refuse("Client or Config.Endpoints is required")
	case cfg.Client != nil && (len(cfg.Endpoints) > 0 || cfg.TLS != nil || cfg.Username != "" || cfg.Password != ""):
		return refuse("Client is set, so Endpoints, TLS, Username and Password must not be: they are the client's own")
	case (cfg.Username == "") != (cfg.Password == ""):
		return refuse("Username and Config.Password: one is set without the other")
	case !strings.HasSuffix(cfg.Prefix, "/"):
		return refuse("Prefix is %q, must end in /", cfg.Prefix)
	case len(cfg.Prefix) > 1024:
		return refuse("Prefix has %d bytes, the limit is 1024", len(cfg.Prefix))
	case cfg.MaxOps < leastMaxOps:
		return refuse("MaxOps is %d, must be at least %d", cfg.MaxOps, leastMaxOps)
	case cfg.MaxBytes < leastMaxBytes:
		return refuse("MaxBytes is %d, must be at least %d", cfg.MaxBytes, leastMaxBytes)
	case cfg.History < 0:
		return refuse("History is %d, must be at least 0", cfg.History)
	case cfg.Timeout < 0 || cfg.Timeout > mostTimeout:
		return refuse("Timeout is %v, must be between 0 and %v", cfg.Timeout, mostTimeout)
	case cfg.Compact != 0 && cfg.Compact < time.Second:
		return refuse("Compact is %v, must be 0 or at least 1s", cfg.Compact)
	case cfg.Compact != 0 && cfg.SingleKey:
		return refuse("Compact is %v, must be 0 with SingleKey: kine compacts by itself, see its --compact-interval", cfg.Compact)
	}
	return nil
}

// Log implements state.Log.
type Log struct {
	cfg    Config
	keys   keys
	client *clientv3.Client
	logger *slog.Logger

	journal *journal      // that of Config.SingleKey, or nil
	turns   chan struct{} // one in it for each commit under way
	current chan *session // holds the session, or nil, when nobody looks at it

	closing chan struct{} // closed when Close begins: followers end, nothing new begins
	ctx     context.Context
	stop    context.CancelFunc // ends ctx, when what was under way at Close is over
	close   sync.Once

	mu     sync.Mutex // guards closed, and that nothing is added to work after it
	closed bool
	work   sync.WaitGroup // commits under way, and goroutines of followers; not what followers do with what they get
	own    sync.WaitGroup // the goroutines of the log itself
}

// Open connects to etcd and returns when it has answered. While etcd can't be reached, Open goes on trying, with growing pauses and
// a warning to Config.Logger each time, until ctx ends. What waiting won't help is an error at once: wrong credentials or a
// certificate that the other side does not take (Unauthenticated), a prefix that the user may not read (PermissionDenied), keys
// below the prefix that something else has written (InvalidArgument).
func Open(ctx context.Context, cfg Config) (*Log, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, keys: keys{cfg.Prefix}, client: cfg.Client, logger: cfg.Logger, turns: make(chan struct{}, maxTurns),
		current: make(chan *session, 1), closing: make(chan struct{})}
	l.current <- nil
	l.ctx, l.stop = context.WithCancel(context.Background())
	if cfg.SingleKey {
		l.journal = newJournal(l)
	}
	if err := l.connect(ctx); err != nil {
		l.stop()
		if l.client != nil && l.client != cfg.Client {
			_ = l.client.Close()
		}
		return nil, err
	}
	if cfg.Compact > 0 {
		l.own.Go(l.compact)
	}
	if l.journal != nil {
		l.own.Go(l.journal.listen)
	}
	return l, nil
}

// connect makes the client, if there is none, and waits until etcd answers.
func (l *Log) connect(ctx context.Context) error {
	var pause pause
	for {
		err := l.dial()
		switch {
		case err != nil:
		case l.journal != nil:
			err = l.journal.open(ctx)
		default:
			_, _, err = l.head(ctx)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case kindOf(err) == refused:
			return foreign(err)
		}
		l.logger.Warn("state/etcd: etcd does not answer", "error", err, "again in", pause.next())
		if !pause.wait(ctx, l.closing) {
			return ctx.Err()
		}
	}
}

// dial makes the client. It logs in, so it may fail.
func (l *Log) dial() error {
	if l.client != nil {
		return nil
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: l.cfg.Endpoints, TLS: l.cfg.TLS, Username: l.cfg.Username, Password: l.cfg.Password,
		DialTimeout: l.cfg.Timeout, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
		MaxCallSendMsgSize: l.cfg.MaxBytes + 512<<10,
		DialOptions:        []grpc.DialOption{grpc.WithChainUnaryInterceptor(failFast), grpc.WithConnectParams(reconnect())},
		MaxUnaryRetries:    3, // the log has pauses of its own
		Logger:             zaplog.New(l.logger, "state/etcd: client: ", slog.LevelError, nil),
	})
	if err != nil {
		return err
	}
	l.client = client
	return nil
}

// failFast has a request that there is no connection for fail with the reason, where etcd's client would have it wait without a word
// until its time is over.
func failFast(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(ctx, method, req, reply, conn, append(opts, grpc.WaitForReady(false))...)
}

// reconnect has the client look for members that were away more often than gRPC would by itself.
func reconnect() grpc.ConnectParams {
	p := grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 5 * time.Second}
	p.Backoff.BaseDelay, p.Backoff.MaxDelay = 100*time.Millisecond, 3*time.Second
	return p
}

// enter begins a commit or a goroutine of a follower; leave ends it.
func (l *Log) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.work.Add(1)
	return true
}

func (l *Log) leave() { l.work.Done() }

// Close implements state.Log. It waits for the commits that are under way, for Config.Timeout or so at most if etcd does not answer.
func (l *Log) Close() error {
	var err error
	l.close.Do(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		close(l.closing)
		l.work.Wait()
		l.endSession()
		l.stop()
		l.own.Wait()
		if l.client != l.cfg.Client {
			if err = l.client.Close(); errors.Is(err, context.Canceled) {
				err = nil
			}
		}
	})
	return err
}

var _ state.Limited = (*Log)(nil)
