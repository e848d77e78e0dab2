package disk

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"

	"github.com/gostor/gotgt/pkg/api"
	"github.com/gostor/gotgt/pkg/scsi"
	"github.com/stretchr/testify/require"
)

// strict is a store that fails the test when it is used outside its size.
type strict struct {
	t  testing.TB
	mu sync.Mutex
	b  []byte
}

func (s *strict) in(offset, n int64) {
	if offset < 0 || n < 0 || offset+n > int64(len(s.b)) {
		s.t.Fatalf("%d bytes at %d of %d", n, offset, len(s.b))
	}
}

func (s *strict) ReadAt(p []byte, offset int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in(offset, int64(len(p)))
	return copy(p, s.b[offset:]), nil
}

func (s *strict) WriteAt(p []byte, offset int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in(offset, int64(len(p)))
	return copy(s.b[offset:], p), nil
}

func (s *strict) Sync() error { return nil }

func (s *strict) Discard(offset, n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in(offset, n)
	clear(s.b[offset : offset+n])
	return nil
}

func (s *strict) Size() (int64, error) { return int64(len(s.b)), nil }

func newUnit(t testing.TB) (*Unit, *strict) {
	store := &strict{t: t, b: make([]byte, 64<<10+100)}
	u, err := New(Config{Store: store, Target: "iqn.2026-01.org.dewpoint:t", ID: "id"})
	require.NoError(t, err)
	require.EqualValues(t, 64<<10, u.Size())
	return u, store
}

// do is a command with its data.
func (u *Unit) do(n *Nexus, cdb, out []byte) ([]byte, *Failure) {
	b := make([]byte, 16)
	copy(b, cdb)
	p, f := u.Plan(n, b)
	if f != nil {
		return nil, f
	}
	out = out[:min(len(out), int(p.Length))]
	switch p.Kind {
	case ReadIn:
		in := make([]byte, p.Length)
		return in, u.Read(in, p.Offset)
	case WriteIn:
		return nil, u.Write(n, b, p, out)
	}
	return u.Perform(context.Background(), n, b, out)
}

// key sets of PERSISTENT RESERVE OUT.
func keys(key, next uint64) []byte {
	b := make([]byte, 24)
	binary.BigEndian.PutUint64(b, key)
	binary.BigEndian.PutUint64(b[8:], next)
	return b
}

func out(action, kind byte) []byte { return []byte{opReserveOut, action, kind, 0, 0, 0, 0, 0, 24, 0} }

func TestReservationsKeepOthersOut(t *testing.T) {
	read := []byte{opRead10, 0, 0, 0, 0, 0, 0, 0, 1, 0}
	write := []byte{opWrite10, 0, 0, 0, 0, 0, 0, 0, 1, 0}
	block := make([]byte, 512)
	for kind, may := range map[byte]struct{ registeredReads, registeredWrites, strangerReads bool }{
		writeExclusive: {true, false, true}, exclusiveAccess: {false, false, false},
		writeExclusiveReg: {true, true, true}, exclusiveAccessReg: {true, true, false},
		writeExclusiveAll: {true, true, true}, exclusiveAccessAll: {true, true, false},
	} {
		u, _ := newUnit(t)
		a, b, c := u.Attach("iqn.a,i,0x1", nil), u.Attach("iqn.b,i,0x1", nil), u.Attach("iqn.c,i,0x1", nil)
		for n, nexus := range []*Nexus{a, b} {
			_, f := u.do(nexus, out(outRegister, 0), keys(0, uint64(n+1)))
			require.Nil(t, f)
		}
		_, f := u.do(a, out(outReserve, kind), keys(1, 0))
		require.Nil(t, f)
		check := func(nexus *Nexus, cdb []byte, want bool) {
			t.Helper()
			_, f := u.do(nexus, cdb, block)
			require.Equal(t, want, f == nil, "type %d", kind)
			if f != nil {
				require.EqualValues(t, ReservationConflict, f.Status)
			}
		}
		check(a, read, true)
		check(a, write, true)
		check(b, read, may.registeredReads)
		check(b, write, may.registeredWrites)
		check(c, read, may.strangerReads)
		check(c, write, false)
		for _, op := range []byte{opWriteSame10, opUnmap, opModeSelect6, opReserve6} {
			if op == opReserve6 {
				check(c, []byte{op}, false)
				continue
			}
			check(c, []byte{op, 0x10 & (op - opModeSelect6 + 0x10), 0, 0, 0, 0, 0, 0, 1, 0}, false)
		}
		// What it had decided before the reservation does not happen after it.
		stale := make([]byte, 16)
		copy(stale, write)
		require.NotNil(t, u.Write(c, stale, Plan{Kind: WriteIn, Length: 512}, block))

		aborted := false
		a.aborts = func() { aborted = true }
		victim := uint64(1)
		if kind >= writeExclusiveAll {
			victim = 0
		}
		_, f = u.do(b, out(outPreemptAbort, kind), keys(2, victim))
		require.Nil(t, f)
		require.True(t, aborted)
		_, f = u.do(a, []byte{0}, nil)
		require.NotNil(t, f)
		require.EqualValues(t, ascRegistrationsGone, f.asc)
		check(a, write, false)
		check(b, write, true)
	}
}

func TestReleaseTellsRegistrants(t *testing.T) {
	u, _ := newUnit(t)
	a, b := u.Attach("iqn.a,i,0x1", nil), u.Attach("iqn.b,i,0x1", nil)
	for _, n := range []*Nexus{a, b} {
		_, f := u.do(n, out(outRegisterIgnore, 0), keys(9, 5))
		require.Nil(t, f)
	}
	_, f := u.do(a, out(outReserve, writeExclusiveReg), keys(5, 0))
	require.Nil(t, f)
	full, f := u.do(b, []byte{opReserveIn, inFullStatus, 0, 0, 0, 0, 0, 1, 0, 0}, nil)
	require.Nil(t, f)
	require.EqualValues(t, 2, binary.BigEndian.Uint32(full))
	require.Contains(t, string(full), "iqn.b,i,0x1\x00")
	_, f = u.do(a, out(outRelease, writeExclusive), keys(5, 0))
	require.EqualValues(t, ascInvalidRelease, f.asc)
	_, f = u.do(a, out(outRelease, writeExclusiveReg), keys(5, 0))
	require.Nil(t, f)
	_, f = u.do(b, []byte{0}, nil)
	require.EqualValues(t, ascReservationsReleased, f.asc)
	_, f = u.do(b, []byte{0}, nil)
	require.Nil(t, f)
	u.Detach(a) // its registration stays
	_, f = u.do(b, []byte{opReserve6}, nil)
	require.EqualValues(t, ReservationConflict, f.Status)
}

func TestWriteSameUnmapAndTheirKin(t *testing.T) {
	u, store := newUnit(t)
	n := u.Attach("a", nil)
	for i := range store.b {
		store.b[i] = 0xaa
	}
	same := make([]byte, 16)
	same[0] = opWriteSame16
	binary.BigEndian.PutUint64(same[2:], 2)
	binary.BigEndian.PutUint32(same[10:], 3)
	_, f := u.do(n, same, make([]byte, 512))
	require.Nil(t, f)
	require.Equal(t, make([]byte, 3*512), store.b[2*512:5*512])
	require.EqualValues(t, 0xaa, store.b[5*512])
	block := make([]byte, 512)
	block[7] = 7
	_, f = u.do(n, same, block)
	require.Nil(t, f)
	require.Equal(t, append(append([]byte{}, block...), block...), store.b[3*512:5*512])

	list := make([]byte, 8+32)
	binary.BigEndian.PutUint16(list[2:], 32)
	binary.BigEndian.PutUint32(list[16:], 2)
	binary.BigEndian.PutUint64(list[24:], 127)
	binary.BigEndian.PutUint32(list[32:], 2) // one beyond the end: nothing is unmapped
	unmap := []byte{opUnmap, 0, 0, 0, 0, 0, 0, 0, byte(len(list)), 0}
	_, f = u.do(n, unmap, list)
	require.EqualValues(t, ascOutOfRange, f.asc)
	require.EqualValues(t, 0xaa, store.b[0])
	list[35] = 1
	_, f = u.do(n, unmap, list)
	require.Nil(t, f)
	require.Equal(t, make([]byte, 1024), store.b[:1024])
	require.Equal(t, make([]byte, 512), store.b[127*512:128*512])

	caw := make([]byte, 16)
	caw[0], caw[13] = opCompareAndWrite, 1
	_, f = u.do(n, caw, append(make([]byte, 512), block...))
	require.Nil(t, f)
	_, f = u.do(n, caw, append(make([]byte, 512), block...))
	require.EqualValues(t, miscompare, f.key)
	require.EqualValues(t, 7, f.info)
	require.Equal(t, block, store.b[:512])
	or := make([]byte, 16)
	or[0], or[13] = opOrWrite16, 1
	block[8] = 8
	_, f = u.do(n, or, block)
	require.Nil(t, f)
	require.Equal(t, block, store.b[:512])
	_, f = u.do(n, or, nil) // without data
	require.NotNil(t, f)
}

func TestConcurrentCompareAndWriteIsAtomic(t *testing.T) {
	u, store := newUnit(t)
	caw := make([]byte, 16)
	caw[0], caw[13] = opCompareAndWrite, 1
	var group sync.WaitGroup
	for range 4 {
		n := u.Attach("a", nil)
		group.Go(func() {
			for done := 0; done < 100; {
				now, f := u.do(n, []byte{opRead10, 0, 0, 0, 0, 0, 0, 0, 1, 0}, nil)
				if f != nil {
					t.Error(f)
					return
				}
				next := append([]byte{}, now...)
				binary.BigEndian.PutUint32(next, binary.BigEndian.Uint32(next)+1)
				if _, f := u.do(n, caw, append(now, next...)); f == nil {
					done++
				}
			}
		})
	}
	group.Wait()
	require.EqualValues(t, 400, binary.BigEndian.Uint32(store.b))
}

func TestGotgtCantHarm(t *testing.T) {
	u, _ := newUnit(t)
	for op := range 256 {
		cdb := make([]byte, 16)
		cdb[0] = byte(op)
		cmd := &api.SCSICommand{SCB: cdb, Device: u.lu} // no buffers, no target: much of it panics
		require.NotPanics(t, func() { u.lu.PerformCommand(0, cmd) })
	}
	broken := *u.lu
	broken.DeviceProtocol = panics{u.lu.DeviceProtocol}
	u.lu = &broken
	_, f := u.ask([]byte{opTestUnitReady, 0, 0, 0, 0, 0})
	require.EqualValues(t, hardwareError, f.key)
	_, err := scsi.NewBackingStore("file") // nothing of gotgt's registers itself
	require.Error(t, err)
}

type panics struct{ api.SCSIDeviceProtocol }

func (panics) PerformCommand(int) interface{} { panic("broken") }

func TestSense(t *testing.T) {
	f := check(miscompare, ascMiscompare)
	f.info, f.valid = 0x01020304, true
	require.Equal(t, []byte{0xf0, 0, 0xe, 1, 2, 3, 4, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0}, f.Sense(false))
	require.Equal(t, []byte{0x72, 0xe, 0x1d, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 0, 1, 2, 3, 4}, f.Sense(true))
	require.Nil(t, conflict().Sense(false))
	require.Equal(t, "status 0x18, sense key 0x0, additional 0x0000", fmt.Sprint(conflict()))
}

func TestLUNs(t *testing.T) {
	for _, n := range []uint64{0, 1, 255, 256, 16383} {
		got, ok := DecodeLUN(EncodeLUN(n))
		require.True(t, ok)
		require.Equal(t, n, got)
	}
}

func FuzzCommand(f *testing.F) {
	for _, c := range known {
		cdb := append([]byte{}, c.usage...)
		if c.action >= 0 {
			cdb[1] = byte(c.action)
		}
		f.Add(cdb, make([]byte, 1024))
		f.Add([]byte{c.op, byte(max(c.action, 0))}, []byte{})
	}
	f.Fuzz(func(t *testing.T, cdb, data []byte) {
		if len(cdb) == 0 {
			return
		}
		u, _ := newUnit(t)
		n := u.Attach("a", nil)
		for range 2 {
			in, f := u.do(n, cdb, data)
			if f != nil {
				_ = f.Sense(u.Descriptors())
				continue
			}
			own := make([]byte, 16)
			copy(own, cdb)
			if _, _, data := u.bounds(own); data == nil && len(in) > MaxTransfer {
				t.Fatalf("%d bytes", len(in))
			}
		}
	})
}
