// Package dewpoint builds private clouds: a program imports it, hands it a hypervisor and a network, and has virtual machines,
// networks, volumes, images, users and quotas behind a Go API.
//
//	your program ── Services: Compute, Networks, Volumes, Images, Auth, Hosts
//	                    │ each call is one transaction: what is wanted, its quota, and an operation
//	                    ▼
//	                the records ── a Log: in memory, in a file, in etcd
//	                    │ a message only says "look": it may get lost
//	                    ▼
//	                the node's agents do the operation's steps, each recorded
//	                    │                  │                 │
//	                Hypervisor       NetworkManager     VolumeDriver
//
// # Five nouns
//
// A [Hypervisor] runs machines on one host. A [NetworkManager] is the host's bridges, taps and filters. A [VolumeDriver] makes
// block devices. A [Scheduler] says which host is next. A [MessageBus] carries doorbells between processes. Each is a small
// interface, with its contract written above it, drivers for real use, a fake, and a public suite that tells whether an
// implementation of yours keeps the contract.
//
// # A cloud in a program
//
// This is the example of [Cloud], on fakes, so that it runs anywhere; with compute/libvirt, network/linux and network/dhcp in
// their place the machines are real.
//
//	cloud, err := dewpoint.New(dewpoint.Config{
//		Hypervisor:     fakecompute.New(fakecompute.Config{}),
//		NetworkManager: fakenetwork.New(fakenetwork.Config{}),
//		Disks:          fakecompute.NewDisks(),
//		Dir:            dir,
//	})
//	check(err)
//	ctx, stop := context.WithCancel(context.Background())
//	ended := make(chan error)
//	go func() { ended <- cloud.Run(ctx) }()
//	services, err := cloud.Services(ctx)
//	check(err)
//
//	me := auth.NewContext(ctx, auth.Admin("my project"))
//	_, err = services.Networks.Create(me, network.Network{Name: "lan", Mode: network.FlatDHCP, CIDR: netip.MustParsePrefix("10.0.0.0/24")})
//	check(err)
//	disk, err := services.Images.Create(me, image.Spec{Name: "empty", Format: image.Raw}, bytes.NewReader(make([]byte, 1<<20)))
//	check(err)
//	made, err := services.Compute.Run(me, compute.RunRequest{Name: "web", Image: disk.ID, Flavor: "m1.tiny", MaxCount: 2})
//	check(err)
//	for _, instance := range made {
//		instance, err = services.Compute.WaitActive(me, instance.ID)
//		fmt.Println(instance.Name, instance.Status(), err)
//	}
//	stop()
//	fmt.Println("ended:", <-ended)
//
// # What a cloud promises
//
// Kill the process at any instant: the next one finishes or undoes every operation, and no address, machine, tap, disk or
// quota is lost on the way. [Cloud.Audit] compares the records with the host and says so. Nothing is done by importing
// a package: no flags, no global state, no log; two clouds live in one process.
package dewpoint
