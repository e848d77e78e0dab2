package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dewpoint-cloud/dewpoint/internal/kinetest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/etcd/etcdserver"
	"github.com/dewpoint-cloud/dewpoint/state/statetest"
)

// conformsSingle runs the suite, with a journal that is trimmed all the time.
func conformsSingle(t *testing.T, urls []string) {
	var n atomic.Int64
	statetest.TestLog(t, func(string) (statetest.Subject, error) {
		prefix := fmt.Sprintf("suite/%d/", n.Add(1))
		reopen := func() (state.Log, error) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			return Open(ctx, Config{Endpoints: urls, Prefix: prefix, SingleKey: true, History: 8, every: 4, retain: 1})
		}
		log, err := reopen()
		return statetest.Subject{Log: log, Reopen: reopen}, err
	})
}

func TestSingleKeyLogOnAnEmbeddedMember(t *testing.T) {
	t.Parallel()
	conformsSingle(t, embedded(t, etcdserver.Config{}))
}

func TestSingleKeyLogOnEtcdOfTheSystem(t *testing.T) {
	t.Parallel()
	conformsSingle(t, endpoints(processes(t, 1)))
}

// kine is killed in the middle of commits, and so is its database, of whose failures it says that all went well. It forgets what it
// can while this goes on.
func TestKine(t *testing.T) {
	t.Parallel()
	db := kinetest.StartPostgres(t)
	one, two := kinetest.Start(t, db.DSN("kine"), compacting...), kinetest.Start(t, db.DSN("kine"), "--compact-interval=0")
	cfg := func(prefix string) Config {
		return Config{Endpoints: []string{one.URL()}, Prefix: prefix + "/", SingleKey: true, Timeout: mostTimeout, every: 16, retain: raceRetain}
	}
	t.Run("log", func(t *testing.T) { conformsSingle(t, []string{one.URL()}) })
	t.Run("two stores", func(t *testing.T) { race(t, cfg("race"), one.URL(), two.URL()) })
	t.Run("a late request", func(t *testing.T) {
		// One of its own that does not compact: kine ends if it stands still for five seconds in the middle of that.
		late(t, kinetest.Start(t, db.DSN("kine"), "--compact-interval=0"), two)
	})
	t.Run("without SingleKey", func(t *testing.T) {
		l := open(t, Config{Endpoints: []string{one.URL()}, Prefix: "many/"})
		_, err := l.Commit(t.Context(), state.Batch{Ops: []state.Op{set("a", "1")}})
		require.True(t, errdefs.IsNotImplemented(err), err)
		require.ErrorContains(t, err, "Config.SingleKey may be needed")
		have, _ := rows(t, l)
		require.Empty(t, have)
	})
	t.Run("certificates", func(t *testing.T) {
		ours, others := newAuthority(t), newAuthority(t)
		files := ours.issue()
		url := kinetest.Start(t, db.DSN("tls"), "--server-cert-file", files.Cert, "--server-key-file", files.Key, "--trusted-ca-file", files.CA).URL()
		cfg := Config{Endpoints: []string{strings.Replace(url, "http:", "https:", 1)}, SingleKey: true, TLS: ours.client(ours)}
		put(t, open(t, cfg), set("a", "1"))
		for what, wrong := range map[string]*tls.Config{"the server's is of another CA": others.client(ours), "ours is of another CA": ours.client(others), "we have none": ours.client(nil)} {
			cfg.TLS = wrong
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			_, err := Open(ctx, cfg)
			cancel()
			require.True(t, errdefs.IsUnauthorized(err), "%s: %v", what, err)
		}
	})
	t.Run("limits", func(t *testing.T) { limitsSingle(t, cfg("limits")) })
	t.Run("kine is killed", func(t *testing.T) {
		survives(t, cfg("kine"), func() {
			one.Kill()
			one.Restart(t)
		})
	})
	t.Run("PostgreSQL is killed", func(t *testing.T) {
		survives(t, cfg("postgres"), func() {
			db.Kill()
			db.Restart(t)
			one.Restart(t) // if it has not lived through it
		})
	})
}

// compacting has kine forget as much and as often as it can.
var compacting = []string{"--compact-interval=1s", "--compact-min-retain=0", "--compact-batch-size=100"}

// late has a request of a commit that was given up arrive when the journal has long gone on, and been trimmed and compacted.
func late(t *testing.T, one, two *kinetest.Kine) {
	cfg := Config{Endpoints: []string{one.URL()}, Prefix: "late/", SingleKey: true, Timeout: 3 * time.Second, every: 4, retain: 1}
	slow := open(t, cfg)
	put(t, slow, set("a", "0"))
	one.Stop()
	_, err := slow.Commit(t.Context(), state.Batch{Ops: []state.Op{set("late", "1")}})
	require.ErrorIs(t, err, state.ErrUnknown)
	cfg.Endpoints, cfg.Timeout = []string{two.URL()}, 0
	other := open(t, cfg)
	for i := range 30 {
		put(t, other, set("a", fmt.Sprint(i)))
	}
	client, j := bare(t, two.URL()), other.journal
	eventually(t, "the first entries are trimmed", func() bool {
		kvs, err := j.get(t.Context(), j.keys.entry(2))
		require.NoError(t, err)
		return len(kvs) == 0
	})
	one.Continue() // it does now what it was told before
	have, rev := rows(t, other)
	again, same := rows(t, slow)
	require.Equal(t, have, again)
	require.Equal(t, rev, same)

	// Whoever creates an entry now that is gone is not heard.
	for _, n := range []state.Revision{0, 1, 2} {
		_, err := client.Put(t.Context(), j.keys.entry(n), string(appendEntry(nil, "late", []state.Op{set("a", "wrong"), set("wrong", "1")})))
		require.NoError(t, err)
	}
	fresh := open(t, cfg)
	again, same = rows(t, fresh)
	require.Equal(t, have, again)
	require.Equal(t, rev, same)
	for i := range 30 {
		rev = put(t, fresh, set("a", fmt.Sprint("more ", i)))
	}
	for _, l := range []*Log{slow, other} {
		again, same = rows(t, l)
		require.Equal(t, "more 29", again["a"])
		require.NotContains(t, again, "wrong")
		require.Equal(t, rev, same)
	}
}

// limitsSingle tries what fits just so, and what does not.
func limitsSingle(t *testing.T, cfg Config) {
	l := open(t, cfg)
	limit := l.Limits().Bytes
	_, err := l.Commit(t.Context(), state.Batch{Ops: []state.Op{set("k", strings.Repeat("v", limit-1-opHead))}})
	require.NoError(t, err)
	var many state.Batch
	for i := range 4000 {
		many.Ops, many.Guards = append(many.Ops, set(fmt.Sprint(i), "")), append(many.Guards, state.Guard{Key: fmt.Sprint(i)})
	}
	_, err = l.Commit(t.Context(), many)
	require.NoError(t, err)
	_, rev := rows(t, l)
	_, err = l.Commit(t.Context(), state.Batch{Ops: []state.Op{set("k", strings.Repeat("v", limit-opHead))}})
	require.True(t, errdefs.IsInvalidArgument(err), err)
	require.ErrorContains(t, err, fmt.Sprintf("bytes, the limit is %d (Config.MaxBytes", limit))
	_, same := rows(t, l)
	require.Equal(t, rev, same)
}

func TestSingleKeyLimits(t *testing.T) {
	t.Parallel()
	limitsSingle(t, Config{Endpoints: embedded(t, etcdserver.Config{}), SingleKey: true})
}

// Two stores race over real etcd too.
func TestSingleKeyTwoStores(t *testing.T) {
	t.Parallel()
	url := embedded(t, etcdserver.Config{})[0]
	race(t, Config{SingleKey: true, every: 16, retain: raceRetain}, url, url)
}

// A log that was cut off for long is given what it missed, and its followers too.
func TestSingleKeyIsCutOff(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	url := embedded(t, etcdserver.Config{})[0]
	r := newRelay(t, url)
	cfg := Config{Endpoints: []string{r.url()}, SingleKey: true, Timeout: 3 * time.Second, every: 4, retain: 1}
	cut := open(t, cfg)
	first := put(t, cut, set("a", "1"), set("b", "1"))
	f := pull(t, cut, 0)
	require.Equal(t, first, f().Rev)
	r.set(false, true)
	r.cut()
	cfg.Endpoints, cfg.Timeout = []string{url}, 0
	other := open(t, cfg)
	var last state.Revision
	for i := range 40 {
		last = put(t, other, set("a", fmt.Sprint(i)), state.Op{Key: "b", Delete: true})
	}
	eventually(t, "what it knew last is trimmed", func() bool {
		kvs, err := other.journal.get(t.Context(), other.journal.keys.entry(first))
		require.NoError(t, err)
		return len(kvs) == 0
	})
	client := bare(t, url)
	for n := range state.Revision(3) { // late requests create entries that are gone, also the one it knew last
		_, err := client.Put(t.Context(), cut.keys.entry(first+n), string(appendEntry(nil, "late", []state.Op{set("wrong", "1")})))
		require.NoError(t, err)
	}
	_, err := cut.Commit(t.Context(), state.Batch{Guards: []state.Guard{{Key: "a", Rev: first}}, Ops: []state.Op{set("a", "wrong")}})
	require.Error(t, err)
	require.False(t, errors.Is(err, state.ErrConflict), err)
	r.set(false, false)
	eventually(t, "the follower is at the last batch", func() bool {
		b := f()
		for _, op := range b.Ops {
			require.NotEqual(t, "wrong", op.Key)
		}
		return b.Rev == last
	})
	_, err = cut.Commit(t.Context(), state.Batch{Guards: []state.Guard{{Key: "a", Rev: first}}, Ops: []state.Op{set("a", "wrong")}})
	require.ErrorIs(t, err, state.ErrConflict)
	rev, err := cut.Commit(t.Context(), state.Batch{Guards: []state.Guard{{Key: "a", Rev: last}, {Key: "b"}}, Ops: []state.Op{set("b", "2")}})
	require.NoError(t, err)
	require.Equal(t, last+1, rev)
	have, same := rows(t, other)
	require.Equal(t, map[string]string{"a": "39", "b": "2"}, have)
	require.Equal(t, rev, same)
}

// wire is a client whose transactions a test looks into.
type wire struct {
	mu  sync.Mutex
	txn func(req *pb.TxnRequest, resp *pb.TxnResponse, send func() error) error
}

func (w *wire) client(t *testing.T, url string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			send := func() error { return invoke(ctx, method, req, reply, conn, opts...) }
			txn, is := req.(*pb.TxnRequest)
			w.mu.Lock()
			look := w.txn
			w.mu.Unlock()
			if !is || look == nil {
				return send()
			}
			return look(txn, reply.(*pb.TxnResponse), send)
		})}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *wire) set(txn func(req *pb.TxnRequest, resp *pb.TxnResponse, send func() error) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.txn = txn
}

// kine says of what its database failed to do that it was done, and of what was done that it was not. Neither is believed.
func TestAnswersThatAreWrong(t *testing.T) {
	t.Parallel()
	url := embedded(t, etcdserver.Config{})[0]
	var w wire
	l := open(t, Config{Client: w.client(t, url), SingleKey: true, every: 2, retain: 1})
	var turn atomic.Int64
	w.set(func(_ *pb.TxnRequest, resp *pb.TxnResponse, send func() error) error {
		switch turn.Add(1) % 4 {
		case 0: // not done, and said to be
			resp.Header, resp.Succeeded = &pb.ResponseHeader{Revision: 1}, true
			return nil
		case 1: // done, and said not to be
			err := send()
			resp.Succeeded = false
			return err
		case 2: // done, with an error
			return errors.Join(status.Error(codes.Unknown, "the database has gone"), send())
		}
		return status.Error(codes.Unknown, "the database has gone") // not done, with an error
	})
	want := map[string]string{}
	var last state.Revision
	for i := range 12 {
		key := fmt.Sprint(i % 5)
		rev := put(t, l, set(key, fmt.Sprint(i)))
		require.Equal(t, last+1, rev)
		last, want[key] = rev, fmt.Sprint(i)
	}
	w.set(nil)
	have, rev := rows(t, open(t, Config{Endpoints: []string{url}, SingleKey: true}))
	require.Equal(t, want, have)
	require.Equal(t, last, rev)
}

// A log ends before and after each request of making a snapshot and of trimming: what is there can be read, and the next that makes one
// clears up.
func TestSnapshotsThatAreBrokenOff(t *testing.T) {
	testneed.Slow(t)
	t.Parallel()
	url := embedded(t, etcdserver.Config{})[0]
	for _, done := range []bool{false, true} {
		whole := false
		for step := 0; !whole; step++ {
			t.Run(fmt.Sprintf("%d, done %v", step, done), func(t *testing.T) { whole = breaksOff(t, url, step, done) })
			if t.Failed() {
				return
			}
		}
	}
}

// breaksOff has a log end at a request of its second snapshot, before it or when it is done. It returns whether there are not so many.
func breaksOff(t *testing.T, url string, step int, done bool) (whole bool) {
	prefix := fmt.Sprintf("%v/%d/", done, step)
	var w wire
	l := open(t, Config{Client: w.client(t, url), Prefix: prefix, SingleKey: true, MaxBytes: leastMaxBytes, every: 1 << 30, retain: 1})
	want := map[string]string{}
	write := func(l *Log, from, to int) {
		for i := from; i < to; i++ {
			key, value := fmt.Sprint(i%6), strings.Repeat(fmt.Sprint(i%10), 50<<10)
			put(t, l, set(key, value))
			want[key] = value
		}
	}
	same := func() {
		t.Helper()
		have, rev := rows(t, open(t, Config{Endpoints: []string{url}, Prefix: prefix, SingleKey: true}))
		require.Equal(t, want, have)
		_, now := rows(t, l)
		require.Equal(t, now, rev)
	}
	save := func(l *Log, ctx context.Context) error {
		l.journal.every, l.journal.retain = 1, 2
		defer func() { l.journal.every = 1 << 30 }()
		return l.journal.save(ctx)
	}
	write(l, 0, 9)
	require.NoError(t, save(l, t.Context())) // so that there is one to replace
	write(l, 9, 17)
	ctx, cancel := context.WithCancel(t.Context())
	count := 0
	w.set(func(_ *pb.TxnRequest, _ *pb.TxnResponse, send func() error) (err error) {
		if count++; count == step+1 {
			defer cancel()
		}
		if count <= step || done && count == step+1 {
			err = send()
		}
		return errors.Join(err, ctx.Err())
	})
	err := save(l, ctx)
	whole = count <= step
	w.set(nil)
	cancel()
	if whole {
		require.NoError(t, err)
	}
	same()

	other := open(t, Config{Endpoints: []string{url}, Prefix: prefix, SingleKey: true, MaxBytes: leastMaxBytes})
	write(other, 17, 25)
	require.NoError(t, save(other, t.Context()))
	same()
	left, err := bare(t, url).Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	require.NoError(t, err)
	count = 0
	for _, kv := range left.Kvs {
		if !strings.HasPrefix(string(kv.Key), prefix+"j/") {
			count++
		}
	}
	require.Equal(t, 1+1+3, count, "the head, a snapshot and its pieces: %v", left.Kvs)
	require.Len(t, left.Kvs, count+3, "the entry of the snapshot, and two before it")
	return whole
}

// What is not a log of this layout is refused, and one that somebody's hand was in.
func TestSingleKeyRefuses(t *testing.T) {
	t.Parallel()
	urls := embedded(t, etcdserver.Config{})
	client := bare(t, urls...)
	refused := func(cfg Config, want string) {
		t.Helper()
		cfg.Endpoints = urls
		_, err := Open(t.Context(), cfg)
		require.True(t, errdefs.IsInvalidArgument(err), err)
		require.ErrorContains(t, err, want)
	}
	refused(Config{SingleKey: true, Compact: time.Minute}, "Compact is 1m0s, must be 0 with SingleKey")
	put(t, open(t, Config{Endpoints: urls, Prefix: "many/"}), set("a", "1"))
	refused(Config{Prefix: "many/", SingleKey: true}, "without Config.SingleKey")

	l := open(t, Config{Endpoints: urls, Prefix: "single/", SingleKey: true, every: 1 << 30, retain: 1})
	for i := range 20 {
		put(t, l, set(fmt.Sprint("a", i), "1"))
	}
	l.journal.every = 1
	require.NoError(t, l.journal.save(t.Context()))
	l.journal.every = 1 << 30
	put(t, l, set("a", "2"))
	refused(Config{Prefix: "single/"}, "journal-1")
	require.NoError(t, l.Close())
	for key, what := range map[string]string{l.keys.prefix + "s/": "", l.keys.entry(20): "", l.keys.entry(21): "2"} {
		got, err := client.Get(t.Context(), key, clientv3.WithPrefix())
		require.NoError(t, err)
		if what != "" {
			_, err = client.Put(t.Context(), key, what)
		} else {
			_, err = client.Delete(t.Context(), key, clientv3.WithPrefix())
		}
		require.NoError(t, err)
		refused(Config{Prefix: "single/", SingleKey: true}, "single/")
		_, err = client.Delete(t.Context(), key, clientv3.WithPrefix())
		require.NoError(t, err)
		for _, kv := range got.Kvs {
			_, err = client.Put(t.Context(), string(kv.Key), string(kv.Value))
			require.NoError(t, err)
		}
	}
}

func FuzzEntry(f *testing.F) {
	f.Add([]byte("1"))
	f.Add(appendEntry(nil, "id", []state.Op{set("a", "1"), {Key: "b", Delete: true, Rev: 300}, set("\xff", "")}))
	f.Fuzz(func(t *testing.T, value []byte) {
		id, ops, err := parseEntry(value)
		if err != nil {
			return
		}
		same, again, err := parseEntry(appendEntry(nil, id, ops))
		require.NoError(t, err)
		require.Equal(t, id, same)
		require.Equal(t, ops, again)
	})
}
