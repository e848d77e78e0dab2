package freeport

import (
	"net"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFind(t *testing.T) {
	ports, err := Find("127.0.0.1", 100)
	require.NoError(t, err)
	seen := map[int]bool{}
	for _, port := range ports {
		require.False(t, seen[port], "twice")
		seen[port] = true
		require.True(t, first <= port && port < end, port)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		require.NoError(t, err)
		require.NoError(t, l.Close())
	}
	_, err = Find("192.0.2.1", 1) // RFC 5737: no machine has it
	require.ErrorContains(t, err, "192.0.2.1 has not 1 free ports")
}
