package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/api/cluster"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/auth/ca"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/queue/nats/natsserver"
	"github.com/dewpoint-cloud/dewpoint/state/etcd/etcdserver"
)

// tokenLife is how long a token that is printed can be used.
const tokenLife = 24 * time.Hour

// credentialsFile is where a process keeps what makes it one of the cloud; the commands that ask the cloud use it too.
func credentialsFile(o options) string { return filepath.Join(o.dir, "cluster.json") }

// runController takes requests, and is what nodes join.
func runController(ctx context.Context, o options, w io.Writer) (err error) {
	s := &screen{w: w, start: time.Now()}
	logger := o.logger(os.Stderr)
	if err := alien(recordsFile(o), "a cloud on one machine"); err != nil {
		return err
	}
	if err := os.MkdirAll(o.dir, 0o711); err != nil {
		return err
	}
	authority, err := ca.Open(ca.Config{Dir: filepath.Join(o.dir, "ca")})
	if err != nil {
		return err
	}
	host, _, _ := net.SplitHostPort(o.listen)
	pair, err := authority.Issue(ca.Request{Name: "controller", Hosts: []string{host, "127.0.0.1", "::1", "localhost"}})
	if err != nil {
		return err
	}
	own := cluster.Credentials{Address: o.listen, Authority: authority.PEM(), Certificate: pair.Cert, Key: pair.Key}
	to := settings{Etcd: o.etcd, Kine: o.kine, Bus: o.bus}
	var opened closers
	defer func() { err = errors.Join(err, opened.close()) }()
	if len(to.Etcd) == 0 {
		member, err := startEtcd(ctx, o, host, own, logger)
		if err != nil {
			return err
		}
		opened.add(member.Close)
		to.Etcd = member.Endpoints()
		s.print("store: etcd at %s", &to.Etcd)
	}
	if to.Bus == "" {
		server, err := startNATS(ctx, host, own, logger)
		if err != nil {
			return err
		}
		opened.add(server.Close)
		to.Bus = server.URL()
		s.print("bus: NATS at %s", server.URL())
	}
	if own.Settings, err = json.Marshal(to); err != nil {
		return err
	}
	if err := own.Save(credentialsFile(o)); err != nil {
		return err
	}
	self, err := cluster.NewNode(cluster.NodeConfig{Credentials: own})
	if err != nil {
		return err
	}
	cfg, closeLinks, err := connect(ctx, self, logger)
	if err != nil {
		return err
	}
	opened.add(closeLinks)
	cfg.Dir = filepath.Join(o.dir, "cloud")
	cloud, err := dewpoint.New(cfg)
	if err != nil {
		return err
	}
	return during(ctx, cloud, func(ctx context.Context, services *dewpoint.Services) error {
		if _, err := furnish(auth.NewContext(ctx, auth.Admin(projectName)), o, services); err != nil {
			return err
		}
		return answer(ctx, o, s, authority, own, services)
	})
}

// answer serves nodes that join, and those that have.
func answer(ctx context.Context, o options, s *screen, authority *ca.CA, own cluster.Credentials, services *dewpoint.Services) error {
	logger := o.logger(os.Stderr)
	h, err := cluster.NewHandler(cluster.HandlerConfig{CA: authority, Logger: logger,
		Settings: func(context.Context) (json.RawMessage, error) { return own.Settings, nil },
		Open: func(ctx context.Context, id string, upload uint64) (image.Blob, error) {
			img, blob, err := services.Images.Download(auth.NewContext(ctx, auth.Admin("")), id)
			if err != nil {
				return nil, err
			}
			if img.Upload != upload {
				return nil, errors.Join(blob.Close(), fmt.Errorf("image %s has no upload %d: %w", id, upload, errdefs.ErrNotFound))
			}
			return blob, nil
		},
		Put: services.Images.Receive})
	if err != nil {
		return err
	}
	t, err := cluster.TLS(authority, ca.Pair{Cert: own.Certificate, Key: own.Key})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("-listen: %w", err)
	}
	server := &http.Server{Handler: h, TLSConfig: t, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(l, "", "") }()
	token, err := authority.Token(tokenLife)
	if err != nil {
		return errors.Join(err, server.Close(), <-ended)
	}
	s.print("cloud is up; a node joins with\n\n    minicloud node -join %s -token %s\n", o.listen, token)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		err := server.Close()
		<-ended
		return err
	}
}

func startEtcd(ctx context.Context, o options, host string, own cluster.Credentials, logger *slog.Logger) (*etcdserver.Server, error) {
	files := etcdserver.TLS{Cert: filepath.Join(o.dir, "controller.crt"), Key: filepath.Join(o.dir, "controller.key"),
		CA: filepath.Join(o.dir, "ca", "ca.crt")}
	if err := errors.Join(ca.WriteFile(files.Cert, own.Certificate), ca.WriteFile(files.Key, own.Key)); err != nil {
		return nil, err
	}
	m, err := etcdserver.Start(etcdserver.Config{Dir: filepath.Join(o.dir, "etcd"), Client: net.JoinHostPort(host, "7444"), ClientTLS: &files, Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("the store: %w", err)
	}
	if err := m.Ready(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("the store: %w", err), m.Close())
	}
	return m, nil
}

func startNATS(ctx context.Context, host string, own cluster.Credentials, logger *slog.Logger) (*natsserver.Server, error) {
	t, err := serverTLS(own)
	if err != nil {
		return nil, err
	}
	server, err := natsserver.Start(ctx, natsserver.Config{Listen: net.JoinHostPort(host, "7445"), TLS: t, Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("the bus: %w", err)
	}
	return server, nil
}

// printToken prints a token with which nodes can join.
func printToken(_ context.Context, o options, w io.Writer) error {
	if _, err := os.Stat(filepath.Join(o.dir, "ca", "ca.key")); err != nil {
		return fmt.Errorf("no controller has begun in %s: %w", o.dir, err)
	}
	authority, err := ca.Open(ca.Config{Dir: filepath.Join(o.dir, "ca")})
	if err != nil {
		return err
	}
	token, err := authority.Token(tokenLife)
	if err == nil {
		_, err = fmt.Fprintln(w, token)
	}
	return err
}
