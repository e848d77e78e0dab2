// Package dewpointtest simulates whole clouds, for tests of what is built on them: real services, scheduler and agents, over
// pretended hosts and a message bus and log in memory, in a bubble with its own clock (testing/synctest), so that an hour of a
// cloud's life takes a moment. What can go wrong does, as a seed says, and what must never be is looked for.
//
//	            your automation ── Script ── Sim.Services(0), (1), …
//	                                             │
//	processes    controller 0   controller 1   node 0   node 1     each a dewpoint.Cloud, killed, cut off, started again
//	                  │              │           │        │
//	              a shared bus and a shared log: lost, doubled, late, reordered, conflicting, unanswered
//	                                             │        │
//	hosts                                     Host 0   Host 1      guests, taps, disks: pretended; they outlive the processes
//
// # Use
//
// A test says what is done to the cloud, and what goes wrong meanwhile:
//
//	func TestTheFleetIsKept(t *testing.T) {
//		dewpointtest.Histories(t, 200, dewpointtest.Config{
//			Controllers: 2,
//			Faults:      dewpointtest.Faults{Lose: 0.3, Unknown: 0.05, Kills: 2},
//			Script: func(ctx context.Context, s *dewpointtest.Sim) {
//				err := fleet.Keep(ctx, s.Services(0).Compute, s.Request("web"), 2)
//				…
//			},
//		})
//	}
//
// [Run] simulates one cloud, [Histories] many, with a seed each. When the script has returned, faults cease, the cloud comes to
// rest, and the invariants are checked; a script may do so at any time, with [Sim.Settle], [Sim.Check] and [Sim.CheckNow], and say
// with [Sim.Violated] what must not be by its own rules. A script without faults of its own may make some: [Sim.Kill],
// [Sim.KillAt], [Sim.Stop], [Sim.Partition], [Sim.PowerOff], and what a [Host] has for people's mistakes.
//
// # Invariants
//
// At every instant: an address has one owner; a host is never oversold, and what is counted on it is the sum of its
// instances; a project has no more than its quota, and what is counted is the sum of its records; no instance runs twice; no
// hypervisor is asked two things of one machine at once.
//
// At rest: every operation has ended; no domain is without a record; no record is ACTIVE without a domain; nothing belongs to
// nobody: no bridge, tap, disk, port or address; no promised instance is missing.
//
// # Seeds
//
// A failure names its seed, and the environment variable DEWPOINT_SEED repeats it. A seed fixes what the random workload asks,
// which awaits meet a fault, and when mishaps happen. It does not fix how goroutines take turns, nor the ids that a cloud makes:
// two runs of a seed are alike and not the same, so a repeated seed is run many times.
//
// # In the bubble
//
// The rules of testing/synctest hold: the script starts no goroutine that outlives it, waits for nothing outside the bubble, and
// holds no mutex while it waits. time.Sleep costs nothing. A kill takes effect at once: whatever the process was at, no call
// of its drivers, log or bus has an effect any more; then its goroutines end, which costs no time either.
//
// Nearly always one thing happens at a time, and handing it to another processor costs more than that saves: a large simulation is
// fastest with GOMAXPROCS=1, and several are as one process for each processor.
package dewpointtest
