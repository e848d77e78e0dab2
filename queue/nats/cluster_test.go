package nats_test

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
	"testing"

	"context"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/nats"
	"github.com/dewpoint-cloud/dewpoint/queue/nats/natsserver"
)

// TestCluster has two servers, as two controllers would, with certificates and passwords between them, and a bus on each.
// Messages pass between them; when one server ends, its bus goes to the other, which it has only been told of.
func TestCluster(t *testing.T) {
	t.Parallel()
	ours := newAuthority(t)
	between := &tls.Config{Certificates: []tls.Certificate{ours.sign(t)}, RootCAs: ours.pool, ClientCAs: ours.pool}
	config := func(routes ...string) natsserver.Config {
		return natsserver.Config{
			Listen: "127.0.0.1:0", TLS: &tls.Config{Certificates: []tls.Certificate{ours.sign(t)}}, User: "cloud", Password: secret,
			Cluster: &natsserver.Cluster{Name: "cloud", Listen: "127.0.0.1:0", Routes: routes, TLS: between, User: "route", Password: secret},
		}
	}
	first := start(t, config())
	second := start(t, config(first.ClusterAddr()))
	until(t, "the servers find each other", func() bool { return first.Peers() > 0 && second.Peers() > 0 })

	bus := func(s *natsserver.Server) *nats.Bus {
		return open(t, again(nats.Config{URLs: []string{s.URL()}, TLS: &tls.Config{RootCAs: ours.pool}, User: "cloud", Password: secret}))
	}
	near, far := bus(first), bus(second)
	var fanned atomic.Int64
	handle := func(_ context.Context, m queue.Message) ([]byte, error) {
		if string(m.Body) == "all" {
			fanned.Add(1)
		}
		return m.Body, nil
	}
	for _, b := range []*nats.Bus{near, far} {
		_, err := b.Serve("both", handle)
		require.NoError(t, err)
	}
	_, err := far.Serve("far", handle)
	require.NoError(t, err)
	until(t, "the other server knows the topic", answers(t, near, "far"))
	for n := range 20 {
		answer, err := call(t, near, "far", fmt.Sprint(n))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(n), answer)
	}
	require.NoError(t, near.Fanout(t.Context(), queue.Message{Topic: "both", Body: []byte("all")}))
	until(t, "the fanout reaches both", func() bool { return fanned.Load() == 2 })
	_, err = call(t, near, "nobody", "")
	require.ErrorIs(t, err, queue.ErrNoListener)

	require.NoError(t, second.Close())
	until(t, "the bus of the server that ended is at the other", answers(t, near, "far"))
	until(t, "and calls from there", answers(t, far, "both"))
}
