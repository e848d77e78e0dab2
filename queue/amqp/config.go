package amqp

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

// Config is what a [Bus] is made of. Buses that are to reach each other have the same Prefix and Backlog.
type Config struct {
	// URL is where the broker is and who asks: amqp://user:password@host:port/vhost, or amqps:// for TLS. The user,
	// the password and the virtual host are as in URLs, with %2F for a slash. It is in no error and no log. Required.
	URL string

	// TLS is used with amqps; nil: the machine's certificate authorities and the host of the URL. It is not changed.
	TLS *tls.Config

	Prefix string // of all names in the broker, a topic of at most 32 bytes; "": dewpoint
	Name   string // of the connection, for the broker's lists; "": the name of the bus

	Workers  int // messages that one server handles at a time, and its prefetch; at most 65535; 0: 64
	Backlog  int // messages that wait for one topic, and fanned-out ones for one server; 0: 4096
	Async    int // CallAsync calls whose done function has not returned; 0: 4096
	Inflight int // messages sent that the broker has not confirmed; more wait; 0: 1024

	CallTimeout time.Duration // how long a call may take whose ctx has no deadline, and any sending; 0: 1 min
	SendWait    time.Duration // how long sending and Serve wait for a connection that is lost; 0: 5 s
	MaxBackoff  time.Duration // the longest pause between attempts to connect; 0: 5 s
	Heartbeat   time.Duration // from 1 s; a broker that is silent for three of them is lost; 0: 10 s

	Logger *slog.Logger // nil: silent
}

// broker is a URL taken apart.
type broker struct {
	address        string
	host, vhost    string
	user, password string
	secure         bool
	tls            *tls.Config
	dialTimeout    time.Duration
}

// check fills in the defaults.
func (cfg *Config) check() (broker, error) {
	invalid := func(format string, args ...any) (broker, error) {
		return broker{}, fmt.Errorf("amqp: Config."+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	for _, f := range []struct {
		name     string
		value    *int
		def, max int
	}{{"Workers", &cfg.Workers, 64, 65535}, {"Backlog", &cfg.Backlog, 4096, 1 << 30}, {"Async", &cfg.Async, 4096, 1 << 30},
		{"Inflight", &cfg.Inflight, 1024, 1 << 20}} {
		if *f.value < 0 || *f.value > f.max {
			return invalid("%s is %d, must be 0 to %d", f.name, *f.value, f.max)
		}
		if *f.value == 0 {
			*f.value = f.def
		}
	}
	for _, f := range []struct {
		name     string
		value    *time.Duration
		def, min time.Duration
	}{{"CallTimeout", &cfg.CallTimeout, time.Minute, 1}, {"SendWait", &cfg.SendWait, 5 * time.Second, 1},
		{"MaxBackoff", &cfg.MaxBackoff, 5 * time.Second, firstPause}, {"Heartbeat", &cfg.Heartbeat, 10 * time.Second, time.Second}} {
		if *f.value == 0 {
			*f.value = f.def
		}
		if *f.value < f.min {
			return invalid("%s is %s, must be at least %s", f.name, *f.value, f.min)
		}
	}
	if cfg.Prefix == "" {
		cfg.Prefix = "dewpoint"
	}
	if len(cfg.Prefix) > 32 || queue.CheckTopic(cfg.Prefix) != nil {
		return invalid("Prefix %.40q must be words of letters, digits, - and _, joined by dots, 32 bytes at most", cfg.Prefix)
	}
	if len(cfg.Name) > 200 {
		return invalid("Name has %d bytes, at most 200 are possible", len(cfg.Name))
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	uri, err := amqp091.ParseURI(cfg.URL)
	if err != nil { // whose text has the URL, and so the password
		return invalid("URL is not amqp://user:password@host:port/vhost or amqps://…")
	}
	at := broker{address: net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)), host: uri.Host, vhost: uri.Vhost,
		user: uri.Username, password: uri.Password, secure: uri.Scheme == "amqps", dialTimeout: 10 * time.Second}
	if !at.secure && cfg.TLS != nil {
		return invalid("TLS is set and URL does not begin with amqps")
	}
	if at.secure {
		if at.tls = cfg.TLS.Clone(); at.tls == nil {
			at.tls = &tls.Config{}
		}
		if at.tls.ServerName == "" {
			at.tls.ServerName = at.host
		}
	}
	return at, nil
}
