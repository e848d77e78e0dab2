package dewpoint

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/memqueue"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

// The five nouns. Each is an interface, with its contract in the package that owns it, drivers for real use, a fake, and a
// conformance suite that all of them pass.
type (
	Hypervisor     = compute.Hypervisor  // runs machines: compute/libvirt, compute/fakecompute
	NetworkManager = network.Manager     // joins them: network/linux, network/fakenetwork
	VolumeDriver   = volume.Driver       // keeps their data: volume/file, volume/fakevolume
	Scheduler      = scheduler.Scheduler // says where they run: scheduler.New
	MessageBus     = queue.Bus           // rings the bells: queue/memqueue
)

// Config is what a [Cloud] is made of. What it is handed (drivers, bus, log, blobs) stays the host program's, which closes
// it after the last Run has returned.
type Config struct {
	// Hypervisor makes this process a node that runs machines; NetworkManager is required with it. Nil: the process only
	// takes requests, and nodes are other processes over the same Log and MessageBus.
	Hypervisor     Hypervisor
	NetworkManager NetworkManager
	DHCP           network.DHCPServer // nil: the node answers no DHCP, as with a fake network

	// Metadata makes what answers the node's guests at 169.254.169.254, at the start of each Run, when the records are open:
	// network/linklocal with api/metadata behind it. Nil: nothing of ours answers.
	Metadata func(*Services) (network.Server, error)

	// Servers are what else serves the node's guests, such as network/ra, which tells them of IPv6.
	Servers []network.Server

	// VolumeDriver makes this process one that has volumes, whether it runs machines or not; VolumeExporter, which lets
	// nodes reach them, is required with it. Nil: volumes, if there are any, are in other processes.
	VolumeDriver   VolumeDriver
	VolumeExporter volume.Exporter

	// Connector is how volumes reach this node's machines. Nil: compute.QEMUInitiator.
	Connector compute.Connector

	Scheduler  Scheduler  // nil: scheduler.New, with its filters and weighers
	MessageBus MessageBus // nil: one inside the process
	Log        state.Log  // what the cloud remembers; nil: in memory, gone with the Cloud

	// Dir is where files go that are not the host program's to choose: images in Dir/images, instances' disks in Dir/node, consoles in Dir/consoles,
	// the node's id in Dir/host-id. It is made if it is missing; its parent must exist. One process at a time may use
	// it. Required, unless Blobs or Images and, on a node, Disks and Host.ID are given.
	Dir   string
	Blobs image.Blobs // nil: files in Dir/images
	// Images is where a node gets the contents of images if other processes keep them, as with api/cluster: this one then has
	// no Blobs, and its image service can neither take nor give a content. Images of its volumes can be made if it is an [image.Sink] too. Nil: Blobs.
	Images image.Source
	Disks  compute.Disks // nil: made of images, in Dir/node

	// Host describes the node. A zero ID is made once and kept in Dir; a zero Name is the machine's; a zero Total is what
	// the hypervisor says it has. A host is known by its ID: its name may change.
	Host scheduler.Host

	// Flavors are what a new cloud begins with; nil: compute.DefaultFlavors. One that has flavors keeps them.
	Flavors []compute.Flavor

	Policy auth.Policy  // who may do what; zero: auth.DefaultPolicy
	Logger *slog.Logger // nil: silent

	StopGrace time.Duration // how long a guest may take to power off when it is stopped; 0: 60 s
	Repair    time.Duration // how often a node looks for drift in its network; 0: 4 s
	Sync      time.Duration // how often a node compares power states with the hypervisor; 0: 60 s
	Tick      time.Duration // how often a node looks for work though no message came; 0: 5 s
	// Heartbeat is how often a node gives a sign of life, which is a write to the store; 0: 10 s, at most 10 min. It is down when six are
	// missing, and not before 60 s.
	Heartbeat time.Duration
	Hooks     operation.Hooks // watches operations, for tests and traces

	members *scheduler.Members
}

// isNode tells whether the process runs machines.
func (c Config) isNode() bool { return c.Hypervisor != nil }

// complete checks c and fills in what can be filled in without touching anything.
func (c *Config) complete() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("dewpoint: Config."+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	switch {
	case c.isNode() && c.NetworkManager == nil:
		return bad("NetworkManager is nil, must be set where Hypervisor is")
	case !c.isNode() && c.NetworkManager != nil:
		return bad("Hypervisor is nil, must be set where NetworkManager is")
	case !c.isNode() && c.DHCP != nil:
		return bad("Hypervisor is nil, must be set where DHCP is")
	case c.Images != nil && (c.Blobs != nil || !c.isNode()):
		return bad("Images is set, must be nil where Blobs is set and where Hypervisor is nil")
	case c.Dir == "" && c.Blobs == nil && c.Images == nil:
		return bad("Dir is empty, must be set unless Blobs or Images is")
	case !c.isNode() && (c.Metadata != nil || len(c.Servers) > 0):
		return bad("Hypervisor is nil, must be set where Metadata or Servers are")
	case c.Dir == "" && c.isNode() && c.Disks == nil:
		return bad("Dir is empty, must be set unless Disks is")
	case (c.VolumeDriver == nil) != (c.VolumeExporter == nil):
		return bad("VolumeDriver and VolumeExporter must be set together, or neither")
	case c.Dir == "" && (c.isNode() || c.VolumeDriver != nil) && c.Host.ID == "":
		return bad("Dir is empty, must be set unless Host.ID is")
	case c.StopGrace < 0:
		return bad("StopGrace is %v, must be at least 0", c.StopGrace)
	case c.Repair < 0:
		return bad("Repair is %v, must be at least 0", c.Repair)
	case c.Sync < 0:
		return bad("Sync is %v, must be at least 0", c.Sync)
	case c.Heartbeat < 0 || c.Heartbeat > scheduler.MaxHeartbeat:
		return bad("Heartbeat is %v, must be 0 to %v", c.Heartbeat, scheduler.MaxHeartbeat)
	case c.Tick < 0:
		return bad("Tick is %v, must be at least 0", c.Tick)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Policy.Rules == nil {
		c.Policy = auth.DefaultPolicy()
	}
	if c.Flavors == nil {
		c.Flavors = compute.DefaultFlavors()
	}
	if c.MessageBus == nil {
		c.MessageBus = memqueue.New(memqueue.Config{Logger: c.Logger})
	}
	if c.Log == nil {
		c.Log = memstate.New(memstate.Config{})
	}
	c.members = scheduler.NewMembers(c.Logger)
	if c.Scheduler == nil {
		s, err := scheduler.New(scheduler.Config{Used: HostUse, Members: c.members})
		if err != nil {
			return err
		}
		c.Scheduler = s
	}
	return nil
}

// HostUse returns what the instances on a host, and those that are moving to it, take of it: the Used of a [scheduler.Config].
func HostUse(r state.Reader, hostID string) scheduler.Resources {
	return compute.Used(r, hostID)
}

// Schema returns every table of a cloud, for programs that open its log by themselves, to look or to migrate.
func Schema() []state.Schema {
	var all []state.Schema
	for _, part := range [][]state.Schema{
		auth.Schema(), {image.Images}, network.Schema(), scheduler.Schema(), volume.Schema(), compute.Schema(), operation.Schema(),
	} {
		all = append(all, part...)
	}
	return all
}
