package iscsi

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/pdu"
)

// dataOutOf is a unit of data for a command.
func dataOutOf(tag, ttt, sn, offset uint32, final bool) *pdu.Header {
	h := &pdu.Header{pdu.DataOut}
	if final {
		h[1] = pdu.Final
	}
	h.SetWord(pdu.AtTag, tag)
	h.SetWord(pdu.AtTransfer, ttt)
	h.SetWord(pdu.AtDataSN, sn)
	h.SetWord(pdu.AtOffset, offset)
	return h
}

// TestWrongDataIsSense: data that was not asked for ends its command with sense data, writes nothing, and leaves the session as it was.
func TestWrongDataIsSense(t *testing.T) {
	store := newMemory(1 << 20)
	_, i, _ := session(t, store)
	for name, units := range map[string]func(tag, ttt uint32) []*pdu.Header{
		"the wrong number":   func(tag, ttt uint32) []*pdu.Header { return []*pdu.Header{dataOutOf(tag, ttt, 1, 0, true)} },
		"the wrong place":    func(tag, ttt uint32) []*pdu.Header { return []*pdu.Header{dataOutOf(tag, ttt, 0, 512, true)} },
		"far beyond the end": func(tag, ttt uint32) []*pdu.Header { return []*pdu.Header{dataOutOf(tag, ttt, 0, 0xfffffe00, true)} },
		"of another request": func(tag, ttt uint32) []*pdu.Header { return []*pdu.Header{dataOutOf(tag, ttt+7, 0, 0, true)} },
		"too little":         func(tag, ttt uint32) []*pdu.Header { return []*pdu.Header{dataOutOf(tag, ttt, 0, 0, true)} },
		"too much": func(tag, ttt uint32) []*pdu.Header {
			var all []*pdu.Header
			for n := range uint32(5) {
				all = append(all, dataOutOf(tag, ttt, n, n*1024, n == 4))
			}
			return all
		},
	} {
		tag := i.tag
		require.NoError(t, i.send(i.header(write16(0, 8), 0, pdu.Final|pdu.Write, 4096), nil))
		r, _, err := i.receive()
		require.NoError(t, err)
		require.EqualValues(t, pdu.R2T, r.Opcode())
		for _, h := range units(tag, r.Word(pdu.AtTransfer)) {
			require.NoError(t, i.send(h, pattern(1024, 9)))
		}
		res, err := i.finish(tag, nil)
		require.NoError(t, err, name)
		require.Equal(t, []any{byte(2), byte(0xb), uint16(0x0c0d)}, []any{res.status, res.key, res.asc}, name)
		require.True(t, store.has(make([]byte, 8192), 0), name)
		i.good(t, testUnitReady, nil, 0)
	}
}

// TestHostileUnits sends what no initiator sends. The session may end; others must not notice.
func TestHostileUnits(t *testing.T) {
	store := newMemory(1 << 20)
	_, witness, addr := session(t, store)
	raw := func(set func(h *pdu.Header)) []byte {
		h := pdu.Header{pdu.SCSICommand, pdu.Final}
		h.SetWord(pdu.AtTag, 77)
		h.SetWord(pdu.AtCmdSN, 1)
		set(&h)
		return h[:]
	}
	rows := map[string][]byte{
		"16 MiB of data":           raw(func(h *pdu.Header) { h[5], h[6], h[7] = 0xff, 0xff, 0xff }),
		"more immediate than told": append(raw(func(h *pdu.Header) { h[1] |= pdu.Write; h.SetDataLen(512) }), make([]byte, 512)...),
		"a write of 4 GiB": raw(func(h *pdu.Header) {
			h[1] |= pdu.Write
			h.SetWord(20, 0xffffffff)
			copy(h[32:], write16(0, 1<<31))
		}),
		"a read of 4 GiB": raw(func(h *pdu.Header) { h[1] |= pdu.Read; h.SetWord(20, 0xffffffff); copy(h[32:], read16(0, 1<<31)) }),
		"a read at the end of numbers": raw(func(h *pdu.Header) {
			h[1] |= pdu.Read
			h.SetWord(20, 512)
			copy(h[32:], read16(-1, 2))
		}),
		"an inquiry that writes": append(raw(func(h *pdu.Header) {
			h[1] |= pdu.Write
			h.SetWord(20, 512)
			h.SetDataLen(512)
			copy(h[32:], []byte{0x12, 0, 0, 0, 255, 0})
		}), make([]byte, 512)...),
		"an inquiry without a buffer":   raw(func(h *pdu.Header) { copy(h[32:], []byte{0x12, 1, 0x83, 255, 255, 0}) }),
		"ORWRITE without data":          raw(func(h *pdu.Header) { h[1] |= pdu.Write; copy(h[32:], []byte{0x8b, 13: 8, 15: 0}) }),
		"mode sense of nothing":         raw(func(h *pdu.Header) { h[1] |= pdu.Read; copy(h[32:], []byte{0x1a, 8, 0x3f, 0, 0, 0}) }),
		"both ways":                     raw(func(h *pdu.Header) { h[1] |= pdu.Read | pdu.Write; h.SetWord(20, 512) }),
		"additional headers of rubbish": append(raw(func(h *pdu.Header) { h[4] = 2 }), 0xff, 0xff, 9, 9, 9, 9, 9, 9),
		"a number far ahead":            raw(func(h *pdu.Header) { h.SetWord(pdu.AtCmdSN, 1000) }),
		"a number that leaves one out":  raw(func(h *pdu.Header) { h.SetWord(pdu.AtCmdSN, 3) }),
		"a unit of another world":       raw(func(h *pdu.Header) { h.SetLUN(0xffffffffffffffff) }),
		"SNACK":                         raw(func(h *pdu.Header) { h[0] = pdu.SNACK }),
		"a login":                       raw(func(h *pdu.Header) { h[0] = pdu.LoginRequest }),
		"no opcode":                     raw(func(h *pdu.Header) { h[0] = 0x1f }),
		"a response":                    raw(func(h *pdu.Header) { h[0] = pdu.SCSIResponse }),
		"text that goes on for ever": append(raw(func(h *pdu.Header) {
			h[0], h[1] = pdu.TextRequest, pdu.Continue
			h.SetWord(20, pdu.NoTag)
			h.SetDataLen(16384)
		}), make([]byte, 16384)...),
		"data for nobody":                append(dataOutOf(5, 6, 0, 0, true)[:], 1),
		"management of what there isn't": raw(func(h *pdu.Header) { h[0], h[1] = pdu.TaskRequest, 0xff }),
		"half a header":                  make([]byte, 20),
	}
	for name, b := range rows {
		i := dial(t, addr, testInitiator2)
		require.NoError(t, i.login(testTarget, secrets{}), name)
		_, err := i.nc.Write(b)
		require.NoError(t, err, name)
		// Whatever it answers, it ends when the connection does.
		_ = i.nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, _, _ = i.receive()
		i.nc.Close()
		witness.good(t, testUnitReady, nil, 0)
	}
	require.True(t, store.has(make([]byte, 1<<20), 0))
}

// TestRandomUnits logs in and sends what comes to mind, many times.
func TestRandomUnits(t *testing.T) {
	store := newMemory(1 << 20)
	_, witness, addr := session(t, store)
	r := rand.New(rand.NewPCG(1, 2))
	opcodes := []byte{pdu.NOPOut, pdu.SCSICommand, pdu.TaskRequest, pdu.TextRequest, pdu.DataOut, pdu.SNACK, pdu.SCSICommand, pdu.SCSICommand}
	for range 150 {
		i := dial(t, addr, testInitiator2)
		require.NoError(t, i.login(testTarget, secrets{}))
		var out []byte
		for n := range uint32(1 + r.IntN(20)) {
			var h pdu.Header
			for k := range h {
				h[k] = byte(r.Uint32())
			}
			h[0] = opcodes[r.IntN(len(opcodes))] | byte(r.IntN(2)<<6)
			h[4] = byte(r.IntN(8) / 7)
			h.SetLUN(0)
			h.SetWord(pdu.AtTag, uint32(r.IntN(4)))
			h.SetWord(pdu.AtTransfer, []uint32{0, 512, 4096, pdu.NoTag, 1, r.Uint32()}[r.IntN(6)])
			h.SetWord(pdu.AtCmdSN, i.cmdSN+n)
			if h[0]&0x3f == pdu.DataOut {
				h.SetWord(pdu.AtDataSN, uint32(r.IntN(2)))
				h.SetWord(pdu.AtOffset, uint32(r.IntN(3)*512))
			} else {
				h[32] = []byte{0x28, 0x2a, 0x88, 0x8a, 0x89, 0x8b, 0x41, 0x93, 0x42, 0x12, 0x1a, 0x5a, 0x5e, 0x5f, 0x15, 0x9e, 0xa3, 0xa0, byte(r.Uint32())}[r.IntN(19)]
				if r.IntN(2) == 0 {
					copy(h[33:], []byte{0, 0, 0, 0, byte(r.Uint32()), 0, 0, byte(r.IntN(9)), 0, 0, 0, 0, byte(r.IntN(9)), 0, 0})
				}
			}
			data := make([]byte, []int{0, 0, 512, 24, 3}[r.IntN(5)])
			out = append(out, i.bytes(&h, data)...)
		}
		_, _ = i.nc.Write(out)
		_ = i.nc.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
		for err := error(nil); err == nil; {
			_, _, err = i.receive()
		}
		i.nc.Close()
	}
	// What they reserved and protected is undone; then all is as before.
	_, err := witness.manage(resetUnit, 0)
	require.NoError(t, err)
	res, err := witness.do(testUnitReady, nil, 0)
	for ; err == nil && res.key == 6; res, err = witness.do(testUnitReady, nil, 0) {
	}
	require.NoError(t, err)
	require.Zero(t, res.status)
}

func TestLUNForms(t *testing.T) {
	_, i, _ := session(t, newMemory(1<<20))
	for lun, there := range map[uint64]bool{0: true, 1 << 62: true, 1 << 48: false, 1<<62 | 1<<48: false, 1: false, 3 << 62: false, 1 << 56: false} {
		tag := i.tag
		require.NoError(t, i.send(i.header(testUnitReady, lun, pdu.Final, 0), nil))
		res, err := i.finish(tag, nil)
		require.NoError(t, err)
		require.Equal(t, there, res.status == 0, "%#x", lun)
		require.Equal(t, !there, res.asc == 0x2500, "%#x", lun)
		tag = i.tag
		require.NoError(t, i.send(i.header([]byte{0x12, 0, 0, 0, 36, 0}, lun, pdu.Final|pdu.Read, 36), nil))
		res, err = i.finish(tag, nil)
		require.NoError(t, err)
		require.Equal(t, there, res.in[0] == 0, "%#x", lun)
	}
	report := i.good(t, []byte{0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0}, nil, 64)
	require.EqualValues(t, 8, binary.BigEndian.Uint32(report))
	require.Len(t, report, 16)
}
