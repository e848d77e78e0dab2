package compute

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// AddFixedIP gives an instance's card on a network, by id or name, another IPv4 address of it: addr, or any that is free if addr
// is the zero value. It returns the address at once; the instance is "networking" until its node lets the address through,
// [Service.Wait] waits for that. If that can't be, the address is free again and the instance's Fault says why. DHCP goes on to hand out
// the card's first address: the guest learns the others from the metadata service, or its user sets them.
//
// The instance must be active, paused or stopped, with nothing being done to it, and have a card on the network; otherwise it is
// FailedPrecondition. An addr that is not of the network's subnet, or reserved, is InvalidArgument, one that is taken
// AlreadyExists, and one more than [network.MaxFixedIPs], or any of a network that has none left, ResourceExhausted.
func (s *Service) AddFixedIP(ctx context.Context, id, networkIDOrName string, addr netip.Addr) (netip.Addr, error) {
	wish := addr
	err := s.beginCard(ctx, "compute:fixed-ip:add", kindAddIP, id, networkIDOrName, func(tx *state.Tx, cards []network.Port, w *cardWork) (err error) {
		w.PortID = cards[0].ID
		addr, err = s.cfg.Addresses.AddFixedIP(tx, w.PortID, wish)
		w.Addr = addr
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	return addr, nil
}

// RemoveFixedIP takes an IPv4 address from an instance's card on a network, by id or name. It returns at once; the instance is
// "networking" until its node lets the address through no more, and only then is the address free for others. If that can't be, the
// card has the address again, as its last, and the instance's Fault says why.
//
// What the instance must be is as with [Service.AddFixedIP]. An address that it does not have there is NotFound; the card's only IPv4
// address is FailedPrecondition. A floating IP that stands for the address leads nowhere then.
func (s *Service) RemoveFixedIP(ctx context.Context, id, networkIDOrName string, addr netip.Addr) error {
	return s.beginCard(ctx, "compute:fixed-ip:remove", kindRemoveIP, id, networkIDOrName, func(tx *state.Tx, cards []network.Port, w *cardWork) error {
		card := cards[max(0, slices.IndexFunc(cards, func(p network.Port) bool { return slices.Contains(p.Addrs, addr) }))]
		w.PortID, w.Addr = card.ID, addr
		return s.cfg.Addresses.WithdrawFixedIP(tx, w.PortID, addr)
	})
}

// beginCard begins an operation on one of an instance's cards on a network, once change has changed the records and said what the operation
// keeps.
func (s *Service) beginCard(ctx context.Context, action, kind, id, networkIDOrName string,
	change func(tx *state.Tx, cards []network.Port, w *cardWork) error) error {
	return s.begin(ctx, action, id, func(tx *state.Tx, i *Instance) error {
		if err := i.may(TaskNetworking); err != nil {
			return err
		}
		n, err := findNetwork(tx, auth.Caller{ProjectID: i.ProjectID}, networkIDOrName)
		if err != nil {
			return err
		}
		var cards []network.Port
		for _, port := range i.Ports {
			p, err := network.Ports.Get(tx, port)
			if err != nil {
				return err
			}
			if p.NetworkID == n.ID {
				cards = append(cards, p)
			}
		}
		if len(cards) == 0 {
			return fmt.Errorf("instance %s has no card on network %q: %w", i.ID, n.Name, errdefs.ErrFailedPrecondition)
		}
		w := cardWork{work: work{i.ID, i.Epoch}}
		if err := change(tx, cards, &w); err != nil {
			return fmt.Errorf("compute: instance %s: %w", i.ID, err)
		}
		i.Task = TaskNetworking
		op := i.operation(kind, actionDeadline)
		op.Data = w
		_, err = operation.Begin(tx, op)
		return err
	})
}

// cardWork is what an operation on a card of an instance keeps.
type cardWork struct {
	work
	PortID string
	Addr   netip.Addr     // that comes or goes
	Limits network.Limits // that the card had
}

// The kinds of operations on cards of an instance.
const (
	kindAddIP     = "instance.fixed-ip.add"
	kindRemoveIP  = "instance.fixed-ip.remove"
	kindSetLimits = "instance.limits.set"
)

// addIP has an address in force that the service has given the card.
func (a *Agent) addIP() operation.Definition {
	return operation.Define(operation.Kind[cardWork]{
		Name: kindAddIP,
		Steps: []operation.Step[cardWork]{{Name: "filter", Do: a.plugAgain, Undo: func(ctx context.Context, w *cardWork) error {
			return a.changeAgain(ctx, w, func(tx *state.Tx) error {
				err := a.cfg.Addresses.WithdrawFixedIP(tx, w.PortID, w.Addr)
				if errdefs.IsNotFound(err) { // an attempt before has withdrawn it
					return nil
				}
				return err
			})
		}}},
		Done: func(tx *state.Tx, w *cardWork) error { return w.end(tx, "") },
		Failed: func(tx *state.Tx, w *cardWork, reason string) error {
			if err := a.free(tx, w); err != nil {
				return err
			}
			return w.end(tx, reason)
		},
		Problem: func(tx *state.Tx, w *cardWork, problem string) error { return fault(tx, &w.work, problem) },
	})
}

// removeIP has an address in force no more that the service has withdrawn.
func (a *Agent) removeIP() operation.Definition {
	return operation.Define(operation.Kind[cardWork]{
		Name: kindRemoveIP,
		Steps: []operation.Step[cardWork]{{Name: "filter", Do: a.plugAgain, Undo: func(ctx context.Context, w *cardWork) error {
			return a.changeAgain(ctx, w, func(tx *state.Tx) error { return a.cfg.Addresses.RestoreFixedIP(tx, w.PortID, w.Addr) })
		}}},
		Done: func(tx *state.Tx, w *cardWork) error {
			if err := a.free(tx, w); err != nil {
				return err
			}
			return w.end(tx, "")
		},
		Failed:  func(tx *state.Tx, w *cardWork, reason string) error { return w.end(tx, reason) },
		Problem: func(tx *state.Tx, w *cardWork, problem string) error { return fault(tx, &w.work, problem) },
	})
}

// plugAgain has in force what is on record of the card.
func (a *Agent) plugAgain(ctx context.Context, w *cardWork) error {
	_, err := a.cfg.Network.Plug(ctx, w.PortID)
	return err
}

// changeAgain changes the card's record, and has it in force. What an instance has that is being terminated goes with
// it, and what can't be had in force is not to hold that up.
func (a *Agent) changeAgain(ctx context.Context, w *cardWork, f func(tx *state.Tx) error) error {
	var ends bool
	if err := a.cfg.Store.Update(ctx, func(tx *state.Tx) (err error) {
		if ends, err = w.ends(tx); err != nil || ends {
			return err
		}
		return f(tx)
	}); err != nil || ends {
		return err
	}
	return a.plugAgain(ctx, w)
}

// free makes the address free for others, unless it is to be freed with all that the instance has.
func (a *Agent) free(tx *state.Tx, w *cardWork) error {
	if ends, err := w.ends(tx); err != nil || ends {
		return err
	}
	return a.cfg.Addresses.FreeFixedIP(tx, w.PortID, w.Addr)
}

// ends tells whether the instance is being terminated, or gone.
func (w *cardWork) ends(r state.Reader) (bool, error) {
	i, err := Instances.Get(r, w.InstanceID)
	if errdefs.IsNotFound(err) {
		return true, nil
	}
	return i.Task == TaskDeleting, err
}

// end leaves the instance in the state that it has, with what went wrong.
func (w *cardWork) end(tx *state.Tx, reason string) error { return giveUp(tx, &w.work, reason) }
