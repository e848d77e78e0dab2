package etcd

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/etcd/etcdserver"
)

// pull follows a log batch by batch.
func pull(t *testing.T, l *Log, from state.Revision) func() state.Batch {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	next, stop := iter.Pull2(l.Follow(ctx, from))
	t.Cleanup(func() { stop(); cancel() })
	return func() state.Batch {
		t.Helper()
		b, err, ok := next()
		require.NoError(t, err)
		require.True(t, ok, "the follower has ended")
		return b
	}
}

// A follower that reads nothing while etcd is written to and compacted is given a snapshot, and holds up nobody.
func TestASlowFollowerAndCompaction(t *testing.T) {
	t.Parallel()
	urls := embedded(t, etcdserver.Config{})
	client := bare(t, urls...)
	var j notes
	l := open(t, Config{Endpoints: urls, History: 5, Logger: j.logger()})
	slow := pull(t, l, 0)
	require.True(t, slow().Snapshot)
	var last state.Revision
	for i := range 30 {
		last = put(t, l, set("a", fmt.Sprint(i)), set(fmt.Sprint("b", i), "x"))
		if i == 0 {
			require.Equal(t, last, slow().Rev) // its watch has begun
		}
	}
	_, err := client.Compact(t.Context(), int64(last))
	require.NoError(t, err)
	last = put(t, l, state.Op{Key: "b7", Delete: true})
	eventually(t, "the follower is at the last batch, by a snapshot", func() bool {
		b := slow()
		if b.Rev == last && b.Snapshot {
			require.Len(t, b.Ops, 30)
			return true
		}
		return false
	})
	require.Contains(t, j.String(), "too far behind")
	last = put(t, l, set("c", "1"))
	b := slow()
	require.False(t, b.Snapshot)
	require.Equal(t, last, b.Rev)

	// One that comes back with a revision that is compacted is given a snapshot too, and one that asks for what is left is not.
	_, err = client.Compact(t.Context(), int64(last))
	require.NoError(t, err)
	late := pull(t, l, last-2)
	require.True(t, late().Snapshot)
	now := put(t, l, set("c", "2"))
	require.Equal(t, now, late().Rev)
	require.False(t, pull(t, l, last)().Snapshot)
}

// A log that is quiet, in an etcd that is not, is followed across compaction without a snapshot.
func TestOthersUseTheSameEtcd(t *testing.T) {
	t.Parallel()
	urls := embedded(t, etcdserver.Config{})
	client := bare(t, urls...)
	l, neighbour := open(t, Config{Endpoints: urls}), open(t, Config{Endpoints: urls, Prefix: "dewpoint/neighbour/"})
	other := open(t, Config{Client: client, Prefix: "other/"})
	put(t, l, set("a", "1"))
	f := pull(t, l, 0)
	require.True(t, f().Snapshot)
	first := put(t, l, set("b", "1"))
	require.Equal(t, first, f().Rev)
	var theirs int64
	for i := range 20 {
		put(t, other, set("a", fmt.Sprint(i)), set("z", "x"))
		put(t, neighbour, set("a", fmt.Sprint(i)))
		resp, err := client.Put(t.Context(), "dewpoinu", fmt.Sprint(i))
		require.NoError(t, err)
		theirs = resp.Header.Revision
	}
	_, err := client.Compact(t.Context(), theirs)
	require.NoError(t, err)
	have, rev := rows(t, l)
	require.Equal(t, map[string]string{"a": "1", "b": "1"}, have)
	require.Equal(t, first, rev, "a snapshot's revision is that of the last batch")
	fresh := pull(t, l, 0) // its snapshot's revision is compacted, what follows is not
	require.True(t, fresh().Snapshot)
	last := put(t, l, set("c", "1"))
	for _, next := range []func() state.Batch{f, fresh} {
		b := next()
		require.False(t, b.Snapshot)
		require.Equal(t, last, b.Rev)
		require.Len(t, b.Ops, 1)
	}
	require.NoError(t, l.Close())
	got, err := client.Get(t.Context(), "dewpoinu")
	require.NoError(t, err)
	require.Equal(t, "19", string(got.Kvs[0].Value))
	have, _ = rows(t, other)
	require.Equal(t, map[string]string{"a": "19", "z": "x"}, have)
	require.NoError(t, other.Close())
	_, err = client.Get(t.Context(), "a") // the caller's client is not closed
	require.NoError(t, err)
}

// Snapshots of many pages, and of large ones, are of one revision.
func TestPages(t *testing.T) {
	t.Parallel()
	l := open(t, Config{Endpoints: embedded(t, etcdserver.Config{})})
	want := map[string]string{}
	for i := range 12 {
		var ops []state.Op
		for j := range 100 {
			key := fmt.Sprintf("%02d/%03d", j%7, i*100+j)
			ops = append(ops, set(key, fmt.Sprint(i)))
			want[key] = fmt.Sprint(i)
		}
		put(t, l, ops...)
	}
	for i := range 6 {
		key, value := fmt.Sprint("03/large/", i), strings.Repeat("v", 1_200_000)
		put(t, l, set(key, value))
		want[key] = value
	}
	ctx, cancel := context.WithCancel(t.Context())
	written := make(chan error, 1)
	go func() { // two keys that are always the same, far apart
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := l.Commit(t.Context(), state.Batch{Ops: []state.Op{set("00", fmt.Sprint(i)), set("99", fmt.Sprint(i))}}); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	for range 4 {
		have, _ := rows(t, l)
		require.Equal(t, have["00"], have["99"])
		delete(have, "00")
		delete(have, "99")
		require.Equal(t, want, have)
	}
	cancel()
	require.NoError(t, <-written)
}

// The log compacts, when asked to.
func TestTheLogCompacts(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	urls := embedded(t, etcdserver.Config{})
	client := bare(t, urls...)
	var j notes
	a, b := open(t, Config{Endpoints: urls, Compact: time.Second, Logger: j.logger()}), open(t, Config{Endpoints: urls, Compact: time.Second, Logger: j.logger()})
	first := put(t, a, set("a", "1"))
	put(t, b, set("a", "2"))
	eventually(t, "the first revision is forgotten", func() bool {
		_, err := client.Get(t.Context(), a.keys.row("a"), clientv3.WithRev(int64(first)))
		return err != nil && strings.Contains(err.Error(), "compacted")
	})
	eventually(t, "and a later one", func() bool {
		rev := put(t, a, set("a", "3"))
		put(t, a, set("a", "4"))
		time.Sleep(100 * time.Millisecond)
		_, err := client.Get(t.Context(), a.keys.row("a"), clientv3.WithRev(int64(rev-40)))
		return err != nil && strings.Contains(err.Error(), "compacted")
	})
	have, _ := rows(t, a)
	require.Equal(t, map[string]string{"a": "4"}, have)
	require.NotContains(t, j.String(), "not compacted")
}

// Batches come whole, however their events are cut into portions; what another hand wrote comes with the next.
func TestEventsArePutTogether(t *testing.T) {
	k := keys{"p/"}
	event := func(rev int64, key, value string, removed bool) *clientv3.Event {
		kind := clientv3.EventTypePut
		if removed {
			kind = clientv3.EventTypeDelete
		}
		e := &clientv3.Event{Type: kind}
		e.Kv = &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: rev}
		return e
	}
	a := assembler{keys: k}
	var got []state.Batch
	for _, e := range []*clientv3.Event{
		event(5, "p/k/a", "1", false), event(5, "p/k/b", "", true), event(5, "p/head", "1", false),
		event(9, "p/head", "1-gone", false), // a removal of what was not there
		event(11, "p/k/hand", "x", false),   // by hand
		event(12, "p/k/a", "2", false), event(12, "p/head", "1-a", false),
		event(13, "p/k/hand", "", true), event(14, "p/head", "1", false), event(15, "p/head", "", true),
	} {
		done, err := a.add(e)
		require.NoError(t, err)
		got = append(got, done...)
	}
	require.Equal(t, []state.Batch{
		{Rev: 5, Ops: []state.Op{{Key: "a", Value: []byte("1"), Rev: 5}, {Key: "b", Value: []byte(""), Delete: true, Rev: 5}}},
		{Rev: 9, Ops: []state.Op{{Key: "gone", Delete: true, Rev: 9}}},
		{Rev: 11, Ops: []state.Op{{Key: "hand", Value: []byte("x"), Rev: 11}}},
		{Rev: 12, Ops: []state.Op{{Key: "a", Value: []byte("2"), Rev: 12}}},
		{Rev: 13, Ops: []state.Op{{Key: "hand", Value: []byte(""), Delete: true, Rev: 13}}},
	}, got)
	_, err := a.add(event(20, "p/head", "2", false))
	require.ErrorContains(t, err, "format 1")
}
