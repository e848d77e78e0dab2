package statetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/dewpoint-cloud/dewpoint/state"
)

func closeRows() []row {
	return []row{
		{
			name: "close",
			rule: "Close ends every Follow and refuses later calls with ErrClosed",
			check: func(ctx context.Context, b *bench) error {
				if err := b.fill(ctx, 3); err != nil {
					return err
				}
				const followers = 4
				ends := make(chan error, followers)
				ready := make(chan struct{}, followers)
				for range followers {
					go func() {
						last, begun := errEnded, false
						for _, err := range b.Log.Follow(ctx, 0) {
							last = err
							if !begun {
								begun = true
								ready <- struct{}{}
							}
						}
						if !begun {
							ready <- struct{}{}
						}
						ends <- last
					}()
				}
				for range followers {
					<-ready
				}
				closed := b.Log.Close()
				var all []error
				for range followers {
					all = append(all, class("a Follow that was closed", <-ends, state.ErrClosed))
				}
				if err := errors.Join(append(all, closed)...); err != nil {
					return err
				}
				_, err := b.commit(ctx, set("a", "1"))
				if err := class("Commit after Close", err, state.ErrClosed); err != nil {
					return err
				}
				for _, from := range []state.Revision{0, 2, 3} {
					f := b.follow(ctx, mirror{rev: from})
					_, err, _ := f.next()
					f.stop()
					if err := class(fmt.Sprintf("Follow from %d after Close", from), err, state.ErrClosed); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "a second close",
			rule: "A second Close does nothing",
			check: func(ctx context.Context, b *bench) error {
				if err := b.Log.Close(); err != nil {
					return err
				}
				return b.Log.Close()
			},
		},
	}
}
