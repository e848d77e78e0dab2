// Quickstart is the program that the README opens with: a node of a cloud, with this machine's libvirt and network.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/compute/libvirt"
	"github.com/dewpoint-cloud/dewpoint/network/dhcp"
	"github.com/dewpoint-cloud/dewpoint/network/linux"
	"github.com/dewpoint-cloud/dewpoint/state/bolt"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	dir := "/var/lib/mycloud/"
	check(os.MkdirAll(dir, 0o711))
	records := must(bolt.Open(bolt.Config{Path: dir + "records.db"}))
	defer records.Close()

	cloud := must(dewpoint.New(dewpoint.Config{
		Hypervisor:     must(libvirt.New(libvirt.Config{})),
		NetworkManager: must(linux.New(linux.Config{})),
		DHCP:           must(dhcp.New(dhcp.Config{Dir: dir + "dhcp"})),
		Log:            records,
		Dir:            dir + "cloud",
	}))
	check(cloud.Run(ctx)) // until interrupted; machines go on running
}

func must[T any](value T, err error) T { check(err); return value }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
