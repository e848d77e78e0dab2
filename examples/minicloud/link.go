package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/api/cluster"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/amqp"
	"github.com/dewpoint-cloud/dewpoint/queue/nats"
	"github.com/dewpoint-cloud/dewpoint/state/etcd"
)

// settings is what every process of the cloud must know: the controller tells nodes when they join.
type settings struct {
	Etcd list   `json:"etcd"`
	Kine bool   `json:"kine"`
	Bus  string `json:"bus"`
}

// connect connects a process with the store and the bus of its cloud, as its credentials say.
func connect(ctx context.Context, own *cluster.Node, logger *slog.Logger) (cfg dewpoint.Config, closeAll func() error, err error) {
	var opened closers
	defer func() {
		if err != nil {
			err = errors.Join(err, opened.close())
		}
	}()
	var to settings
	if err := json.Unmarshal(own.Credentials().Settings, &to); err != nil {
		return cfg, nil, fmt.Errorf("what the controller said: %w", err)
	}
	t, err := own.TLS()
	if err != nil {
		return cfg, nil, err
	}
	records, err := etcd.Open(ctx, etcd.Config{Endpoints: to.Etcd, SingleKey: to.Kine, TLS: t.Clone(), Logger: logger})
	if err != nil {
		return cfg, nil, fmt.Errorf("the store: %w", err)
	}
	opened.add(records.Close)
	bus, err := openBus(ctx, to.Bus, t, logger)
	if err != nil {
		return cfg, nil, fmt.Errorf("the bus: %w", err)
	}
	opened.add(bus.Close)
	return dewpoint.Config{Log: records, MessageBus: bus, Logger: logger}, opened.close, nil
}

// openBus opens the bus that the address is of.
func openBus(ctx context.Context, address string, t *tls.Config, logger *slog.Logger) (queue.Bus, error) {
	scheme, _, _ := strings.Cut(address, "://")
	switch scheme {
	case "amqp", "amqps":
		return amqp.Open(ctx, amqp.Config{URL: address, TLS: t, Logger: logger})
	case "nats", "tls":
		cfg := nats.Config{TLS: t, Background: true, Logger: logger}
		for _, one := range strings.Split(address, ",") {
			u, err := url.Parse(one)
			if err != nil {
				return nil, errors.New("its address is not a URL")
			}
			if u.User != nil {
				cfg.User = u.User.Username()
				cfg.Password, _ = u.User.Password()
				u.User = nil
			}
			cfg.URLs = append(cfg.URLs, u.String())
		}
		return nats.Open(ctx, cfg)
	}
	return nil, fmt.Errorf("its address begins with %.20q, must begin with amqp, amqps, nats or tls", scheme)
}

// serverTLS is what a server of the controller's presents; it takes clients that have a certificate of the cloud.
func serverTLS(own cluster.Credentials) (*tls.Config, error) {
	t, err := own.TLS()
	if err != nil {
		return nil, err
	}
	t.ClientCAs, t.ClientAuth = t.RootCAs, tls.RequireAndVerifyClientCert
	return t, nil
}

// during runs a cloud while f uses it, and ends when either does.
func during(ctx context.Context, cloud *dewpoint.Cloud, f func(ctx context.Context, s *dewpoint.Services) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		defer stop() // nothing to use any more
		ended <- cloud.Run(ctx)
	}()
	services, err := cloud.Services(ctx)
	if err == nil {
		err = f(ctx, services)
	}
	stop()
	if ended := <-ended; ended != nil {
		return ended
	}
	return err
}

// closers is what to close, last opened first.
type closers struct{ all []func() error }

func (o *closers) add(f func() error) { o.all = append(o.all, f) }

func (o *closers) close() (all error) {
	for i := len(o.all) - 1; i >= 0; i-- {
		all = errors.Join(all, o.all[i]())
	}
	return all
}
