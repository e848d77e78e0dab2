package iscsi

import (
	"encoding/binary"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/pdu"
)

// initiator is the other side of a connection, which says what a test wants it to.
type initiator struct {
	nc     net.Conn
	r      *pdu.Reader
	name   string
	isid   byte
	cmdSN  uint32
	statSN uint32
	tag    uint32
	agreed map[string]string
	head   bool // digests
	data   bool
	max    int // how much data the target takes in one unit
}

func newInitiator(nc net.Conn, name string) *initiator {
	r := pdu.NewReader(nc, 64<<10)
	r.MaxData = 1 << 24
	return &initiator{nc: nc, r: r, name: name, cmdSN: 1, tag: 1, max: 8192, agreed: map[string]string{}}
}

// bytes is a unit as it is on the wire.
func (i *initiator) bytes(h *pdu.Header, data []byte) []byte {
	h.SetDataLen(len(data))
	b := append([]byte(nil), h[:]...)
	if i.head {
		b = binary.LittleEndian.AppendUint32(b, pdu.Digest(b))
	}
	if len(data) > 0 {
		at := len(b)
		b = append(append(b, data...), make([]byte, pdu.Pad(len(data)))...)
		if i.data {
			b = binary.LittleEndian.AppendUint32(b, pdu.Digest(b[at:]))
		}
	}
	return b
}

func (i *initiator) send(h *pdu.Header, data []byte) error {
	_, err := i.nc.Write(i.bytes(h, data))
	return err
}

// receive takes a unit from the target.
func (i *initiator) receive() (*pdu.Header, []byte, error) {
	h, err := i.r.Header()
	if err != nil {
		return nil, nil, err
	}
	head := *h
	data := make([]byte, h.DataLen())
	return &head, data, i.r.DataInto(data)
}

// loginError is a status that is not success.
type loginError uint16

func (e loginError) Error() string { return fmt.Sprintf("login status %#04x", uint16(e)) }

// request sends a login request and takes its response.
func (i *initiator) request(flags byte, pairs ...pdu.Pair) (*pdu.Header, map[string]string, error) {
	h := pdu.Header{pdu.LoginRequest | 0x40, flags}
	h[8], h[13] = 0x80, i.isid
	h.SetWord(pdu.AtCmdSN, i.cmdSN)
	h.SetWord(pdu.AtExpStatSN, i.statSN)
	if err := i.send(&h, pdu.AppendText(nil, pairs...)); err != nil {
		return nil, nil, err
	}
	r, data, err := i.receive()
	if err != nil {
		return nil, nil, err
	}
	i.statSN = r.Word(pdu.AtStatSN) + 1
	if status := r.Half(36); status != 0 {
		return r, nil, loginError(status)
	}
	answers, err := pdu.ParseText(data)
	values := map[string]string{}
	for _, a := range answers {
		values[a.Key] = a.Value
	}
	return r, values, err
}

// secrets are what an initiator logs in with.
type secrets struct {
	algorithm                string
	user, secret             string
	mutualUser, mutualSecret string
	reflect                  bool
}

// login logs in to a target, or with "" for discovery.
func (i *initiator) login(target string, s secrets, extra ...pdu.Pair) error {
	pairs := []pdu.Pair{{Key: "InitiatorName", Value: i.name}}
	if target == "" {
		pairs = append(pairs, pdu.Pair{Key: "SessionType", Value: "Discovery"})
	} else {
		pairs = append(pairs, pdu.Pair{Key: "TargetName", Value: target})
	}
	if s.user == "" {
		if _, _, err := i.request(0x81, append(pairs, pdu.Pair{Key: "AuthMethod", Value: "None"})...); err != nil {
			return err
		}
	} else if err := i.prove(pairs, s); err != nil {
		return err
	}
	keys := []pdu.Pair{{Key: "MaxRecvDataSegmentLength", Value: "262144"}, {Key: "InitialR2T", Value: "No"}, {Key: "ImmediateData", Value: "Yes"},
		{Key: "FirstBurstLength", Value: "262144"}, {Key: "MaxBurstLength", Value: "1048576"}}
	for _, e := range extra {
		for n := range keys {
			if keys[n].Key == e.Key {
				keys = append(keys[:n], keys[n+1:]...)
				break
			}
		}
	}
	_, answers, err := i.request(0x87, append(keys, extra...)...)
	if err != nil {
		return err
	}
	for key, value := range answers {
		i.agreed[key] = value
	}
	if n, err := strconv.Atoi(answers["MaxRecvDataSegmentLength"]); err == nil {
		i.max = n
	}
	i.head, i.data = answers["HeaderDigest"] == "CRC32C", answers["DataDigest"] == "CRC32C"
	i.r.HeaderDigests, i.r.DataDigests = i.head, i.data
	return nil
}

// prove is the security stage with CHAP.
func (i *initiator) prove(pairs []pdu.Pair, s secrets) error {
	_, answers, err := i.request(0x00, append(pairs, pdu.Pair{Key: "AuthMethod", Value: "CHAP,None"})...)
	if err != nil {
		return err
	}
	if answers["AuthMethod"] != "CHAP" {
		return fmt.Errorf("AuthMethod is %q", answers["AuthMethod"])
	}
	_, answers, err = i.request(0x00, pdu.Pair{Key: "CHAP_A", Value: s.algorithm})
	if err != nil {
		return err
	}
	id, ok := atob(answers["CHAP_I"])
	challenge, err := parseBinary(answers["CHAP_C"], 1024)
	if err != nil || !ok || !strings.Contains(s.algorithm, answers["CHAP_A"]) {
		return fmt.Errorf("the challenge is %v", answers)
	}
	pairs = []pdu.Pair{{Key: "CHAP_N", Value: s.user}, {Key: "CHAP_R", Value: formatBinary(respond(answers["CHAP_A"], id, s.secret, challenge))}}
	own := []byte("0123456789abcdef")
	if s.reflect {
		own = challenge
	}
	if s.mutualUser != "" {
		pairs = append(pairs, pdu.Pair{Key: "CHAP_I", Value: "9"}, pdu.Pair{Key: "CHAP_C", Value: formatBinary(own)})
	}
	algorithm := answers["CHAP_A"]
	if _, answers, err = i.request(0x81, pairs...); err != nil {
		return err
	}
	if s.mutualUser != "" {
		want := formatBinary(respond(algorithm, 9, s.mutualSecret, own))
		if answers["CHAP_N"] != s.mutualUser || answers["CHAP_R"] != want {
			return fmt.Errorf("the target has not proven who it is: %v", answers)
		}
	}
	return nil
}

// result is the end of a command.
type result struct {
	status   byte
	key      byte
	asc      uint16
	in       []byte
	flags    byte
	residual uint32
}

// header is a command.
func (i *initiator) header(cdb []byte, lun uint64, flags byte, edtl int) *pdu.Header {
	h := &pdu.Header{pdu.SCSICommand, flags}
	h.SetLUN(lun)
	h.SetWord(pdu.AtTag, i.tag)
	h.SetWord(pdu.AtTransfer, uint32(edtl))
	h.SetWord(pdu.AtCmdSN, i.cmdSN)
	h.SetWord(pdu.AtExpStatSN, i.statSN)
	copy(h[32:], cdb)
	i.cmdSN++
	i.tag++
	return h
}

// dataOut answers a request for data.
func (i *initiator) dataOut(r *pdu.Header, data []byte) error {
	at, n := int(r.Word(pdu.AtOffset)), int(r.Word(pdu.AtResidual))
	for sn := uint32(0); n > 0; sn++ {
		m := min(n, i.max)
		h := &pdu.Header{pdu.DataOut}
		if n == m {
			h[1] = pdu.Final
		}
		h.SetLUN(r.LUN())
		h.SetWord(pdu.AtTag, r.Tag())
		h.SetWord(pdu.AtTransfer, r.Word(pdu.AtTransfer))
		h.SetWord(pdu.AtDataSN, sn)
		h.SetWord(pdu.AtOffset, uint32(at))
		if err := i.send(h, data[at:at+m]); err != nil {
			return err
		}
		at, n = at+m, n-m
	}
	return nil
}

// finish takes units until the end of one command.
func (i *initiator) finish(tag uint32, out []byte) (res result, err error) {
	for {
		h, data, err := i.receive()
		if err != nil {
			return res, err
		}
		switch h.Opcode() {
		case pdu.DataIn:
			if h.Tag() != tag || int(h.Word(pdu.AtOffset)) != len(res.in) {
				return res, fmt.Errorf("data of %d at %d", h.Tag(), h.Word(pdu.AtOffset))
			}
			res.in = append(res.in, data...)
			if h.Flags()&pdu.Status == 0 {
				continue
			}
		case pdu.R2T:
			if err := i.dataOut(h, out); err != nil {
				return res, err
			}
			continue
		case pdu.NOPIn:
			continue
		case pdu.SCSIResponse:
			if len(data) >= 2+14 {
				res.key, res.asc = data[4]&0xf, binary.BigEndian.Uint16(data[14:])
			}
		default:
			return res, fmt.Errorf("opcode %#x", h.Opcode())
		}
		if h.Tag() != tag {
			return res, fmt.Errorf("the end of %d and not of %d", h.Tag(), tag)
		}
		i.statSN = h.Word(pdu.AtStatSN) + 1
		res.status, res.flags, res.residual = h[3], h.Flags(), h.Word(pdu.AtResidual)
		return res, nil
	}
}

// do does one command: with data for the target, or expecting edtl bytes from it.
func (i *initiator) do(cdb []byte, out []byte, edtl int) (result, error) {
	flags := byte(pdu.Final)
	var immediate []byte
	switch {
	case out != nil:
		flags |= pdu.Write
		edtl = len(out)
		immediate = out[:min(len(out), i.max, 64<<10)]
	case edtl > 0:
		flags |= pdu.Read
	}
	tag := i.tag
	if err := i.send(i.header(cdb, 0, flags, edtl), immediate); err != nil {
		return result{}, err
	}
	return i.finish(tag, out)
}

func read16(lba, blocks int) []byte {
	cdb := make([]byte, 16)
	cdb[0] = 0x88
	binary.BigEndian.PutUint64(cdb[2:], uint64(lba))
	binary.BigEndian.PutUint32(cdb[10:], uint32(blocks))
	return cdb
}

func write16(lba, blocks int) []byte {
	cdb := read16(lba, blocks)
	cdb[0] = 0x8a
	return cdb
}

var testUnitReady = make([]byte, 6)

// good does a command that must succeed.
func (i *initiator) good(t testing.TB, cdb []byte, out []byte, edtl int) []byte {
	t.Helper()
	res, err := i.do(cdb, out, edtl)
	require.NoError(t, err)
	require.Zero(t, res.status, "key %#x additional %#04x", res.key, res.asc)
	return res.in
}

// dial connects to an address as an initiator.
func dial(t testing.TB, addr, name string) *initiator {
	t.Helper()
	nc, err := net.DialTimeout("tcp", addr, time.Minute)
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	require.NoError(t, nc.SetDeadline(time.Now().Add(10*time.Minute)))
	return newInitiator(nc, name)
}
