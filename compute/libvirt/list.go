package libvirt

import (
	"context"
	"errors"

	golibvirt "github.com/digitalocean/go-libvirt"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// List implements [compute.Hypervisor]. It takes one call for the states of all domains and one for the metadata of each.
func (h *Hypervisor) List(ctx context.Context) (all []compute.Domain, err error) {
	err = h.do(ctx, func(w wire) error {
		records, err := w.ConnectGetAllDomainStats(nil, uint32(golibvirt.DomainStatsState), 0)
		if err != nil {
			return err
		}
		all = make([]compute.Domain, 0, len(records))
		for _, r := range records {
			d := compute.Domain{ID: idOf(r.Dom), Name: r.Dom.Name, Power: power(number(r, "state.state"), number(r, "state.reason"))}
			i, err := identify(w, r.Dom)
			switch {
			case is(err, golibvirt.ErrNoDomain):
				continue // it went meanwhile
			case errors.Is(err, errForeign):
			case err != nil:
				return err
			default:
				d.Ours, d.Epoch = true, i.Epoch
			}
			all = append(all, d)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// number returns a parameter that is an int, or -1.
func number(r golibvirt.DomainStatsRecord, name string) int32 {
	for _, p := range r.Params {
		if p.Field == name {
			if n, ok := p.Value.I.(int32); ok {
				return n
			}
		}
	}
	return -1
}
