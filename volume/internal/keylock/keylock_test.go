package keylock

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestOneHolderAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Locks
		unlock, err := l.Lock(t.Context(), "b", "a", "b")
		require.NoError(t, err)
		had := make(chan func())
		go func() {
			unlock, _ := l.Lock(context.Background(), "b", "c")
			had <- unlock
		}()
		synctest.Wait()
		select {
		case <-had:
			t.Fatal("two hold b")
		default:
		}
		other, err := l.Lock(t.Context(), "d")
		require.NoError(t, err, "another key is free")
		other()
		unlock()
		(<-had)()
		require.Empty(t, l.held)
	})
}

func TestTwoThatWantTheSameInAnotherOrder(t *testing.T) {
	var l Locks
	done := make(chan error, 2)
	for _, keys := range [][]string{{"a", "b"}, {"b", "a"}} {
		go func() {
			for range 10000 {
				unlock, err := l.Lock(context.Background(), keys...)
				if err != nil {
					done <- err
					return
				}
				unlock()
			}
			done <- nil
		}()
	}
	require.NoError(t, <-done)
	require.NoError(t, <-done)
}

func TestAContextThatEndsLeavesNothingHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Locks
		unlock, err := l.Lock(t.Context(), "b")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error)
		go func() {
			_, err := l.Lock(ctx, "a", "b")
			failed <- err
		}()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-failed, context.Canceled)
		again, err := l.Lock(t.Context(), "a")
		require.NoError(t, err, "a was given back")
		again()
		unlock()
	})
}
