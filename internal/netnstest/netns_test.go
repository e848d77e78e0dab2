//go:build linux

package netnstest

import (
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestANamespaceHasNothingButLoopback(t *testing.T) {
	ns := New(t)
	var names []string
	require.NoError(t, ns.Do(func() error {
		all, err := net.Interfaces()
		for _, i := range all {
			names = append(names, i.Name)
			require.NotZero(t, i.Flags&net.FlagUp, i.Name)
		}
		return err
	}))
	require.Equal(t, []string{"lo"}, names)
}

func TestNobodyElseIsInTheNamespace(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	ns := New(t)
	inside, err := os.Readlink(ns.Path())
	require.NoError(t, err)
	require.NotEqual(t, before, inside)
	for range 100 {
		require.NoError(t, ns.Do(func() error { return nil }))
		now, err := os.Readlink("/proc/thread-self/ns/net")
		require.NoError(t, err)
		require.Equal(t, before, now)
	}
}
