package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/dewpoint-cloud/dewpoint/volume/file"
	"github.com/dewpoint-cloud/dewpoint/volume/iscsi"
)

// portal is where machines reach volumes: the loopback of the namespace, which QEMU is in too.
const portal = "127.0.0.1:3260"

// storage keeps volumes in files, and lets machines at them over iSCSI.
type storage struct {
	driver   *file.Driver
	exporter *iscsi.Exporter
	stop     context.CancelFunc
	ended    chan error
}

func openStorage(ctx context.Context, o options, h *host, logger *slog.Logger) (*storage, error) {
	dir := filepath.Join(o.dir, "volumes")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	driver, err := file.Open(file.Config{Dir: dir, Logger: logger})
	if err != nil {
		return nil, err
	}
	listener, err := h.listen(ctx, portal)
	if err != nil {
		return nil, errors.Join(err, driver.Close())
	}
	server := iscsi.NewServer(iscsi.Config{Log: logger})
	exporter, err := iscsi.NewExporter(iscsi.ExporterConfig{Target: server, Portal: portal})
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
