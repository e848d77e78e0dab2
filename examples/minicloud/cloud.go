package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/api/metadata"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/libvirt"
	"github.com/dewpoint-cloud/dewpoint/compute/openiscsi"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/dhcp"
	"github.com/dewpoint-cloud/dewpoint/network/linklocal"
	"github.com/dewpoint-cloud/dewpoint/network/linux"
	"github.com/dewpoint-cloud/dewpoint/network/ra"
	"github.com/dewpoint-cloud/dewpoint/state/bolt"
)

// recordsFile is where a minicloud that is a cloud by itself keeps its records.
func recordsFile(o options) string { return filepath.Join(o.dir, "records.db") }

// alien refuses a directory with the file of another kind of cloud, whose images and machines would be in each other's way.
func alien(file, what string) error {
	if _, err := os.Stat(file); err != nil {
		return nil
	}
	return fmt.Errorf("%s is of %s: choose another -dir", file, what)
}

// serve puts a cloud together, runs it, and shows what it does until ctx ends or all is done.
func serve(ctx context.Context, o options, h *host, logger *slog.Logger, s *screen) (err error) {
	records, err := bolt.Open(bolt.Config{Path: recordsFile(o)})
	if errdefs.IsUnavailable(err) {
		return fmt.Errorf("another minicloud runs in %s, and must be interrupted first: %w", o.dir, err)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	cfg, closeDrivers, err := drivers(ctx, o, h, logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeDrivers()) }()
	cfg.Log = records
	cloud, err := dewpoint.New(cfg)
	if err != nil {
		return err
	}
	ended := during(ctx, cloud, func(ctx context.Context, services *dewpoint.Services) error {
		return take(ctx, o, services, func() error {
			return show(auth.NewContext(ctx, auth.Admin(projectName)), o, cloud, services, s)
		})
	})
	if errors.Is(ended, context.Canceled) {
		s.print("interrupted; the machines run on: start minicloud again to go on with them, or with -remove to end them")
		return nil
	}
	return ended
}

// drivers returns what makes this machine a node: its hypervisor, its network with its DHCP server and its router advertisements, and its disks.
func drivers(ctx context.Context, o options, h *host, logger *slog.Logger) (cfg dewpoint.Config, closeAll func() error, err error) {
	var opened closers
	defer func() {
		if err != nil {
			err = errors.Join(err, opened.close())
		}
	}()
	var address string
	if o.volumes != "" {
		address, _, _ = net.SplitHostPort(o.volumes) // it was looked at
	}
	machines, err := libvirt.New(libvirt.Config{Socket: h.socket, Peer: o.peer, HostAddress: address, Logger: logger})
	if err != nil {
		return cfg, nil, err
	}
	opened.add(machines.Close)
	bridges, err := linux.New(linux.Config{NetNS: h.netns, Logger: logger})
	if err != nil {
		return cfg, nil, err
	}
	opened.add(bridges.Close)
	leases, err := dhcp.New(dhcp.Config{Dir: filepath.Join(o.dir, "dhcp"), NetNS: h.netns, Logger: logger})
	if err != nil {
		return cfg, nil, err
	}
	routers, err := ra.New(ra.Config{NetNS: h.netns, Logger: logger})
	if err != nil {
		return cfg, nil, err
	}
	disks, err := openStorage(ctx, o, h, logger)
	if err != nil {
		return cfg, nil, err
	}
	opened.add(disks.close)
	var reach compute.Connector // nil: QEMU's own initiators
	if o.initiator == "kernel" {
		if reach, err = openiscsi.New(openiscsi.Config{}); err != nil {
			return cfg, nil, err
		}
	}
	return dewpoint.Config{Hypervisor: machines, Connector: reach, NetworkManager: bridges, DHCP: leases, Servers: []network.Server{routers},
		VolumeDriver: disks.driver, VolumeExporter: disks.exporter,
		Metadata: func(s *dewpoint.Services) (network.Server, error) { return aboutGuests(s, h, logger) },
		Dir:      filepath.Join(o.dir, "cloud"), Logger: logger}, opened.close, nil
}

// aboutGuests tells guests about themselves, at 169.254.169.254.
func aboutGuests(s *dewpoint.Services, h *host, logger *slog.Logger) (network.Server, error) {
	known := metadata.Records{Store: s.Store}
	face, err := metadata.New(metadata.Config{Source: known, Resolve: known.Resolve, Logger: logger})
	if err != nil {
		return nil, err
	}
	return linklocal.New(linklocal.Config{Serve: face.Serve, NetNS: h.netns, Logger: logger})
}

// show is what happens on the screen.
func show(ctx context.Context, o options, cloud *dewpoint.Cloud, services *dewpoint.Services, s *screen) error {
	s.print("cloud is up")
	if o.audit {
		differs := s.audit(ctx, o.wait, cloud)
		if p, err := cloud.DataPath(ctx); err == nil {
			fmt.Fprintf(s.w, "\ndata path:\n%v", p)
		}
		return differs
	}
	ids, err := converge(ctx, o, services, s)
	if err != nil {
		return err
	}
	reached, err := s.follow(ctx, o, services, ids)
	if err != nil {
		return err
	}
	if o.exit || o.remove {
		if err := s.audit(ctx, o.wait, cloud); err != nil {
			return err
		}
		if err := reached(); err != nil {
			return err
		}
		if o.exit && !o.keep {
			all, err := services.Compute.List(ctx, compute.ListOptions{})
			return errors.Join(err, terminate(ctx, services, s, all...))
		}
		return nil
	}
	if err := reached(); err != nil {
		s.print("%v", err)
	}
	where := ""
	if o.dir != defaultDir {
		where = " -dir " + o.dir
	}
	s.print("stays up until interrupted; ask it for more from another shell, as with\n\n    %s volume create%s -size 1 -name data\n", os.Args[0], where)
	<-ctx.Done()
	return ctx.Err()
}
