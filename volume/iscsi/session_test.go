package iscsi

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/disk"
	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/pdu"
)

// pattern is data that differs from place to place.
func pattern(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b
}

func TestDataArrivesHoweverItIsSent(t *testing.T) {
	seed := uint64(0)
	for _, digests := range []string{"None", "CRC32C", "CRC32C,None"} {
		for _, row := range [][]pdu.Pair{
			nil,
			{{Key: "InitialR2T", Value: "Yes"}},
			{{Key: "ImmediateData", Value: "No"}},
			{{Key: "MaxRecvDataSegmentLength", Value: "512"}, {Key: "MaxBurstLength", Value: "8192"}, {Key: "FirstBurstLength", Value: "1024"}},
		} {
			store := newMemory(8 << 20)
			s, addr := serve(t, Config{})
			require.NoError(t, s.Export(context.Background(), exportOf(store)))
			i := dial(t, addr, testInitiator)
			extra := append(row, pdu.Pair{Key: "HeaderDigest", Value: digests}, pdu.Pair{Key: "DataDigest", Value: digests})
			require.NoError(t, i.login(testTarget, secrets{}, extra...))
			require.Equal(t, digests != "None", i.head)
			for _, n := range []int{512, 4096, 64 << 10, 70 << 10, 1 << 20, 4 << 20} {
				seed++
				data := pattern(n, seed)
				immediate := data[:min(n, 64<<10, i.max)]
				if i.agreed["ImmediateData"] == "No" {
					immediate = nil
				} else if first := i.agreed["FirstBurstLength"]; first == "1024" {
					immediate = data[:min(n, 1024)]
				}
				tag := i.tag
				require.NoError(t, i.send(i.header(write16(8, n/512), 0, pdu.Final|pdu.Write, n), immediate))
				res, err := i.finish(tag, data)
				require.NoError(t, err)
				require.Zero(t, res.status)
				require.True(t, store.has(data, 4096))
				require.True(t, bytes.Equal(data, i.good(t, read16(8, n/512), nil, n)))
			}
		}
	}
}

func TestUnsolicitedData(t *testing.T) {
	store := newMemory(1 << 20)
	_, i, _ := session(t, store)
	data := pattern(96<<10, 7)
	tag := i.tag
	require.NoError(t, i.send(i.header(write16(0, 192), 0, pdu.Write, len(data)), data[:32<<10]))
	for n := 1; n < 3; n++ {
		h := &pdu.Header{pdu.DataOut}
		if n == 2 {
			h[1] = pdu.Final
		}
		h.SetWord(pdu.AtTag, tag)
		h.SetWord(pdu.AtTransfer, pdu.NoTag)
		h.SetWord(pdu.AtDataSN, uint32(n-1))
		h.SetWord(pdu.AtOffset, uint32(n*32<<10))
		require.NoError(t, i.send(h, data[n*32<<10:(n+1)*32<<10]))
	}
	res, err := i.finish(tag, nil)
	require.NoError(t, err)
	require.Zero(t, res.status)
	require.True(t, store.has(data, 0))
}

// A store that was slow of late has as many commands at once as the initiator sends.
func TestManyCommandsAtOnceOnASlowStore(t *testing.T) {
	store := newMemory(1 << 20)
	store.delay = time.Millisecond
	_, i, _ := session(t, store)
	for range slowFrom {
		i.good(t, read16(0, 1), nil, 512)
	}
	release := store.hold()
	defer release()
	const depth = 32
	first := i.tag
	for n := range depth {
		require.NoError(t, i.send(i.header(write16(n, 1), 0, pdu.Final|pdu.Write, 512), pattern(512, uint64(n))))
	}
	require.Eventually(t, func() bool { return store.held.Load() == depth }, time.Minute, time.Millisecond)
	release()
	answered := map[uint32]bool{}
	for range depth {
		h, _, err := i.receive()
		require.NoError(t, err)
		require.EqualValues(t, pdu.SCSIResponse, h.Opcode())
		require.Zero(t, h[3], "status")
		answered[h.Word(pdu.AtTag)-first] = true
	}
	require.Len(t, answered, depth)
	for n := range depth {
		require.True(t, store.has(pattern(512, uint64(n)), n*512))
	}
}

func TestErrorsOfTheStoreAreSense(t *testing.T) {
	store := newMemory(1 << 20)
	_, i, _ := session(t, store)
	for _, row := range []struct {
		err  error
		out  []byte
		key  byte
		addi uint16
	}{
		{syscall.EIO, nil, 3, 0x1100}, {syscall.EIO, make([]byte, 512), 3, 0x0c00}, {syscall.ENOSPC, make([]byte, 512), 7, 0x2707},
	} {
		store.fail.Store(&row.err)
		cdb := read16(0, 1)
		if row.out != nil {
			cdb = write16(0, 1)
		}
		res, err := i.do(cdb, row.out, 512)
		require.NoError(t, err)
		require.Equal(t, []any{byte(2), row.key, row.addi}, []any{res.status, res.key, res.asc})
		store.fail.Store(nil)
	}
	i.good(t, read16(0, 1), nil, 512)
}

func TestFlushAndForceUnitAccessReachTheStore(t *testing.T) {
	store := newMemory(1 << 20)
	_, i, _ := session(t, store)
	i.good(t, write16(0, 1), make([]byte, 512), 0)
	require.Zero(t, store.syncs.Load())
	fua := write16(0, 1)
	fua[1] = 8
	i.good(t, fua, make([]byte, 512), 0)
	require.EqualValues(t, 1, store.syncs.Load())
	i.good(t, []byte{0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0}, nil, 0)
	require.EqualValues(t, 2, store.syncs.Load())
}

func TestResizeIsAUnitAttention(t *testing.T) {
	store := newMemory(1 << 20)
	s, i, _ := session(t, store)
	capacity := []byte{0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	require.EqualValues(t, 2047, binary.BigEndian.Uint32(i.good(t, capacity, nil, 8)))
	store.mu.Lock()
	store.b = append(store.b, make([]byte, 1<<20)...)
	store.mu.Unlock()
	require.NoError(t, s.Resized(testTarget))
	res, err := i.do(testUnitReady, nil, 0)
	require.NoError(t, err)
	require.Equal(t, []any{byte(2), byte(6), uint16(0x2a09)}, []any{res.status, res.key, res.asc})
	i.good(t, testUnitReady, nil, 0)
	require.EqualValues(t, 4095, binary.BigEndian.Uint32(i.good(t, capacity, nil, 8)))
	require.Error(t, s.Resized("iqn.2026-01.org.dewpoint:other"))
}

func TestSessionReinstatement(t *testing.T) {
	s, i, addr := session(t, newMemory(1<<20))
	require.Len(t, s.Sessions(), 1)
	again := dial(t, addr, testInitiator)
	require.NoError(t, again.login(testTarget, secrets{}))
	again.good(t, testUnitReady, nil, 0)
	require.Len(t, s.Sessions(), 1)
	_, err := i.do(testUnitReady, nil, 0)
	require.Error(t, err)
	third := dial(t, addr, testInitiator)
	third.isid = 9
	require.NoError(t, third.login(testTarget, secrets{}))
	require.Len(t, s.Sessions(), 2)
	again.good(t, testUnitReady, nil, 0)
}

// manage sends a task management request and waits for its response.
func (i *initiator) manage(function byte, ref uint32) (byte, error) {
	h := i.header(nil, 0, pdu.Final|function, int(ref))
	h[0] = pdu.TaskRequest
	if err := i.send(h, nil); err != nil {
		return 0, err
	}
	for {
		r, _, err := i.receive()
		if err != nil {
			return 0, err
		}
		if r.Opcode() == pdu.TaskResponse {
			return r[2], nil
		}
		if r.Opcode() != pdu.R2T {
			return 0, fmt.Errorf("opcode %#x instead of a response", r.Opcode())
		}
	}
}

// manages tells whether a task management request waits for what it ends.
func (s *Server) manages() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.sessions {
		if c.immediate.Load() > 0 {
			return true
		}
	}
	return false
}

func TestTaskManagement(t *testing.T) {
	store := newMemory(1 << 20)
	s, i, _ := session(t, store)

	// One that waits for data.
	tag := i.tag
	require.NoError(t, i.send(i.header(write16(0, 8), 0, pdu.Final|pdu.Write, 4096), nil))
	got, err := i.manage(abortTask, tag)
	require.NoError(t, err)
	require.EqualValues(t, taskDone, got)
	late := &pdu.Header{pdu.DataOut, pdu.Final} // it is of nothing any more
	late.SetWord(pdu.AtTag, tag)
	require.NoError(t, i.send(late, make([]byte, 512)))
	got, err = i.manage(abortTask, tag)
	require.NoError(t, err)
	require.EqualValues(t, taskUnknown, got)

	// One that is being done: the response comes when it has ended, and it is not answered.
	release := store.hold()
	fua := write16(0, 1)
	fua[1] = 8
	for _, function := range []byte{abortTask, abortTaskSet, resetUnit} {
		tag = i.tag
		require.NoError(t, i.send(i.header(fua, 0, pdu.Final|pdu.Write, 512), make([]byte, 512)))
		require.Eventually(t, func() bool { return store.held.Load() == 1 }, time.Minute, time.Millisecond)
		answered, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			for !s.manages() {
				select {
				case <-answered:
					return
				case <-time.After(time.Millisecond):
				}
			}
			release()
		}()
		got, err = i.manage(function, tag)
		close(answered)
		<-ended
		require.NoError(t, err)
		require.EqualValues(t, taskDone, got)
		require.Zero(t, store.held.Load())
		release = store.hold()
	}
	release()
	i.good(t, testUnitReady, nil, 0)
	for function, want := range map[byte]byte{reassign: taskNoReassign, 7: taskUnsupported, resetWarm: taskDone, clearTaskSet: taskDone} {
		got, err = i.manage(function, 0)
		require.NoError(t, err)
		require.Equal(t, want, got, "function %d", function)
	}
}

func TestEpochsFence(t *testing.T) {
	ctx := context.Background()
	store := newMemory(1 << 20)
	s, old, addr := session(t, store)
	release := store.hold()
	defer release()
	fua := write16(0, 1)
	fua[1] = 8
	require.NoError(t, old.send(old.header(fua, 0, pdu.Final|pdu.Write, 512), pattern(512, 1)))
	require.Eventually(t, func() bool { return store.held.Load() == 1 }, time.Minute, time.Millisecond)

	// The old session is over at once, but nobody gets in while something of it can still write.
	next := exportOf(store)
	next.Epoch, next.Initiators = 1, []Initiator{{IQN: testInitiator2}}
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	refused := make(chan error, 1)
	go func() { refused <- s.Export(short, next) }()
	_, _, err := old.receive()
	require.Error(t, err)
	cancel()
	require.Equal(t, context.Canceled, <-refused)
	i := dial(t, addr, testInitiator2)
	require.Equal(t, loginError(statusUnavailable), i.login(testTarget, secrets{}))
	i = dial(t, addr, testInitiator)
	require.Equal(t, loginError(statusNotFound), i.login(testTarget, secrets{}))

	release()
	require.NoError(t, s.Export(ctx, next))
	require.NoError(t, s.Export(ctx, next))
	i = dial(t, addr, testInitiator2)
	require.NoError(t, i.login(testTarget, secrets{}))
	i.good(t, write16(0, 1), pattern(512, 2), 0)

	// The older epoch is over for good.
	require.ErrorContains(t, s.Export(ctx, exportOf(store)), "epoch 0 is over")
	require.ErrorContains(t, s.Unexport(ctx, testTarget, 0), "epoch 0 is over")
	other := next
	other.LUN = 3
	require.ErrorContains(t, s.Export(ctx, other), "other contents")
	i.good(t, testUnitReady, nil, 0)
	require.NoError(t, s.Unexport(ctx, testTarget, 1))
	require.NoError(t, s.Unexport(ctx, testTarget, 1))
	_, err = i.do(testUnitReady, nil, 0)
	require.Error(t, err)
	require.ErrorContains(t, s.Export(ctx, exportOf(store)), "epoch 0 is over")
}

// Within an epoch, who may no longer use an export is put out, and nobody gets in while something of it can still write. Who may goes on.
func TestInitiatorsChangeWithinAnEpoch(t *testing.T) {
	ctx := context.Background()
	store := newMemory(1 << 20)
	s, source, addr := session(t, store)
	before, after := exportOf(store), exportOf(store)
	before.Initiators, after.Initiators = []Initiator{{IQN: testInitiator}}, []Initiator{{IQN: testInitiator2}}
	require.NoError(t, s.Export(ctx, before))
	destination := dial(t, addr, testInitiator2)
	require.Equal(t, loginError(statusNotFound), destination.login(testTarget, secrets{}))
	both := exportOf(store)
	both.Initiators = []Initiator{{IQN: testInitiator}, {IQN: testInitiator2}}
	require.NoError(t, s.Export(ctx, both))
	source.good(t, testUnitReady, nil, 0)
	destination = dial(t, addr, testInitiator2)
	require.NoError(t, destination.login(testTarget, secrets{}))
	changed := both
	changed.Initiators = []Initiator{{IQN: testInitiator2, User: "u", Secret: "another secret of it"}}
	require.ErrorContains(t, s.Export(ctx, changed), "other contents")

	release := store.hold()
	defer release()
	fua := write16(0, 1)
	fua[1] = 8
	require.NoError(t, source.send(source.header(fua, 0, pdu.Final|pdu.Write, 512), pattern(512, 1)))
	require.Eventually(t, func() bool { return store.held.Load() == 1 }, time.Minute, time.Millisecond)
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	refused := make(chan error, 1)
	go func() { refused <- s.Export(short, after) }()
	_, _, err := source.receive()
	require.Error(t, err)
	cancel()
	require.Equal(t, context.Canceled, <-refused)
	i := dial(t, addr, testInitiator)
	require.Equal(t, loginError(statusNotFound), i.login(testTarget, secrets{}))
	release()
	require.NoError(t, s.Export(ctx, after))
	destination.good(t, write16(0, 1), pattern(512, 2), 0)
}

func TestStoppingDrains(t *testing.T) {
	store := newMemory(1 << 20)
	s := NewServer(Config{DrainTimeout: time.Minute})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, listener) }()
	require.NoError(t, s.Export(ctx, exportOf(store)))
	i := dial(t, listener.Addr().String(), testInitiator)
	require.NoError(t, i.login(testTarget, secrets{}))
	waits := dial(t, listener.Addr().String(), testInitiator2) // for a login that does not go on
	release := store.hold()
	fua := write16(0, 1)
	fua[1] = 8
	tag := i.tag
	require.NoError(t, i.send(i.header(fua, 0, pdu.Final|pdu.Write, 512), pattern(512, 3)))
	require.Eventually(t, func() bool { return store.held.Load() == 1 }, time.Minute, time.Millisecond)
	cancel()
	_, _, err = waits.receive()
	require.Error(t, err)
	release()
	res, err := i.finish(tag, nil) // what was begun is answered
	require.NoError(t, err)
	require.Zero(t, res.status)
	_, _, err = i.receive()
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, <-ended)
}

func TestMemoryOfASessionIsBounded(t *testing.T) {
	_, i, _ := session(t, newMemory(8<<20))
	// Each asks for 4 MiB, and none gets its data.
	full := 0
	for range 10 {
		tag := i.tag
		require.NoError(t, i.send(i.header(write16(0, disk.MaxTransfer/512), 0, pdu.Final|pdu.Write, disk.MaxTransfer), nil))
		h, _, err := i.receive()
		require.NoError(t, err)
		require.Equal(t, tag, h.Tag())
		if h.Opcode() == pdu.SCSIResponse && h[3] == disk.TaskSetFull {
			full++
		}
	}
	require.Equal(t, 10-4, full)
}

func TestAnswersThatNobodyTakesAreBounded(t *testing.T) {
	s, i, _ := session(t, newMemory(8<<20))
	var out []byte
	for range window {
		out = append(out, i.bytes(i.header(read16(0, 512), 0, pdu.Final|pdu.Read, 256<<10), nil)...)
	}
	_, err := i.nc.Write(out)
	require.NoError(t, err)
	queued := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range s.sessions {
			c.out.mu.Lock()
			defer c.out.mu.Unlock()
			return c.out.bytes
		}
		return 0
	}
	limit := s.cfg.SessionMemory / 2
	require.Eventually(t, func() bool { return queued() > limit-300<<10 }, time.Minute, time.Millisecond)
	require.LessOrEqual(t, queued(), limit+window<<7) // the headers are not counted before
	ended, taken := 0, 0
	for ended < window { // and all of them arrive, in any order
		h, data, err := i.receive()
		require.NoError(t, err)
		require.EqualValues(t, pdu.DataIn, h.Opcode())
		taken += len(data)
		if h.Flags()&pdu.Status != 0 {
			require.Zero(t, h[3])
			ended++
		}
	}
	require.Equal(t, window*256<<10, taken)
}

func TestTwoServersShareNothing(t *testing.T) {
	var group sync.WaitGroup
	for n := range 2 {
		store := newMemory(1 << 20)
		_, i, _ := session(t, store)
		group.Go(func() {
			for k := range 200 {
				data := pattern(4096, uint64(n*1000+k))
				if res, err := i.do(write16(k*8%2048, 8), data, 0); err != nil || res.status != 0 {
					t.Error(err, res.status)
				}
				res, err := i.do(read16(k*8%2048, 8), nil, 4096)
				if err != nil || !bytes.Equal(res.in, data) {
					t.Error(err, "the data of another server")
				}
			}
		})
	}
	group.Wait()
}

func TestLoginsDuringWork(t *testing.T) {
	s, i, addr := session(t, newMemory(1<<20))
	stop := make(chan struct{})
	var group sync.WaitGroup
	for n := range 2 {
		group.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				nc, err := net.Dial("tcp", addr)
				if err != nil {
					t.Error(err)
					return
				}
				other := newInitiator(nc, testInitiator2)
				other.isid = byte(n*10 + k%3)
				if k%2 == 0 {
					// It may be ended by the next login of the same port at any moment.
					if err := other.login(testTarget, secrets{}); err == nil {
						_, _ = other.do(testUnitReady, nil, 0)
					}
				}
				nc.Close()
			}
		})
	}
	for k := range 2000 {
		i.good(t, read16(k%100, 8), nil, 4096)
	}
	close(stop)
	group.Wait()
	require.Eventually(t, func() bool { return len(s.Sessions()) == 1 }, time.Minute, 5*time.Millisecond)
	require.Equal(t, 1, s.exports[testTarget].unit.Attached())
}

func TestTextAndPingInFullFeaturePhase(t *testing.T) {
	_, i, addr := session(t, newMemory(1<<20))
	text := func(flags byte, transfer uint32, data string) (*pdu.Header, string) {
		h := i.header(nil, 0, flags, int(transfer))
		h[0] = pdu.TextRequest
		require.NoError(t, i.send(h, []byte(data)))
		r, answer, err := i.receive()
		require.NoError(t, err)
		require.EqualValues(t, pdu.TextResponse, r.Opcode())
		return r, string(answer)
	}
	want := "TargetName=" + testTarget + "\x00TargetAddress=" + addr + ",1\x00"
	_, answer := text(pdu.Final, pdu.NoTag, "SendTargets=\x00")
	require.Equal(t, want, answer)
	_, answer = text(pdu.Continue, pdu.NoTag, "SendTar")
	require.Empty(t, answer)
	_, answer = text(pdu.Final, pdu.NoTag, "gets="+testTarget+"\x00Foo=1\x00")
	require.Equal(t, want+"Foo=NotUnderstood\x00", answer)

	h := i.header(nil, 0, pdu.Final, pdu.NoTag)
	h[0] = pdu.NOPOut
	require.NoError(t, i.send(h, []byte("ping")))
	r, data, err := i.receive()
	require.NoError(t, err)
	require.EqualValues(t, pdu.NOPIn, r.Opcode())
	require.Equal(t, "ping", string(data))

	h = i.header(nil, 0, pdu.Final, 0)
	h[0] = pdu.Logout
	require.NoError(t, i.send(h, nil))
	r, _, err = i.receive()
	require.NoError(t, err)
	require.EqualValues(t, pdu.LogoutReply, r.Opcode())
	_, _, err = i.receive()
	require.True(t, errors.Is(err, io.EOF), "%v", err)
}
