package network

import (
	"context"
	"errors"
	"sync"
)

// Server serves the guests behind a node's taps, from what it was last given and nothing else: DHCP (network/dhcp), connections to
// 169.254.169.254 (network/linklocal), router advertisements (network/ra). Its methods are safe for concurrent use.
// A [DHCPServer] is one, and says of each method what the others keep to as well.
type Server interface {
	// Apply replaces all that the server knows. What contradicts itself is InvalidArgument, and nothing was changed. A
	// bridge that does not exist is served as soon as it does.
	Apply(ctx context.Context, d Desired) error

	// Plug adds or replaces one tap, and its bridge if it is new or differs. When it has returned, the guest behind the tap may
	// start.
	Plug(ctx context.Context, b Bridge, t Tap) error

	// Unplug forgets the tap with this name; an unknown one is success.
	Unplug(ctx context.Context, tap string) error

	// Run serves until ctx ends, then returns nil once every goroutine of the server has ended. The other methods may be
	// called before, during and after it.
	Run(ctx context.Context) error
}

// servers are all servers of a node, each of which is told everything.
type servers []Server

func (all servers) each(do func(Server) error) error {
	var err error
	for _, s := range all {
		err = errors.Join(err, do(s))
	}
	return err
}

// run starts the servers.
func (a *Agent) run(ctx context.Context, running *sync.WaitGroup) {
	for _, s := range a.servers {
		running.Go(func() {
			if err := s.Run(ctx); err != nil && ctx.Err() == nil {
				a.cfg.Logger.Error("network: a server of the node ended", "error", err)
			}
		})
	}
}
