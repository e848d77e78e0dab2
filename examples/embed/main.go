// Embed is the shortest possible use of a cloud, on fakes: no root, no QEMU, no network. It is what a test of a program that
// uses a cloud looks like.
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"net/netip"
	"os"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
)

func main() {
	dir, err := os.MkdirTemp("", "embed")
	check(err)
	defer os.RemoveAll(dir)
	cloud, err := dewpoint.New(dewpoint.Config{Hypervisor: fakecompute.New(fakecompute.Config{}), Disks: fakecompute.NewDisks(),
		NetworkManager: fakenetwork.New(fakenetwork.Config{}), Dir: dir})
	check(err)
	ctx, stop := context.WithCancel(auth.NewContext(context.Background(), auth.Admin("demo")))
	ended := make(chan error)
	go func() { ended <- cloud.Run(ctx) }()
	c, err := cloud.Services(ctx)
	check(err)

	_, err = c.Networks.Create(ctx, network.Network{Name: "lan", Mode: network.FlatDHCP, CIDR: netip.MustParsePrefix("10.0.0.0/24")})
	check(err)
	disk, err := c.Images.Create(ctx, image.Spec{Name: "empty", Format: image.Raw}, bytes.NewReader(make([]byte, 1<<20)))
	check(err)
	made, err := c.Compute.Run(ctx, compute.RunRequest{Name: "web", Image: disk.ID, Flavor: "m1.tiny"})
	check(err)
	web, err := c.Compute.WaitActive(ctx, made[0].ID)
	check(err)
	fmt.Println(web.Name, web.Status())
	check(c.Compute.Terminate(ctx, web.ID))
	check(c.Compute.WaitGone(ctx, web.ID))
	fmt.Println(web.Name, "is gone")
	stop()
	check(<-ended)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
