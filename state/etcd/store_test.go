package etcd

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/etcd/etcdserver"
)

// account is a record whose amounts two stores race for.
type account struct {
	ID     string
	Amount int
	Moves  int
}

type total struct{ Amount, Moves int }

func (t total) Plus(o total) total  { return total{t.Amount + o.Amount, t.Moves + o.Moves} }
func (t total) Minus(o total) total { return total{t.Amount - o.Amount, t.Moves - o.Moves} }

var (
	accounts = state.NewTable("account", func(a account) string { return a.ID })
	totals   = state.NewSum("total", accounts, func(a account) (string, total) { return "all", total{a.Amount, a.Moves} })
)

// Two stores over one etcd, each with a connection that breaks now and then, move amounts between accounts: none is lost, none
// appears, each move is done once, and both stores see the same in the end.
func TestTwoStores(t *testing.T) {
	t.Parallel()
	url := embedded(t, etcdserver.Config{})[0]
	race(t, Config{}, url, url)
}

// raceRetain is more than what one store of a race commits: another that is cut off finds out what became of its own last commit.
const raceRetain = 64

// race has two stores, each with a server of its own, race for the same records.
func race(t *testing.T, cfg Config, urls ...string) {
	t.Helper()
	const workers, moves, number = 6, 20, 5
	stores := len(urls)
	var all []*state.Store
	var relays []*relay
	for _, url := range urls {
		r := newRelay(t, url)
		relays = append(relays, r)
		cfg.Endpoints, cfg.Timeout = []string{r.url()}, mostTimeout
		s, err := state.Open(t.Context(), state.Config{Log: open(t, cfg), Schema: []state.Schema{accounts, totals}})
		require.NoError(t, err)
		defer s.Close()
		all = append(all, s)
	}
	require.NoError(t, all[0].Update(t.Context(), func(tx *state.Tx) error {
		for i := range number {
			if err := accounts.Put(tx, account{ID: fmt.Sprint(i), Amount: 100}); err != nil {
				return err
			}
		}
		return nil
	}))
	eventually(t, "the other store has seen it", func() bool { return all[1].Revision() >= all[0].Revision() })
	var work sync.WaitGroup
	for w := range workers {
		work.Go(func() {
			s := all[w%stores]
			for i := range moves {
				from, to := fmt.Sprint((w+i)%number), fmt.Sprint((w+i+1+i%3)%number)
				err := s.Update(context.Background(), func(tx *state.Tx) error {
					a, _ := accounts.Get(tx, from)
					b, _ := accounts.Get(tx, to)
					a.Amount, a.Moves = a.Amount-1, a.Moves+1
					b.Amount = b.Amount + 1
					if err := accounts.Put(tx, a); err != nil {
						return err
					}
					return accounts.Put(tx, b)
				})
				if err != nil {
					t.Error(err)
				}
				if i%5 == w%5 {
					relays[w%stores].cut()
				}
			}
		})
	}
	work.Wait()
	last := max(all[0].Revision(), all[1].Revision())
	for _, s := range all {
		eventually(t, "the store has seen all", func() bool { return s.Revision() >= last })
		require.NoError(t, s.View(func(v *state.View) error {
			require.Equal(t, total{number * 100, workers * moves}, totals.Get(v, "all"))
			return nil
		}))
	}
}
