package compute

import (
	"context"

	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/operation"
)

// SetLimits changes how much an instance's card on a network, by id or name, may get and send; the zero value is any number. Of several
// cards on the network it is the first. It is for administrators, in any project. It returns at once; the instance is "networking" until its
// node keeps to the limits, [Service.Wait] waits for that. If that can't be, the card has those again that it had, and the instance's Fault says
// why. The guest notices nothing else; the flavor stays as it is, and so do the limits of other instances.
//
// The instance must be active, paused or stopped, with nothing being done to it, and have a card on the network; otherwise it is
// FailedPrecondition. What [network.Limits.Validate] refuses is InvalidArgument.
func (s *Service) SetLimits(ctx context.Context, id, networkIDOrName string, limits network.Limits) error {
	return s.beginCard(ctx, "compute:limits:set", kindSetLimits, id, networkIDOrName, func(tx *state.Tx, cards []network.Port, w *cardWork) (err error) {
		w.PortID = cards[0].ID
		w.Limits, err = network.SetLimits(tx, w.PortID, limits)
		return err
	})
}

// setLimits has limits in force that the service has put on record.
func (a *Agent) setLimits() operation.Definition {
	return operation.Define(operation.Kind[cardWork]{
		Name: kindSetLimits,
		Steps: []operation.Step[cardWork]{{Name: "filter", Do: a.plugAgain, Undo: func(ctx context.Context, w *cardWork) error {
			return a.changeAgain(ctx, w, func(tx *state.Tx) error {
				_, err := network.SetLimits(tx, w.PortID, w.Limits)
				return err
			})
		}}},
		Done:    func(tx *state.Tx, w *cardWork) error { return w.end(tx, "") },
		Failed:  func(tx *state.Tx, w *cardWork, reason string) error { return w.end(tx, reason) },
		Problem: func(tx *state.Tx, w *cardWork, problem string) error { return fault(tx, &w.work, problem) },
	})
}
