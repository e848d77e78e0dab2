package dewpointtest

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
)

// Config is what a simulation is made of. The zero value is complete: one controller, two hosts, a random workload, and
// nothing goes wrong.
type Config struct {
	// Seed chooses the random workload and the faults: which awaits meet one, what happens when. The same seed asks the same
	// things of the cloud and makes the same mishaps; how goroutines take turns is Go's, and differs from run to run.
	Seed uint64

	Hosts       int // machines, each with a node process; 0: 2
	Controllers int // processes without machines, which take requests; 0: 1

	// Total is what each host has; zero: 8 VCPUs, 8 GiB, 100 GiB. Ratios are how often that may be given away, for Check;
	// they are those of the cloud's scheduler unless Process gives it another. Zero: as in [scheduler.DefaultFilters].
	Total  scheduler.Resources
	Ratios scheduler.Ratios

	Faults Faults // zero: nothing goes wrong by itself

	// Script is what is done to the cloud. Its context is that of an administrator in the project "project" and ends with
	// the simulation. When it has returned, the storm is over, the cloud comes to rest ([Sim.Settle]), and all invariants are
	// checked. Nil: [Sim.Work] with Steps.
	Script func(ctx context.Context, s *Sim)
	Steps  int // of the random workload; 0: 8

	// Clean ends the simulation by terminating all instances and checking that nothing is left of them.
	Clean bool

	// Process may change what a process is made of, each time it starts: wrap its drivers, log or bus, or give it hooks, a
	// policy, other intervals. The drivers, the log and the bus that it finds belong to this life of the process: what is
	// wrapped around them dies with it.
	Process func(p Process, cfg *dewpoint.Config)

	// Shared has the nodes use the records of controller 0, as parts of one process, which is what a simulation of very many
	// hosts needs. Then no process can be cut off and controller 0 can't be killed; of the Config that Process may change,
	// the nodes take Hypervisor, NetworkManager, Disks, MessageBus, Host, StopGrace, Heartbeat, Repair, Sync, Tick, Hooks and Logger.
	Shared bool

	Restart  time.Duration // how long after its end a process is started again; 0: 1 s
	Patience time.Duration // how long the cloud may take to come to rest; 0: 15 min

	Logger *slog.Logger // of all processes, with their names; nil: silent
}

// Faults says how often what goes wrong. The numbers are probabilities, from 0 (never) to 1 (always), of one message, commit
// or call of a driver; a fault strikes until the storm is over.
type Faults struct {
	Lose   float64 // a message or an answer never arrives, and nobody is told
	Double float64 // a message arrives twice
	Delay  float64 // a message takes up to 10 s, and so may come after later ones

	Conflict float64 // a commit is told that another writer was faster
	Unknown  float64 // a commit, made or not, has no answer
	SlowLog  float64 // a commit takes up to 3 s
	Lag      float64 // a process sees a commit up to 2 s late

	Fail       float64 // a call of a driver fails, before or after its work
	SlowDriver float64 // a call of a hypervisor or network takes up to 20 s
	SlowDisk   float64 // making or removing an instance's disks takes up to 20 s

	// How many of these happen, at times from the seed, while the script runs.
	Kills      int // a process is killed at one of its next awaits, and started again
	Cuts       int // a process is cut off from the log and the bus, for 5 to 45 s
	PowerCuts  int // a host loses its power, with its guests, for 5 to 90 s
	GuestFalls int // a guest crashes, powers off, or its domain is removed by hand

	Over time.Duration // how long the times are spread over; 0: 10 s
}

// Storm returns faults of every kind, more of each than a cloud should ever meet.
func Storm() Faults {
	return Faults{Lose: 0.2, Double: 0.2, Delay: 0.2, Conflict: 0.05, Unknown: 0.03, SlowLog: 0.05, Lag: 0.05, Fail: 0.05,
		SlowDriver: 0.05, SlowDisk: 0.1, Kills: 3, Cuts: 1, PowerCuts: 1, GuestFalls: 1}
}

// Process names a process of a simulation.
type Process struct {
	Node bool // it runs machines: those of the host with its Number
	// Number counts the controllers, and the nodes, from 0.
	Number int
}

// Controller returns the name of a controller.
func Controller(number int) Process { return Process{false, number} }

// Node returns the name of a host's node.
func Node(host int) Process { return Process{true, host} }

// String returns "controller 0" or "node 0".
func (p Process) String() string {
	if p.Node {
		return fmt.Sprintf("node %d", p.Number)
	}
	return fmt.Sprintf("controller %d", p.Number)
}

func (c Config) complete() Config {
	if c.Hosts == 0 {
		c.Hosts = 2
	}
	if c.Controllers == 0 {
		c.Controllers = 1
	}
	if c.Hosts < 0 || c.Controllers < 0 || c.Steps < 0 || c.Restart < 0 || c.Patience < 0 || c.Faults.Over < 0 {
		panic("dewpointtest: Config.Hosts, Controllers, Steps, Restart, Patience and Faults.Over must be at least 0")
	}
	if c.Shared && (c.Faults.Cuts > 0 || c.Faults.Kills > 0) {
		panic("dewpointtest: Config.Faults.Cuts and Kills must be 0 where Shared is set")
	}
	if c.Total == (scheduler.Resources{}) {
		c.Total = scheduler.Resources{VCPUs: 8, MemoryMiB: 8192, DiskGiB: 100}
	}
	if c.Ratios.VCPUs == 0 {
		c.Ratios.VCPUs = 16
	}
	if c.Ratios.Memory == 0 {
		c.Ratios.Memory = 1.5
	}
	if c.Ratios.Disk == 0 {
		c.Ratios.Disk = 1
	}
	if c.Steps == 0 {
		c.Steps = 8
	}
	if c.Script == nil {
		c.Script = func(ctx context.Context, s *Sim) { s.Work(ctx, c.Steps) }
	}
	if c.Restart == 0 {
		c.Restart = time.Second
	}
	if c.Patience == 0 {
		c.Patience = 15 * time.Minute
	}
	if c.Faults.Over == 0 {
		c.Faults.Over = 10 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}
