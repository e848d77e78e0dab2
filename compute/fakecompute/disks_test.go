package fakecompute_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/compute/fakecompute"
)

func TestDisksAreRememberedByInstance(t *testing.T) {
	d := fakecompute.NewDisks()
	for _, id := range []string{"b", "a", "b"} {
		_, err := d.Make(t.Context(), compute.Instance{ID: id})
		require.NoError(t, err)
	}
	all, err := d.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, all)
	require.NoError(t, d.Remove(t.Context(), "a"))
	require.NoError(t, d.Remove(t.Context(), "never was"))
	all, err = d.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"b"}, all)

	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = d.Make(over, compute.Instance{ID: "c"})
	require.ErrorIs(t, err, context.Canceled)
}
