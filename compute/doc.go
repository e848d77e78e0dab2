// Package compute runs instances: virtual machines of projects, on the hosts of a cloud.
//
//	caller ──► Service ──(1 transaction: instance, quota, host, addresses, operation)──► state
//	              └──(doorbell)──► queue ──► Agent, one on each host ◄──(its operations)───┘
//	                                           │
//	                        Disks ◄────────────┼────────────► Ports        Hypervisor
//	                  files from images        │          taps and filters     ▲
//	                                           └───────────────────────────────┘
//
// A [Service] says what is to be. It checks what a caller asks, states the intent in one transaction, rings the host and
// returns; what it has refused has written nothing. An [Agent] makes it so. It does the operations of its host one step
// after the other, in a way that survives its death at any instant, and keeps the records true to what the
// [Hypervisor] runs. Between the two there is the store alone: a doorbell that is lost costs seconds, and no work.
//
// # The records
//
// An [Instance] is a record until the moment it is terminated, and everything else follows from it. What a project uses
// ([ProjectUse]) and what a host has given away ([Used]) are sums over these records, kept by the store in the same
// transactions. An instance whose launch failed is in error: it counts in its project's quota until somebody terminates it,
// but its place, its addresses and its files have been given back.
//
//	            launch          stop, or the guest powers off, crashes, or is lost
//	building ──────────► active ─────────────────────────────────────────────────► stopped
//	    │                 │  ▲ ▲──────────────────── start ───────────────────────────┘
//	    │ it fails        ▼  │
//	    ▼                paused (by the hypervisor's own means)
//	  error                              terminate: from any state, at any time, to nothing
//
// # How to read the launch table
//
// What is done to an instance is a table of steps, in launch.go. A launch reads:
//
//	a.together(kindLaunch, "launch",
//		operation.Step[work]{Name: "disks", Do: a.makeDisks, Undo: a.removeDisks},
//		operation.Step[work]{Name: "network", Do: a.plug, Undo: a.unplug},
//		operation.Step[work]{Name: "domain", Do: a.create, Undo: a.destroy},
//	),
//
// Downwards, it is what happens: files, then taps, then the domain. Upwards, it is what happens when a step has failed for
// good, the deadline has passed or somebody terminates the instance meanwhile. Every Do and every Undo may be repeated, and may find that
// it was done in part, or not at all; that is what lets another agent go on where one died. Where nothing depends on how
// far a worker has come, steps are done together, and recorded once. Done and Failed are what is written in the transaction
// that ends the operation, so that no state in between can be seen: with Failed, the addresses go back and the record says
// why.
//
// Operations on one instance are done in the order in which they began. A termination asks what is under way to stop, and
// waits for its turn.
//
// # What is never done
//
// A worker destroys nothing without a record that names the object, the host and the epoch, the number of the attempt at its
// domain: not a domain that no record names, nor one of another epoch. Such orphans are logged, and [Agent.Orphans]
// returns them.
//
// # Use
//
// A host program has one Service, or several over one store, and one Agent on each host:
//
//	service, err := compute.NewService(compute.ServiceConfig{Store: store, Bus: bus, Scheduler: placement,
//		Addresses: addresses, Policy: auth.DefaultPolicy()})
//	agent, err := compute.NewAgent(compute.AgentConfig{Store: store, Bus: bus, Host: host, Hypervisor: hypervisor,
//		Network: ports, Disks: disks, Addresses: addresses})
//	go agent.Run(ctx)
//	made, err := service.Run(ctx, compute.RunRequest{Name: "web", Image: id, Flavor: "m1.small"})
//	web, err := service.WaitActive(ctx, made[0].ID)
//
// The Example is this in full. Machines are run by compute/libvirt; compute/fakecompute pretends, for tests; and
// compute/computetest is the suite for drivers.
package compute
