package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/api/cluster"
)

// runNode runs machines for the cloud whose controller it joins, or has joined.
func runNode(ctx context.Context, o options, w io.Writer) (err error) {
	s := &screen{w: w, start: time.Now()}
	logger := o.logger(os.Stderr)
	if err := alien(recordsFile(o), "a cloud on one machine"); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("needs root: bridges, taps and libvirt are made")
	}
	h, err := prepareHost(ctx, o, logger)
	if err != nil {
		return err
	}
	dir := filepath.Join(o.dir, "cloud")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	hostID, err := dewpoint.HostID(dir)
	if err != nil {
		return err
	}
	if o.name == "" {
		if o.name, err = os.Hostname(); err != nil {
			return err
		}
	}
	cred, err := credentials(ctx, o, s, hostID)
	if err != nil {
		return err
	}
	node, err := cluster.NewNode(cluster.NodeConfig{Credentials: cred, File: credentialsFile(o), Logger: logger})
	if err != nil {
		return err
	}
	links, closeLinks, err := connect(ctx, node, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLinks()) }()
	if o.volumes, err = volumesAddress(ctx, o, cred.Address); err != nil {
		return err
	}
	cfg, closeDrivers, err := drivers(ctx, o, h, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeDrivers()) }()
	cfg.Log, cfg.MessageBus, cfg.Images = links.Log, links.MessageBus, node
	cfg.Host.ID, cfg.Host.Name = hostID, o.name
	cloud, err := dewpoint.New(cfg)
	if err != nil {
		return err
	}
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error { return node.Run(ctx) })
	parts.Go(func() error {
		return during(ctx, cloud, func(ctx context.Context, _ *dewpoint.Services) error {
			s.print("node %s is up, its id is %s", o.name, hostID)
			<-ctx.Done()
			return ctx.Err()
		})
	})
	return parts.Wait()
}

// credentials are those that the node has from an earlier start, or gets by joining. A controller that can't be reached is waited for.
func credentials(ctx context.Context, o options, s *screen, hostID string) (cluster.Credentials, error) {
	file := credentialsFile(o)
	cred, err := cluster.Load(file)
	switch {
	case err == nil && cred.HostID != hostID:
		return cred, fmt.Errorf("%s is of the host %s, but this one is %s; was it copied? remove it, and join", file, cred.HostID, hostID)
	case err == nil && o.join != "" && cred.Address != o.join:
		return cred, fmt.Errorf("this node has joined the controller at %s; to join another, remove %s", cred.Address, file)
	case err == nil || !errors.Is(err, fs.ErrNotExist):
		return cred, err
	case o.join == "" || o.token == "":
		return cred, errors.New("this node has joined no cloud; -join and -token say which: the controller prints them")
	}
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		cred, err = cluster.Join(ctx, cluster.JoinConfig{Address: o.join, Token: o.token, HostID: hostID, Name: o.name})
		if err == nil {
			return cred, cred.Save(file)
		}
		if !errdefs.IsUnavailable(err) {
			return cred, err
		}
		s.print("waiting for the controller: %v", err)
		select {
		case <-ctx.Done():
			return cred, ctx.Err()
		case <-time.After(wait):
		}
	}
}
