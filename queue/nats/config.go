package nats

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// Config is what a [Bus] is made of. Either URLs or InProcess is required.
type Config struct {
	// URLs are NATS servers of one cluster, as nats://host:port, or as tls://host:port for one that must be encrypted; the
	// port is 4222 if it is left out. The bus connects to any of them, and later also to those that they tell of.
	// Credentials are not part of a URL here: they would end in logs.
	URLs []string
	// InProcess is a server in this process, of package natsserver or of NATS's own; it needs no listener and no TLS.
	InProcess InProcess

	// TLS says whom to believe, and with ClientCertificates who the bus is. nil: encrypted if a URL or the server wants it, and
	// checked against the system's authorities.
	TLS *tls.Config
	// Insecure allows servers on other machines without TLS: everyone on the way can read and forge messages, and read the
	// credentials.
	Insecure bool

	// At most one of these kinds of credentials. None is ever in a log or an error.
	User, Password  string
	Token           string
	NKeyFile        string // holds an NKey seed; read at each connection
	CredentialsFile string // holds a user's JWT and NKey seed, as NATS's tools write them; read at each connection

	Prefix string // the first word, or words joined by dots, of all subjects: one for each cloud on a NATS server; "": "dewpoint"
	Name   string // of the connection, as the NATS server shows it; "": the Prefix

	// Background makes Open return at once. What keeps the bus from connecting, wrong credentials too, is logged, and tried
	// again with back-off, for ever.
	Background bool

	Workers      int // messages that one server handles at a time; 0: 64
	Backlog      int // messages that wait for one server; 0: 4096
	BacklogBytes int // bytes of the messages that wait for one server; 0: 64 MiB; at least 1 MiB
	Async        int // CallAsync calls whose done function has not returned; 0: 4096

	CallTimeout  time.Duration // how long a call may take whose ctx has no deadline; 0: 1 min
	CallWait     time.Duration // how long a call waits for a connection, before it is sent; 0: 5 s; 1 ms is as good as not at all
	DialTimeout  time.Duration // how long it may take to connect to one server; 0: 5 s
	PingInterval time.Duration // how often a silent connection is tried; after three times without an answer it is lost; 0: 5 s
	MaxWait      time.Duration // between attempts to connect: the wait begins at 100 ms, doubles up to this, and half of it is random; 0: 5 s

	Logger *slog.Logger // nil: silent
}

// InProcess connects to a server in this process.
type InProcess interface {
	InProcessConn() (net.Conn, error)
}

// String returns what may be shown of a Config.
func (c Config) String() string {
	how := "none"
	switch {
	case c.User != "" || c.Password != "":
		how = "password"
	case c.Token != "":
		how = "token"
	case c.NKeyFile != "":
		how = "NKey"
	case c.CredentialsFile != "":
		how = "JWT"
	}
	return fmt.Sprintf("nats.Config{%d URLs, in process: %v, credentials: %s, prefix: %q}", len(c.URLs), c.InProcess != nil, how, c.Prefix)
}

// GoString is the same.
func (c Config) GoString() string { return c.String() }

// LogValue is the same.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// complete fills in what is 0, and returns InvalidArgument for what can't be. It says nothing of a value that may be secret.
func (c *Config) complete() error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("nats: Config."+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	for _, f := range []struct {
		name            string
		value           *int
		least, standard int
	}{{"Workers", &c.Workers, 1, 64}, {"Backlog", &c.Backlog, 1, 4096}, {"BacklogBytes", &c.BacklogBytes, 1 << 20, 64 << 20}, {"Async", &c.Async, 1, 4096}} {
		if *f.value == 0 {
			*f.value = f.standard
		}
		if *f.value < f.least {
			return wrong("%s is %d, must be 0 or at least %d", f.name, *f.value, f.least)
		}
	}
	for _, f := range []struct {
		name     string
		value    *time.Duration
		standard time.Duration
	}{{"CallTimeout", &c.CallTimeout, time.Minute}, {"CallWait", &c.CallWait, 5 * time.Second}, {"DialTimeout", &c.DialTimeout, 5 * time.Second},
		{"PingInterval", &c.PingInterval, 5 * time.Second}, {"MaxWait", &c.MaxWait, 5 * time.Second}} {
		if *f.value == 0 {
			*f.value = f.standard
		}
		if *f.value < time.Millisecond {
			return wrong("%s is %s, must be 0 or at least 1 ms", f.name, *f.value)
		}
	}
	if c.Prefix == "" {
		c.Prefix = "dewpoint"
	}
	if queue.CheckTopic(c.Prefix) != nil {
		return wrong("Prefix is %.200q, must be 1 to %d bytes: words of letters, digits, - and _, joined by dots", c.Prefix, queue.MaxTopic)
	}
	if c.Name == "" {
		c.Name = c.Prefix
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if (len(c.URLs) == 0) == (c.InProcess == nil) {
		return wrong("URLs or InProcess is required, and not both")
	}
	for i, text := range c.URLs {
		u, err := url.Parse(text) // the error would quote it
		switch {
		case err != nil, u.Host == "", u.Hostname() == "", u.Path != "", u.RawQuery != "", u.Fragment != "", u.Scheme != "nats" && u.Scheme != "tls":
			return wrong("URLs[%d] is not nats://host:port or tls://host:port", i)
		case u.User != nil:
			return wrong("URLs[%d] has credentials: they belong in User and Password, or Token", i)
		case c.TLS == nil && u.Scheme != "tls" && !c.Insecure && !loopback(u.Hostname()):
			return wrong("URLs[%d] is on another machine and not encrypted: set TLS, use tls://, or set Insecure", i)
		}
	}
	kinds := 0
	for _, set := range []bool{c.User != "" || c.Password != "", c.Token != "", c.NKeyFile != "", c.CredentialsFile != ""} {
		if set {
			kinds++
		}
	}
	if kinds > 1 {
		return wrong("User with Password, Token, NKeyFile, CredentialsFile: at most one of them")
	}
	return nil
}

// loopback tells whether a host is this machine by its name.
func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
