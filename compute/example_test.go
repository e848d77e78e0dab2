package compute_test

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"strings"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/network/fakenetwork"
	"github.com/dewpoint-cloud/dewpoint/queue/memqueue"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

// A cloud of one pretended host runs an instance and terminates it.
func Example() {
	ctx, stop := context.WithCancel(auth.NewContext(context.Background(), auth.Admin("weather")))
	records := memstate.New(memstate.Config{})
	store, err := state.Open(ctx, state.Config{Log: records, Schema: schema()})
	if err != nil {
		log.Fatal(err)
	}
	bus := memqueue.New(memqueue.Config{})
	placement, err := scheduler.New(scheduler.Config{Used: compute.Used})
	if err != nil {
		log.Fatal(err)
	}
	networks, err := network.NewService(network.ServiceConfig{Store: store, Policy: auth.DefaultPolicy()})
	if err != nil {
		log.Fatal(err)
	}
	service, err := compute.NewService(compute.ServiceConfig{Store: store, Bus: bus, Scheduler: placement,
		Addresses: &networks.Addresses, Policy: auth.DefaultPolicy()})
	if err != nil {
		log.Fatal(err)
	}

	// The host: in a real one, compute/libvirt, network/linux and compute.ImageDisks.
	ports, err := network.NewAgent(network.AgentConfig{Store: store, HostID: "h1", Manager: fakenetwork.New(fakenetwork.Config{})})
	if err != nil {
		log.Fatal(err)
	}
	agent, err := compute.NewAgent(compute.AgentConfig{Store: store, Bus: bus, Host: scheduler.Host{ID: "h1", Name: "nova-1"},
		Hypervisor: fakecompute.New(fakecompute.Config{}), Network: ports, Disks: &disks{files: map[string]bool{}},
		Addresses: &networks.Addresses})
	if err != nil {
		log.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- agent.Run(ctx) }()

	// What instances need: flavors, a network, an image.
	if err := service.InstallFlavors(ctx, compute.DefaultFlavors()); err != nil {
		log.Fatal(err)
	}
	if _, err := networks.Create(ctx, network.Network{Name: "lan", Mode: network.FlatDHCP, CIDR: netip.MustParsePrefix("10.1.0.0/24")}); err != nil {
		log.Fatal(err)
	}
	debian := image.Image{ID: "debian", Format: image.QCOW2, Status: image.Active, Visibility: image.Public, SHA256: strings.Repeat("00", 32)}
	if err := store.Update(ctx, func(tx *state.Tx) error { return image.Images.Put(tx, debian) }); err != nil {
		log.Fatal(err)
	}
	// The host is known as soon as it has given a sign of life.
	if err := scheduler.Beats.Await(ctx, store, "h1", func(_ scheduler.Beat, found bool) (bool, error) { return found, nil }); err != nil {
		log.Fatal(err)
	}

	made, err := service.Run(ctx, compute.RunRequest{Name: "web", Image: "debian", Flavor: "m1.small"})
	if err != nil {
		log.Fatal(err)
	}
	web, err := service.WaitActive(ctx, made[0].ID)
	fmt.Println(web.Name, web.Status(), web.HostID, err)
	fmt.Println(service.Start(ctx, web.ID) != nil) // it runs already
	fmt.Println(service.Terminate(ctx, web.ID), service.WaitGone(ctx, web.ID))

	stop()
	fmt.Println(<-ended, bus.Close(), store.Close(), records.Close())
	// Output:
	// web ACTIVE h1 <nil>
	// true
	// <nil> <nil>
	// <nil> <nil> <nil> <nil>
}
