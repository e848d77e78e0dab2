package rabbittest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dewpoint-cloud/dewpoint/internal/freeport"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// Config is what a [Broker] is made of.
type Config struct {
	Dir string // required; an existing directory for all that the broker writes

	// TLS, if all are set, makes the broker listen with TLS too; they are paths of PEM files.
	CAFile, CertFile, KeyFile string

	// Lines are added to rabbitmq.conf.
	Lines []string
}

// Broker is a RabbitMQ on loopback ports. Its methods must not be used at the same time, except URL and TLSURL.
type Broker struct {
	cfg            Config
	port, tls      int
	dist, mapper   int
	user, password string
	epmd, server   *process
}

// where Debian's package has the scripts that don't change the user, and the same of RabbitMQ's own.
var places = [...]string{"/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin"}

// Need ends the test where brokers, which take seconds to start, are not for it: it is skipped by hand, and failed where everything is
// required and the machine has no RabbitMQ.
func Need(t testing.TB) {
	t.Helper()
	testneed.Slow(t)
	testneed.Tools(t, "epmd", "erl")
	if script("rabbitmq-server") == "" {
		testneed.Missing(t, "needs the package rabbitmq-server")
	}
}

func script(name string) string {
	for _, dir := range places {
		if path := filepath.Join(dir, name); exec.Command("test", "-x", path).Run() == nil {
			return path
		}
	}
	return ""
}

// Start starts a broker and returns when it takes connections. ctx bounds the start alone.
func Start(ctx context.Context, cfg Config) (*Broker, error) {
	ports, err := freeport.Find("127.0.0.1", 4)
	if err != nil {
		return nil, fmt.Errorf("rabbittest: %w", err)
	}
	b := &Broker{cfg: cfg, port: ports[0], tls: ports[1], dist: ports[2], mapper: ports[3],
		user: "u" + rand.Text()[:8], password: rand.Text()}
	if err := b.configure(); err != nil {
		return nil, err
	}
	epmd := exec.Command("epmd", "-port", strconv.Itoa(b.mapper), "-address", "127.0.0.1")
	epmd.Env = b.env()
	if b.epmd, err = run(epmd, filepath.Join(cfg.Dir, "epmd.out")); err != nil {
		return nil, err
	}
	if err := b.Restart(ctx); err != nil {
		b.Stop()
		return nil, err
	}
	return b, nil
}

// URL is how to reach the broker without TLS; it has the credentials in it.
func (b *Broker) URL() string { return b.url("amqp", "127.0.0.1", b.port) }

// TLSURL is how to reach it with TLS, by the name localhost.
func (b *Broker) TLSURL() string { return b.url("amqps", "localhost", b.tls) }

func (b *Broker) url(scheme, host string, port int) string {
	u := url.URL{Scheme: scheme, User: url.UserPassword(b.user, b.password), Host: net.JoinHostPort(host, strconv.Itoa(port)), Path: "/"}
	return u.String()
}

// Kill ends the broker at once, as a crash would, and returns when the process has ended. [Broker.Restart] brings it back
// with what it had on its disk.
func (b *Broker) Kill() {
	if b.server != nil {
		b.server.kill()
		b.server = nil
	}
}

// Restart starts the broker again after a Kill and returns when it takes connections.
func (b *Broker) Restart(ctx context.Context) error {
	if b.server != nil {
		return errors.New("rabbittest: the broker runs")
	}
	cmd := exec.Command(script("rabbitmq-server"))
	cmd.Env, cmd.Dir = b.env(), b.cfg.Dir
	server, err := run(cmd, b.logFile())
	if err != nil {
		return err
	}
	b.server = server
	for !b.answers() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("rabbittest: the broker does not answer: %w\n%s", ctx.Err(), b.Log())
		case <-server.ended:
			b.server = nil
			return fmt.Errorf("rabbittest: the broker ended: %s", b.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// Stop ends the broker and its port mapper. What it kept in its directory stays there.
func (b *Broker) Stop() {
	b.Kill()
	if b.epmd != nil {
		b.epmd.kill()
		b.epmd = nil
	}
}

// Control runs rabbitmqctl and returns what it prints.
func (b *Broker) Control(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, script("rabbitmqctl"), append([]string{"-q", "-n", b.node()}, args...)...)
	cmd.Env, cmd.Dir = b.env(), b.cfg.Dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("rabbittest: rabbitmqctl %s: %w: %s", args[0], err, out)
	}
	return string(out), nil
}

// Log returns the end of what the broker has printed.
func (b *Broker) Log() string {
	text, err := os.ReadFile(b.logFile())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

func (b *Broker) logFile() string { return filepath.Join(b.cfg.Dir, "broker.out") }
func (b *Broker) node() string    { return fmt.Sprintf("test%d@localhost", b.port) }

// answers tells whether the broker speaks AMQP 0-9-1: it begins with connection.start, a method frame on channel 0.
func (b *Broker) answers() bool {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(b.port)), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	var start [1]byte
	if _, err := conn.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return false
	}
	_, err = io.ReadFull(conn, start[:])
	return err == nil && start[0] == 1
}

// configure writes the broker's files.
func (b *Broker) configure() error {
	var conf bytes.Buffer
	fmt.Fprintf(&conf, "listeners.tcp.1 = 127.0.0.1:%d\ndefault_user = %s\ndefault_pass = %s\n", b.port, b.user, b.password)
	fmt.Fprintf(&conf, "log.console = true\nlog.console.level = warning\nlog.file = false\ndisk_free_limit.absolute = 1MB\nmnesia_table_loading_retry_limit = 1\n")
	if b.cfg.CAFile != "" && b.cfg.CertFile != "" && b.cfg.KeyFile != "" {
		fmt.Fprintf(&conf, "listeners.ssl.1 = 127.0.0.1:%d\nssl_options.cacertfile = %s\nssl_options.certfile = %s\nssl_options.keyfile = %s\nssl_options.verify = verify_none\n",
			b.tls, b.cfg.CAFile, b.cfg.CertFile, b.cfg.KeyFile)
	}
	for _, line := range b.cfg.Lines {
		fmt.Fprintln(&conf, line)
	}
	for name, text := range map[string]string{"rabbitmq.conf": conf.String(), "enabled_plugins": "[].\n", "env.conf": "",
		".erlang.cookie": rand.Text()} {
		if err := os.WriteFile(filepath.Join(b.cfg.Dir, name), []byte(text), 0o400); err != nil {
			return fmt.Errorf("rabbittest: %w", err)
		}
	}
	return nil
}

// env is the environment of all programs: nothing of the machine's RabbitMQ, and only loopback addresses.
func (b *Broker) env() []string {
	in := func(name string) string { return filepath.Join(b.cfg.Dir, name) }
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.cfg.Dir, "LANG=C.UTF-8", "RUNNING_UNDER_SYSTEMD=1",
		"ERL_EPMD_ADDRESS=127.0.0.1", "ERL_EPMD_PORT=" + strconv.Itoa(b.mapper), "ERL_CRASH_DUMP=/dev/null",
		"RABBITMQ_NODENAME=" + b.node(), "RABBITMQ_DIST_PORT=" + strconv.Itoa(b.dist),
		"RABBITMQ_MNESIA_BASE=" + in("mnesia"), "RABBITMQ_LOG_BASE=" + in("log"), "RABBITMQ_LOGS=-",
		"RABBITMQ_CONFIG_FILE=" + in("rabbitmq"), "RABBITMQ_CONF_ENV_FILE=" + in("env.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + in("enabled_plugins"), "RABBITMQ_PID_FILE=" + in("pid"),
		"RABBITMQ_GENERATED_CONFIG_DIR=" + in("config"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}",
		"RABBITMQ_CTL_ERL_ARGS=+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}"}
	return env
}

// process is one that was started here.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func run(cmd *exec.Cmd, log string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("rabbittest: %w", err)
	}
	defer out.Close() // the process has it
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = out, out, attributes()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("rabbittest: starting %s: %w", strings.Join(cmd.Args, " "), err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait()
	}()
	return p, nil
}

// kill ends the process with the helpers that it has started, and waits for its end.
func (p *process) kill() {
	killGroup(p.cmd.Process.Pid)
	<-p.ended
}
