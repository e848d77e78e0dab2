// Package fakecompute is a hypervisor that only pretends: it keeps domains in memory, so that a whole cloud with
// thousands of hosts runs in one test.
//
// A [Host] is the machine that the domains run on; a [Hypervisor] is a driver's connection to it. The host outlives the
// driver: a test ends an agent with its driver, makes new ones for the same host, and finds the guests running.
//
//	host := fakecompute.NewHost()
//	first := fakecompute.New(fakecompute.Config{Host: host})
//	// … the agent that uses first is killed …
//	second := fakecompute.New(fakecompute.Config{Host: host})
//
// The host takes directions: [Host.Inject] makes calls fail, hang or take long, before or after they had their effect;
// [Host.PowerOff] and [Host.Crash] are what guests do by themselves; [Host.Disconnect] and [Host.Connect] are a
// hypervisor that restarts. It starts no goroutine, and time passes only in delays and in the grace of Stop, so it
// runs under testing/synctest.
package fakecompute
