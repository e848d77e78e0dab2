package compute

import (
	"context"
	"maps"
	"sync"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// orphans remembers which were reported, so that each is reported once.
type orphans struct {
	mu       sync.Mutex
	reported map[Domain]bool
}

// Orphans returns the domains of the host that this library made and no record names with their epoch. They are reported and
// never destroyed: a record that is missing may be a store that was lost, and a host that was given another id finds all
// its domains to be orphans.
func (a *Agent) Orphans(ctx context.Context) ([]Domain, error) {
	before := map[string]uint64{}
	_ = a.cfg.Store.View(func(v *state.View) error {
		for i := range Instances.By(v, "host", a.cfg.Host.ID) {
			before[i.ID] = i.Generation
		}
		return nil
	})
	domains, err := a.cfg.Hypervisor.List(ctx)
	if err != nil {
		return nil, err
	}
	return a.unnamed(domains, before), nil
}

// unnamed returns those of the domains that no record names. An instance that was known before the domains were listed is
// none: it may have been terminated since.
func (a *Agent) unnamed(domains []Domain, before map[string]uint64) (all []Domain) {
	_ = a.cfg.Store.View(func(v *state.View) error {
		for _, d := range domains {
			if !d.Ours {
				continue
			}
			i, err := Instances.Get(v, d.ID)
			_, known := before[d.ID]
			if err == nil && a.passes(v, i) {
				continue
			}
			if (err != nil && !known) || (err == nil && (i.HostID != a.cfg.Host.ID || i.Epoch != d.Epoch)) {
				all = append(all, d)
			}
		}
		return nil
	})
	return all
}

// reportOrphans logs the orphans that were not there before.
func (a *Agent) reportOrphans(domains []Domain, before map[string]uint64) {
	a.orphans.mu.Lock()
	defer a.orphans.mu.Unlock()
	now := map[Domain]bool{}
	for _, d := range a.unnamed(domains, before) {
		now[d] = true
		if !a.orphans.reported[d] {
			a.cfg.Logger.Warn("compute: a domain that no record names; it is left alone", "domain", d.Name, "id", d.ID,
				"epoch", d.Epoch, "power", d.Power)
		}
	}
	a.orphans.reported = maps.Clone(now)
}
