package dewpoint

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// Audit compares the records with what this node really has: domains, taps and bridges with their filters, disks, volumes and their exports, and with
// each other: instances, ports, fixed IPs, attachments. It returns a line for each difference, in words for an operator, and none when all
// agree. It changes nothing. What is being worked on shows as a difference, its operation named beside it, so an audit is
// meaningful when no operation is open. It is FailedPrecondition where no cloud runs or the process is no node.
func (c *Cloud) Audit(ctx context.Context) ([]string, error) {
	c.mu.Lock()
	services, node, volumes := c.services, c.node, c.volumes
	c.mu.Unlock()
	if services == nil || node == nil && volumes == nil {
		return nil, fmt.Errorf("dewpoint: nothing to audit: the cloud does not run, or this process is no node: %w", errdefs.ErrFailedPrecondition)
	}
	var found []string
	if volumes != nil {
		var err error
		if found, err = volumes.agent.Difference(ctx); err != nil {
			return nil, err
		}
	}
	if node == nil {
		return found, nil
	}
	a := &audit{host: node.hostID, found: found}
	// The host first: what it has and the records then don't name is a leak, unless it went in between.
	domains, err := c.cfg.Hypervisor.List(ctx)
	if err != nil {
		return nil, err
	}
	links, err := c.cfg.NetworkManager.Inspect(ctx)
	if err != nil {
		return nil, err
	}
	disks, err := node.disks.List(ctx)
	if err != nil {
		return nil, err
	}
	plugged, err := c.plugged(ctx, domains)
	if err != nil {
		return nil, err
	}
	err = services.Store.View(func(v *state.View) error {
		a.read(v)
		a.operations(v)
		a.domains(domains)
		a.links(network.Plan(v, node.hostID), links)
		a.disks(disks)
		a.volumes(v, plugged)
		a.addresses(v)
		return nil
	})
	return a.found, err
}

// DataPath returns this node's network as the records want it and as the node has it; its String is text for an operator. It changes
// nothing. It is FailedPrecondition where no cloud runs or the process is no node.
func (c *Cloud) DataPath(ctx context.Context) (network.DataPath, error) {
	c.mu.Lock()
	node := c.node
	c.mu.Unlock()
	if node == nil {
		return network.DataPath{}, fmt.Errorf("dewpoint: no data path: the cloud does not run, or this process is no node: %w", errdefs.ErrFailedPrecondition)
	}
	return node.network.DataPath(ctx)
}

type audit struct {
	host  string
	here  map[string]compute.Instance // of the host
	found []string
}

func (a *audit) report(format string, args ...any) {
	a.found = append(a.found, fmt.Sprintf(format, args...))
}

func (a *audit) read(v *state.View) {
	a.here = map[string]compute.Instance{}
	for i := range compute.Instances.By(v, "host", a.host) {
		a.here[i.ID] = i
	}
}

func (a *audit) operations(v *state.View) {
	for op := range operation.Table.All(v) {
		a.report("operation %s on %s is open (step %d, undoing %v, %s)", op.Kind, op.Object, op.Step, op.Undoing, op.Problem)
	}
}

func (a *audit) domains(all []compute.Domain) {
	seen := map[string]compute.PowerState{}
	for _, d := range all {
		if !d.Ours {
			continue
		}
		i, known := a.here[d.ID]
		switch {
		case !known:
			a.report("domain %s (%s): no record names it", d.ID, d.Power)
		case i.Epoch != d.Epoch:
			a.report("domain %s has epoch %d, its record %d", d.ID, d.Epoch, i.Epoch)
		}
		seen[d.ID] = d.Power
	}
	for _, id := range slices.Sorted(maps.Keys(a.here)) {
		i := a.here[id]
		want := map[compute.State]compute.PowerState{compute.StateActive: compute.PowerRunning, compute.StatePaused: compute.PowerPaused}[i.State]
		switch power, has := seen[id]; {
		case want != "" && power != want:
			a.report("instance %s is %s, its domain is %q", id, i.State, power)
		case i.State == compute.StateStopped && (power == compute.PowerRunning || power == compute.PowerPaused):
			a.report("instance %s is %s, its domain is %q", id, i.State, power)
		case i.State == compute.StateError && has:
			a.report("instance %s is in error, and has a domain still", id)
		}
	}
}

func (a *audit) links(want, have network.Desired) {
	bridges := map[string]bool{}
	for _, b := range want.Bridges {
		bridges[b.Name] = true
	}
	for _, b := range have.Bridges {
		if !bridges[b.Name] {
			a.report("bridge %s: no record wants it", b.Name)
		}
		delete(bridges, b.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(bridges)) {
		a.report("bridge %s is missing", name)
	}
	taps := map[string]network.Tap{}
	for _, t := range want.Taps {
		taps[t.Name] = t
	}
	for _, t := range have.Taps {
		w, wanted := taps[t.Name]
		switch {
		case !wanted:
			a.report("tap %s: no record wants it", t.Name)
		case w.Bridge != t.Bridge || w.MAC.String() != t.MAC.String() || !slices.Equal(w.IPs, t.IPs):
			a.report("tap %s is on %s with %s %v, must be on %s with %s %v", t.Name, t.Bridge, t.MAC, t.IPs, w.Bridge, w.MAC, w.IPs)
		}
		delete(taps, t.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(taps)) {
		a.report("tap %s is missing", name)
	}
}

func (a *audit) disks(have []string) {
	missing := map[string]bool{}
	for id, i := range a.here {
		if i.State != compute.StateError {
			missing[id] = true
		}
	}
	for _, id := range have {
		if i, known := a.here[id]; !known || i.State == compute.StateError {
			a.report("files of instance %s: no record wants them", id)
		}
		delete(missing, id)
	}
	for _, id := range slices.Sorted(maps.Keys(missing)) {
		a.report("files of instance %s are missing", id)
	}
}

// addresses compares instances, ports and fixed IPs of the whole cloud with each other.
func (a *audit) addresses(v *state.View) {
	for p := range network.Ports.All(v) {
		i, err := compute.Instances.Get(v, p.InstanceID)
		if err != nil || !slices.Contains(i.Ports, p.ID) {
			a.report("port %s: no instance has it", p.ID)
		}
	}
	for f := range network.FixedIPs.All(v) {
		if f.HostID != "" { // a node's own
			if network.HostPorts.Get(v, f.NetworkID+" "+f.HostID).N == 0 {
				a.report("fixed IP %s of node %s: the node has no port of its network", f.Addr, f.HostID)
			}
			continue
		}
		p, err := network.Ports.Get(v, f.PortID)
		if err != nil || !slices.Contains(p.Addrs, f.Addr) {
			a.report("fixed IP %s: no port has it", f.Addr)
		}
	}
	for i := range compute.Instances.All(v) {
		for _, id := range i.Ports {
			if !network.Ports.Has(v, id) {
				a.report("instance %s: its port %s does not exist", i.ID, id)
			}
		}
	}
}
