// Package fakenetwork is a network that only pretends: it keeps bridges and taps in memory, so that a whole cloud with
// thousands of nodes runs in one test, without root.
//
// A [Node] is the machine that has the links; a [Manager] is a driver for it. The node outlives the driver: a test
// ends an agent with its driver, makes new ones for the same node, and finds the taps as they were.
//
//	node := fakenetwork.NewNode()
//	first := fakenetwork.New(fakenetwork.Config{Node: node})
//	// … the agent that uses first is killed …
//	second := fakenetwork.New(fakenetwork.Config{Node: node})
//
// The node takes directions: [Node.Inject] makes calls fail, hang or take long, before or after they had their effect;
// [Node.AddLink] gives it network cards; [Node.RemoveTap] and [Node.RemoveBridge] are somebody who changes it by hand.
// It starts no goroutine, and time passes only in delays, so it runs under testing/synctest.
package fakenetwork
