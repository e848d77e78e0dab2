package dewpointtest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/scheduler"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// check is one look at the records and at all hosts.
type check struct {
	sim       *Sim
	v         *state.View
	instances map[string]compute.Instance
	found     []string
}

func (c *check) report(format string, args ...any) {
	c.found = append(c.found, fmt.Sprintf(format, args...))
}

func (s *Sim) check(parts ...func(*check)) []string {
	c := &check{sim: s, instances: map[string]compute.Instance{}}
	_ = s.View(func(v *state.View) error {
		c.v = v
		for i := range compute.Instances.All(v) {
			c.instances[i.ID] = i
		}
		for _, part := range parts {
			part(c)
		}
		return nil
	})
	return c.found
}

// CheckNow returns what breaks an invariant that holds at every instant, whatever goes on and goes wrong, a line each: an address
// has one owner, on record and on the hosts; no host is oversold, and what is counted on it is the sum of its instances; a
// project has no more than its quota (which the script must not lower below what is used), and what is counted is the sum of the
// records; no instance runs twice.
func (s *Sim) CheckNow() []string {
	return s.check((*check).addresses, (*check).capacity, (*check).quotas, (*check).copies)
}

// Check returns what CheckNow does, and what breaks an invariant that holds whenever the cloud is at rest: no operation is open
// and no task is under way; no domain without a record; no record ACTIVE without its domain, or stopped with one that runs; no bridge,
// tap, disk, port or fixed IP that belongs to nothing; no instance that was promised is missing.
func (s *Sim) Check() []string {
	return s.check((*check).addresses, (*check).capacity, (*check).quotas, (*check).copies, (*check).operations, (*check).domains,
		(*check).records, (*check).ports, (*check).taps, (*check).files, (*check).promises)
}

func (c *check) addresses() {
	type place struct {
		segment string
		addr    netip.Addr
	}
	owner := map[place]string{}
	own := func(where place, who string) {
		if other, taken := owner[where]; taken && other != who {
			c.report("address %v has two owners: %s and %s", where.addr, other, who)
			return
		}
		owner[where] = who
	}
	for p := range network.Ports.All(c.v) {
		for _, a := range p.Addrs {
			own(place{"network " + p.NetworkID, a}, "port "+p.ID)
		}
	}
	for f := range network.FixedIPs.All(c.v) {
		own(place{"network " + f.NetworkID, f.Addr}, "port "+f.PortID)
	}
	for _, h := range c.sim.Hosts {
		for _, t := range h.Links.Desired().Taps {
			for _, a := range t.IPs {
				own(place{"bridge " + t.Bridge, a}, "tap "+t.Name) // of a machine that moves, on two hosts
			}
		}
	}
}

func (c *check) capacity() {
	sums := map[string]scheduler.Resources{}
	for _, i := range c.instances {
		if i.State != compute.StateError {
			sums[i.HostID] = sums[i.HostID].Plus(i.Flavor.Resources())
		}
	}
	most := c.sim.cfg.Ratios
	for h := range scheduler.Hosts.All(c.v) {
		sum := sums[h.ID].Plus(compute.ComingUse.Get(c.v, h.ID))
		if float64(sum.VCPUs) > float64(h.Total.VCPUs)*most.VCPUs || float64(sum.MemoryMiB) > float64(h.Total.MemoryMiB)*most.Memory ||
			float64(sum.DiskGiB) > float64(h.Total.DiskGiB)*most.Disk {
			c.report("host %s is oversold: it has %+v and gave away %+v", h.Name, h.Total, sum)
		}
		if use := compute.Used(c.v, h.ID); use != sum {
			c.report("host %s: %+v is counted, and its instances have %+v", h.Name, use, sum)
		}
	}
}

func (c *check) quotas() {
	sums := map[string]compute.Use{}
	for _, i := range c.instances {
		sums[i.ProjectID] = sums[i.ProjectID].Plus(compute.Use{Instances: 1, Cores: i.Flavor.VCPUs, MemoryMiB: i.Flavor.MemoryMiB})
	}
	for _, project := range slices.Sorted(maps.Keys(sums)) {
		sum, limits := sums[project], auth.LimitsOf(c.v, project)
		if use := compute.ProjectUse.Get(c.v, project); use != sum {
			c.report("project %s: %+v is counted, and its instances have %+v", project, use, sum)
		}
		for _, of := range []struct {
			what       string
			has, limit int
		}{{"instances", sum.Instances, limits.Instances}, {"cores", sum.Cores, limits.Cores}, {"MiB", sum.MemoryMiB, limits.MemoryMiB}} {
			if of.limit != auth.Unlimited && of.has > of.limit {
				c.report("project %s has %d %s, and its quota is %d", project, of.has, of.what, of.limit)
			}
		}
	}
}

func (c *check) copies() {
	where := map[string]string{}
	for _, h := range c.sim.Hosts {
		for _, d := range h.Machines.Domains() {
			if !d.Ours || d.Power != compute.PowerRunning {
				continue
			}
			if other, twice := where[d.ID]; twice {
				c.report("instance %s runs twice: on %s and on %s", d.ID, other, h.Name)
			}
			where[d.ID] = h.Name
		}
	}
}

func (c *check) operations() {
	open := map[string]bool{}
	for op := range operation.Table.All(c.v) {
		open[op.Object] = true
		if !c.sim.lost(strings.TrimPrefix(op.Owner, "host/")) {
			c.report("operation %s on %s does not end (step %d, undoing %v, %s)", op.Kind, op.Object, op.Step, op.Undoing, op.Problem)
		}
	}
	for _, i := range c.instances {
		if i.Task != compute.TaskNone && !open["instance/"+i.ID] {
			c.report("instance %s is %s, and no operation is at it", i.ID, i.Task)
		}
	}
}

// coming tells whether an instance is moving to a host, which it does for as long as its own is lost.
func (c *check) coming(i compute.Instance, h *Host) bool {
	m, err := compute.Migrations.Get(c.v, i.ID)
	return err == nil && m.To == h.ID && c.sim.lost(m.From)
}

func (c *check) domains() {
	for _, h := range c.sim.Hosts {
		for _, d := range h.Machines.Domains() {
			if i, known := c.instances[d.ID]; d.Ours && (!known || i.HostID != h.ID && !c.coming(i, h) || i.Epoch != d.Epoch) && !h.isOff() {
				c.report("domain %s, epoch %d, on %s: no record names it", d.ID, d.Epoch, h.Name)
			}
		}
	}
}

func (c *check) records() {
	power := map[string]compute.PowerState{}
	for _, h := range c.sim.Hosts {
		for _, d := range h.Machines.Domains() {
			if d.Ours {
				power[h.ID+"/"+d.ID] = d.Power
			}
		}
	}
	for _, i := range c.instances {
		if c.sim.lost(i.HostID) || i.Task != compute.TaskNone {
			continue
		}
		p, has := power[i.HostID+"/"+i.ID]
		switch {
		case i.State == compute.StateActive && p != compute.PowerRunning:
			c.report("instance %s is active, and its domain is %q", i.ID, p)
		case i.State == compute.StateStopped && (p == compute.PowerRunning || p == compute.PowerPaused):
			c.report("instance %s is stopped, and its domain is %q", i.ID, p)
		case i.State == compute.StateError && has:
			c.report("instance %s is in error, and has a domain", i.ID)
		case i.State == compute.StateBuilding:
			c.report("instance %s is building, and nobody builds it", i.ID)
		}
	}
}

func (c *check) ports() {
	for p := range network.Ports.All(c.v) {
		if i, known := c.instances[p.InstanceID]; !known || !slices.Contains(i.Ports, p.ID) {
			c.report("port %s: no instance has it", p.ID)
		}
	}
	for f := range network.FixedIPs.All(c.v) {
		if p, err := network.Ports.Get(c.v, f.PortID); err != nil || !slices.Contains(p.Addrs, f.Addr) {
			c.report("fixed IP %v: no port has it", f.Addr)
		}
	}
	for _, i := range c.instances {
		for _, id := range i.Ports {
			if !network.Ports.Has(c.v, id) {
				c.report("instance %s: its port %s does not exist", i.ID, id)
			}
		}
	}
}

func (c *check) taps() {
	for _, h := range c.sim.Hosts {
		if h.isOff() {
			continue
		}
		plan, have := network.Plan(c.v, h.ID), h.Links.Desired()
		want, bridges := map[string]network.Tap{}, map[string]bool{}
		for _, b := range plan.Bridges {
			bridges[b.Name] = true
		}
		for _, b := range have.Bridges {
			if !bridges[b.Name] {
				c.report("bridge %s on %s: no record wants it", b.Name, h.Name)
			}
		}
		for _, t := range plan.Taps {
			want[t.Name] = t
		}
		for _, t := range have.Taps {
			if w, wanted := want[t.Name]; !wanted {
				c.report("tap %s on %s: no record wants it", t.Name, h.Name)
			} else if w.Bridge != t.Bridge || !slices.Equal(w.IPs, t.IPs) || w.MAC.String() != t.MAC.String() {
				c.report("tap %s on %s is not as its record says", t.Name, h.Name)
			}
			delete(want, t.Name)
		}
		for _, name := range slices.Sorted(maps.Keys(want)) {
			c.report("tap %s on %s is missing", name, h.Name)
		}
	}
}

func (c *check) files() {
	for _, h := range c.sim.Hosts {
		ids, err := h.Disks.List(c.sim.ctx)
		if err != nil || h.isOff() {
			continue
		}
		for _, id := range ids {
			if i, known := c.instances[id]; !known || i.HostID != h.ID && !c.coming(i, h) || i.State == compute.StateError {
				c.report("disks of instance %s on %s: no record wants them", id, h.Name)
			}
		}
	}
}

func (c *check) promises() {
	c.sim.mu.Lock()
	defer c.sim.mu.Unlock()
	for id, doomed := range c.sim.accepted {
		if _, known := c.instances[id]; !known && !doomed {
			c.report("instance %s was promised to a user, and is gone", id)
		}
	}
}

// leftovers returns what there is still when there is no instance any more.
func (s *Sim) leftovers() []string {
	return s.check(func(c *check) {
		for _, h := range s.Hosts {
			if h.isOff() {
				return
			}
			if d := h.Machines.Domains(); len(d) > 0 {
				c.report("%d domains are left on %s", len(d), h.Name)
			}
			if d := h.Links.Desired(); len(d.Taps)+len(d.Bridges) > 0 {
				c.report("%d taps and %d bridges are left on %s", len(d.Taps), len(d.Bridges), h.Name)
			}
			if use := compute.Used(c.v, h.ID); use != (scheduler.Resources{}) {
				c.report("%+v of %s is in use by nothing", use, h.Name)
			}
		}
		for m := range compute.Migrations.All(c.v) {
			c.report("the migration of %s is left", m.InstanceID)
		}
		for p := range network.Ports.All(c.v) {
			c.report("port %s is left", p.ID)
		}
		if use := compute.ProjectUse.Get(c.v, Project); use != (compute.Use{}) {
			c.report("%+v of the quota is in use by nothing", use)
		}
	})
}
