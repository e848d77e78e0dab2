package network

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// Limits are how much may get to a guest and from it. What is more is dropped.
type Limits struct {
	In  Rate // to the guest
	Out Rate // from the guest
}

// Rate is how many bytes of packets may pass, Ethernet headers not counted.
type Rate struct {
	Bytes uint64 // each second, MinRate to MaxRate; 0: any number
	Burst uint32 // how many more than those of a second at once, in bytes; 0: DefaultBurst
}

// What a [Rate] may be, in bytes. The default burst is two of the largest packets that there are, so that each passes at any rate.
const (
	MinRate      = 1000
	MaxRate      = 10_000_000_000
	DefaultBurst = 128 << 10
)

// BurstBytes returns Burst, or what it is by default.
func (r Rate) BurstBytes() uint32 {
	if r.Burst == 0 {
		return DefaultBurst
	}
	return r.Burst
}

// Validate returns what is wrong with l, naming the field and its limit, as an InvalidArgument.
func (l Limits) Validate() error {
	for _, r := range []struct {
		name string
		Rate
	}{{"In", l.In}, {"Out", l.Out}} {
		switch {
		case r.Bytes == 0 && r.Burst != 0:
			return fmt.Errorf("Limits.%s.Burst is %d, must be 0 without Bytes: %w", r.name, r.Burst, errdefs.ErrInvalidArgument)
		case r.Bytes != 0 && (r.Bytes < MinRate || r.Bytes > MaxRate):
			return fmt.Errorf("Limits.%s.Bytes is %d, must be 0 or %d to %d each second: %w", r.name, r.Bytes, MinRate, MaxRate, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// SetLimits gives a port other limits, and returns those that it had. The node has them in force when it plugs the port again ([Agent.Plug]).
// What [Limits.Validate] refuses is InvalidArgument; a port that does not exist is NotFound.
func SetLimits(tx *state.Tx, portID string, l Limits) (had Limits, err error) {
	if err := l.Validate(); err != nil {
		return had, err
	}
	p, err := Ports.Get(tx, portID)
	if err != nil {
		return had, err
	}
	had, p.Limits = p.Limits, l
	return had, Ports.Put(tx, p)
}
