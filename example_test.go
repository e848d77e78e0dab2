package dewpoint_test

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

func ExampleCloud() {
	dir, err := os.MkdirTemp("", "cloud")
	check(err)
	defer os.RemoveAll(dir)

	cloud, err := dewpoint.New(dewpoint.Config{
		Hypervisor:     fakecompute.New(fakecompute.Config{}),
		NetworkManager: fakenetwork.New(fakenetwork.Config{}),
		Disks:          fakecompute.NewDisks(),
		Dir:            dir,
	})
	check(err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- cloud.Run(ctx) }()
	services, err := cloud.Services(ctx)
	check(err)

	me := auth.NewContext(ctx, auth.Admin("my project"))
	_, err = services.Networks.Create(me, network.Network{Name: "lan", Mode: network.FlatDHCP, CIDR: netip.MustParsePrefix("10.0.0.0/24")})
	check(err)
	disk, err := services.Images.Create(me, image.Spec{Name: "empty", Format: image.Raw}, bytes.NewReader(make([]byte, 1<<20)))
	check(err)
	made, err := services.Compute.Run(me, compute.RunRequest{Name: "web", Image: disk.ID, Flavor: "m1.tiny", MaxCount: 2})
	check(err)
	for _, instance := range made {
		instance, err = services.Compute.WaitActive(me, instance.ID)
		fmt.Println(instance.Name, instance.Status(), err)
	}
	stop()
	fmt.Println("ended:", <-ended)
	// Output:
	// web-1 ACTIVE <nil>
	// web-2 ACTIVE <nil>
	// ended: <nil>
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
