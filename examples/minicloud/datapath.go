package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/api/cluster"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/linux"
)

// runDatapath shows the network of the node on this machine: as the records want it, as it is, and the difference. The node's own
// process looks every 4 s, and mends what it finds.
func runDatapath(ctx context.Context, o options, w io.Writer) (err error) {
	cred, err := cluster.Load(credentialsFile(o))
	if err != nil || cred.HostID == "" {
		return fmt.Errorf("no node has begun in %s: -dir says where one has", o.dir)
	}
	netns := ""
	if o.netns != "host" {
		netns = filepath.Join("/run/netns", filepath.Base(o.netns))
	}
	m, err := linux.New(linux.Config{NetNS: netns, Logger: o.logger(w)})
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }() // it has only read
	return ask(ctx, o, func(ctx context.Context, s *dewpoint.Services) error {
		p, err := network.ReadDataPath(ctx, s.Store, cred.HostID, m)
		if err == nil {
			_, err = fmt.Fprint(w, p)
		}
		return err
	})
}
