package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/dewpoint-cloud/dewpoint/volume/file"
	"github.com/dewpoint-cloud/dewpoint/volume/iscsi"
)

const (
	// loopback is where the machines of this host alone reach its volumes: QEMU is in the same namespace.
	loopback = "127.0.0.1:3260"
	// volumesPort is that of iSCSI, RFC 7143 section 15.
	volumesPort = "3260"
)

// volumesAddress is where machines reach the volumes of a node: what it was told, or its address as its controller sees it, or, for a node with
// a network of its own that nobody else is in, loopback.
func volumesAddress(ctx context.Context, o options, controller string) (string, error) {
	if o.volumes != "" {
		return o.volumes, nil
	}
	if o.netns != "host" {
		return loopback, nil
	}
	// Nothing is sent: the kernel says which of its addresses it would use.
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", controller)
	if err != nil {
		return "", fmt.Errorf("-volumes is not given, and which address this machine has for others can't be told: %w", err)
	}
	defer c.Close()
	host, _, err := net.SplitHostPort(c.LocalAddr().String())
	return net.JoinHostPort(host, volumesPort), err
}

// storage keeps volumes in files, and lets machines at them over iSCSI.
type storage struct {
	driver   *file.Driver
	exporter *iscsi.Exporter
	stop     context.CancelFunc
	ended    chan error
}

// openStorage begins to serve volumes at o.volumes, which becomes part of what is recorded of each attachment.
func openStorage(ctx context.Context, o options, h *host, logger *slog.Logger) (*storage, error) {
	dir := filepath.Join(o.dir, "volumes")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	driver, err := file.Open(file.Config{Dir: dir, Logger: logger})
	if err != nil {
		return nil, err
	}
	listener, err := h.listen(ctx, cmp.Or(o.volumes, loopback))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("where volumes are reached (-volumes): %w", err), driver.Close())
	}
	server := iscsi.NewServer(iscsi.Config{Log: logger})
	exporter, err := iscsi.NewExporter(iscsi.ExporterConfig{Target: server, Portal: listener.Addr().String()})
	if err != nil {
		return nil, errors.Join(err, listener.Close(), driver.Close())
	}
	s := &storage{driver: driver, exporter: exporter, ended: make(chan error, 1)}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx)) // it outlives the cloud's last word
	go func() { s.ended <- server.Serve(ctx, listener) }()
	return s, nil
}

// close is for when the cloud has ended. Machines that run on wait for their volumes until there is a target again.
func (s *storage) close() error {
	s.stop()
	return errors.Join(<-s.ended, s.exporter.Close(), s.driver.Close())
}
