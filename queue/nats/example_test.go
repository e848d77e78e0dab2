package nats_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
	"github.com/dewpoint-cloud/dewpoint/queue/nats"
	"github.com/dewpoint-cloud/dewpoint/queue/nats/natsserver"
)

// A controller runs a NATS server and is on its bus. It reaches the server inside the process; nodes on other machines reach
// it by nats.Config{URLs: []string{"tls://controller:4222"}, TLS: …}, and the server has an address, a certificate and
// credentials then.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	server, err := natsserver.Start(ctx, natsserver.Config{Token: "of the cloud"})
	check(err)
	bus, err := nats.Open(ctx, nats.Config{InProcess: server, Token: "of the cloud"})
	check(err)
	dir, err := os.MkdirTemp("", "cloud")
	check(err)
	defer os.RemoveAll(dir)

	cloud, err := dewpoint.New(dewpoint.Config{
		MessageBus:     bus,
		Hypervisor:     fakecompute.New(fakecompute.Config{}),
		NetworkManager: fakenetwork.New(fakenetwork.Config{}),
		Disks:          fakecompute.NewDisks(),
		Dir:            dir,
	})
	check(err)
	ended := make(chan error)
	go func() { ended <- cloud.Run(ctx) }()
	services, err := cloud.Services(ctx)
	check(err)

	me := auth.NewContext(ctx, auth.Admin("my project"))
	_, err = services.Networks.Create(me, network.Network{Name: "lan", Mode: network.FlatDHCP, CIDR: netip.MustParsePrefix("10.0.0.0/24")})
	check(err)
	disk, err := services.Images.Create(me, image.Spec{Name: "empty", Format: image.Raw}, bytes.NewReader(make([]byte, 1<<20)))
	check(err)
	made, err := services.Compute.Run(me, compute.RunRequest{Name: "web", Image: disk.ID, Flavor: "m1.tiny"})
	check(err)
	for _, instance := range made {
		instance, err = services.Compute.WaitActive(me, instance.ID)
		fmt.Println(instance.Name, instance.Status(), err)
	}

	// Whoever opened the bus closes it, after the cloud, and the server last.
	stop()
	fmt.Println("ended:", <-ended)
	fmt.Println("closed:", bus.Close(), server.Close())
	// Output:
	// web ACTIVE <nil>
	// ended: <nil>
	// closed: <nil> <nil>
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
