package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/linux"
)

// runDatapath shows the network of the node on this machine: as the records want it, as it is, and the difference. The node's own
// process looks every 4 s, and mends what it finds.
func runDatapath(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	dir := filepath.Join(o.dir, "cloud")
	if _, err := os.Stat(filepath.Join(dir, "host-id")); err != nil {
		return fmt.Errorf("no node has begun in %s: -dir says where one has", o.dir)
	}
	hostID, err := dewpoint.HostID(dir)
	if err != nil {
		return err
	}
	netns := ""
	if o.netns != "host" {
		netns = filepath.Join("/run/netns", filepath.Base(o.netns))
	}
	m, err := linux.New(linux.Config{NetNS: netns, Logger: o.logger(os.Stderr)})
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }() // it has only read
	p, err := network.ReadDataPath(ctx, s.Store, hostID, m)
	if err == nil {
		_, err = fmt.Fprint(w, p)
	}
	return err
}
