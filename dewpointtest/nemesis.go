package dewpointtest

import (
	"context"
	"math/rand/v2"
	"time"
)

// unleash lets the mishaps of the configuration happen, each at a time from the seed, until ctx ends. Then what they broke is
// whole again.
func (s *Sim) unleash(ctx context.Context) {
	f := s.cfg.Faults
	dice := rand.New(rand.NewPCG(s.cfg.Seed, 2))
	at := func(times int, do func(pick uint64, length time.Duration)) {
		for range times {
			when, pick, length := time.Duration(dice.Int64N(int64(f.Over))), dice.Uint64(), time.Duration(dice.Int64N(int64(time.Minute)))
			s.nemesis.Go(func() {
				if pause(ctx, when) {
					do(pick, length)
				}
			})
		}
	}
	at(f.Kills, func(pick uint64, length time.Duration) {
		p := s.order[pick%uint64(len(s.order))]
		s.KillAt(p.name, 1+int(pick>>32%50))
		if pause(ctx, length/10) {
			p.kill() // it had less to do
		}
	})
	at(f.Cuts, func(pick uint64, length time.Duration) {
		p := s.order[pick%uint64(len(s.order))]
		p.cut()
		pause(ctx, 5*time.Second+length*2/3)
		p.heal()
	})
	at(f.PowerCuts, func(pick uint64, length time.Duration) {
		host := int(pick % uint64(len(s.Hosts)))
		s.PowerOff(host)
		pause(ctx, 5*time.Second+length*4/3)
		s.PowerOn(host)
	})
	at(f.GuestFalls, func(pick uint64, _ time.Duration) {
		h := s.Hosts[pick%uint64(len(s.Hosts))].Machines
		all := h.Domains()
		if len(all) == 0 {
			return
		}
		switch id := all[pick>>40%uint64(len(all))].ID; pick >> 32 % 3 {
		case 0:
			_ = h.Crash(id)
		case 1:
			_ = h.PowerOff(id)
		default:
			h.Remove(id)
		}
	})
}

// pause waits, and returns false if ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
