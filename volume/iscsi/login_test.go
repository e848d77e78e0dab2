package iscsi

import (
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/pdu"
)

const (
	tenantTarget = "iqn.2026-01.org.dewpoint:tenant"
	openTarget   = "iqn.2026-01.org.dewpoint:open"
	userSecret   = "twelve bytes and more"
	ownSecret    = "the target's own secret"
)

// guarded is a server with a target behind CHAP, one that is open to an initiator, and one of somebody else.
func guardedServer(t testing.TB, cfg Config) string {
	s, addr := serve(t, cfg)
	ctx := context.Background()
	store := newMemory(1 << 20)
	require.NoError(t, s.Export(ctx, Export{IQN: testTarget, Volume: "1", Store: store, Initiators: []Initiator{
		{IQN: testInitiator, User: "ann", Secret: userSecret, MutualUser: "target", MutualSecret: ownSecret},
		{IQN: testInitiator2, User: "bob", Secret: userSecret + "2"}}}))
	require.NoError(t, s.Export(ctx, Export{IQN: openTarget, Volume: "2", Store: store, Initiators: []Initiator{{IQN: testInitiator}}}))
	require.NoError(t, s.Export(ctx, Export{IQN: tenantTarget, Volume: "3", Store: store, Initiators: []Initiator{
		{IQN: testInitiator2}, {IQN: "iqn.a", User: "ann", Secret: userSecret}}}))
	return addr
}

func TestAuthentication(t *testing.T) {
	var log journal
	addr := guardedServer(t, Config{Log: log.logger()})
	ann := secrets{algorithm: chapMD5, user: "ann", secret: userSecret}
	mutual := ann
	mutual.mutualUser, mutual.mutualSecret = "target", ownSecret
	change := func(s secrets, f func(*secrets)) secrets {
		f(&s)
		return s
	}
	for name, row := range map[string]struct {
		initiator, target string
		with              secrets
		want              error
		why               string // in the log
	}{
		"MD5":                              {testInitiator, testTarget, ann, nil, ""},
		"SHA-256":                          {testInitiator, testTarget, change(ann, func(s *secrets) { s.algorithm = chapSHA256 }), nil, ""},
		"the strongest":                    {testInitiator, testTarget, change(ann, func(s *secrets) { s.algorithm = "5,6,7" }), nil, ""},
		"mutual":                           {testInitiator, testTarget, mutual, nil, ""},
		"an unknown algorithm":             {testInitiator, testTarget, change(ann, func(s *secrets) { s.algorithm = "6,99" }), loginError(statusAuthentication), "no algorithm of CHAP in common"},
		"the wrong secret":                 {testInitiator, testTarget, change(ann, func(s *secrets) { s.secret = "something else" }), loginError(statusAuthentication), "the wrong user or secret"},
		"the wrong user":                   {testInitiator, testTarget, change(ann, func(s *secrets) { s.user = "bob" }), loginError(statusAuthentication), "the wrong user or secret"},
		"of another initiator":             {testInitiator2, testTarget, ann, loginError(statusAuthentication), "the wrong user or secret"},
		"no secret":                        {testInitiator, testTarget, secrets{}, loginError(statusAuthentication), "no method of authentication in common"},
		"our challenge comes back":         {testInitiator, testTarget, change(mutual, func(s *secrets) { s.reflect = true }), loginError(statusAuthentication), "our own challenge came back"},
		"mutual, but there is no secret":   {testInitiator2, testTarget, secrets{algorithm: chapMD5, user: "bob", secret: userSecret + "2", mutualUser: "target"}, loginError(statusAuthentication), "there is no secret to prove the target with"},
		"an unknown initiator":             {"iqn.evil:any", testTarget, ann, loginError(statusNotFound), "no such target for this initiator"},
		"the target of another initiator":  {testInitiator, tenantTarget, ann, loginError(statusNotFound), "no such target for this initiator"},
		"a target that is not there":       {testInitiator, testTarget + "x", ann, loginError(statusNotFound), "no such target for this initiator"},
		"an open one, without a secret":    {testInitiator, openTarget, secrets{}, nil, ""},
		"the name in capitals is the same": {strings.ToUpper(testInitiator), openTarget, secrets{}, nil, ""},
	} {
		i := dial(t, addr, row.initiator)
		err := i.login(row.target, row.with)
		require.Equal(t, row.want, err, name)
		if err == nil {
			i.good(t, testUnitReady, nil, 0)
			require.NotContains(t, log.take(), "refused", name)
			continue
		}
		_, _, err = i.receive()
		require.ErrorIs(t, err, io.EOF, name)
		said := log.take()
		require.Equal(t, 1, strings.Count(said, "login refused"), "%s: %s", name, said)
		for _, what := range []string{"level=WARN", "initiator=" + row.initiator, "target=" + row.target, row.why, i.nc.LocalAddr().String()} {
			require.Contains(t, said, what, name)
		}
		require.NotContains(t, said, userSecret, name)
	}
}

// journal is a log that a test reads.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

// take returns what was logged since it was called last.
func (j *journal) take() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	defer j.text.Reset()
	return j.text.String()
}

func TestDiscoveryTellsWhatCanBeUsed(t *testing.T) {
	var log journal
	addr := guardedServer(t, Config{Portal: "192.0.2.1:3260", Log: log.logger()})
	for name, row := range map[string]struct {
		initiator string
		with      secrets
		asked     string
		want      []string // nil: refused
	}{
		"without a secret":                       {testInitiator, secrets{}, "All", []string{openTarget}},
		"with the secret":                        {testInitiator, secrets{algorithm: chapMD5, user: "ann", secret: userSecret}, "All", []string{openTarget, testTarget}},
		"one of another":                         {testInitiator2, secrets{algorithm: chapMD5, user: "bob", secret: userSecret + "2"}, "All", []string{testTarget, tenantTarget}},
		"an unknown initiator":                   {"iqn.evil:any", secrets{}, "All", nil},
		"others have this secret":                {"iqn.a", secrets{algorithm: chapSHA256, user: "ann", secret: userSecret}, "All", []string{tenantTarget}},
		"one by its name":                        {testInitiator, secrets{}, openTarget, []string{openTarget}},
		"one of another tenant":                  {testInitiator, secrets{}, tenantTarget, nil},
		"one of another tenant, with the secret": {testInitiator, secrets{algorithm: chapMD5, user: "ann", secret: userSecret}, tenantTarget, nil},
		"one without its secret":                 {testInitiator, secrets{}, testTarget, nil},
		"one that is not there":                  {testInitiator, secrets{}, testTarget + "x", nil},
	} {
		i := dial(t, addr, row.initiator)
		require.NoError(t, i.login("", row.with), name)
		ask := func() string {
			h := i.header(nil, 0, pdu.Final, pdu.NoTag)
			h[0] = pdu.TextRequest
			require.NoError(t, i.send(h, []byte("SendTargets="+row.asked+"\x00")))
			_, data, err := i.receive()
			require.NoError(t, err)
			return string(data)
		}
		var want string
		for _, iqn := range row.want {
			want += "TargetName=" + iqn + "\x00TargetAddress=192.0.2.1:3260,1\x00"
		}
		require.Equal(t, want, ask(), name)
		require.Equal(t, want, ask(), name)
		said := log.take()
		if row.want != nil {
			require.NotContains(t, said, "refused", name)
		} else {
			require.Equal(t, 1, strings.Count(said, "discovery refused"), "%s: %s", name, said) // once, however often it asks
			for _, what := range []string{"level=WARN", "initiator=" + row.initiator, "asked=" + row.asked, i.nc.LocalAddr().String()} {
				require.Contains(t, said, what, name)
			}
		}
		// There are no units in it.
		require.NoError(t, i.send(i.header(testUnitReady, 0, pdu.Final, 0), nil))
		r, _, err := i.receive()
		require.NoError(t, err)
		require.EqualValues(t, pdu.Reject, r.Opcode())
	}
	i := dial(t, addr, testInitiator)
	require.Equal(t, loginError(statusAuthentication), i.login("", secrets{algorithm: chapMD5, user: "ann", secret: "nothing like it"}))
	_, _, err := i.receive()
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, 1, strings.Count(log.take(), "login refused"))
}

// request is a login request as bytes.
func request(set func(h *pdu.Header), text string) []byte {
	h := pdu.Header{pdu.LoginRequest | 0x40, 0x87}
	h[8] = 0x80
	if set != nil {
		set(&h)
	}
	h.SetDataLen(len(text))
	return append(h[:], append([]byte(text), make([]byte, pdu.Pad(len(text)))...)...)
}

func TestLoginsThatCantBe(t *testing.T) {
	addr := guardedServer(t, Config{})
	names := "InitiatorName=" + testInitiator + "\x00TargetName=" + openTarget + "\x00"
	for name, row := range map[string]struct {
		bytes  []byte
		status int // 0: the connection is closed without a word
	}{
		"a session that is not there":  {request(func(h *pdu.Header) { h.SetHalf(14, 1) }, "SessionType=Discovery\x00"), statusNoSession},
		"an unknown version":           {request(func(h *pdu.Header) { h[2], h[3] = 9, 9 }, names), statusVersion},
		"more and the next stage":      {request(func(h *pdu.Header) { h[1] = 0xc7 }, names), statusInitiatorError},
		"a stage that there is not":    {request(func(h *pdu.Header) { h[1] = 0x8b }, names), statusInitiatorError},
		"back":                         {request(func(h *pdu.Header) { h[1] = 0x84 }, names), statusInitiatorError},
		"no name":                      {request(nil, "TargetName="+openTarget+"\x00"), statusMissing},
		"no target":                    {request(nil, "InitiatorName="+testInitiator+"\x00"), statusMissing},
		"no such type":                 {request(nil, names+"SessionType=Other\x00"), statusSessionType},
		"a name that is none":          {request(nil, "InitiatorName=a b\x00"), statusInitiatorError},
		"a key twice":                  {request(nil, names+"MaxConnections=1\x00MaxConnections=1\x00"), statusInitiatorError},
		"text without an end":          {request(nil, names+"MaxConnections=1"), statusInitiatorError},
		"text without a key":           {request(nil, names+"MaxConnections\x00"), statusInitiatorError},
		"a secret where none is asked": {request(func(h *pdu.Header) { h[1] = 0x81 }, names+"CHAP_N=a\x00CHAP_R=0x00\x00"), statusAuthentication},
		"no secret in the next stage":  {request(nil, "InitiatorName="+testInitiator+"\x00TargetName="+testTarget+"\x00"), statusAuthentication},
		"a command":                    {request(func(h *pdu.Header) { h[0] = pdu.SCSICommand }, ""), 0},
		"more data than there may be":  {append([]byte{pdu.LoginRequest, 0x87, 0, 0, 0, 0xff}, make([]byte, 42)...), 0},
		"nothing but zeros":            {make([]byte, 48), 0},
	} {
		i := dial(t, addr, testInitiator)
		_, err := i.nc.Write(row.bytes)
		require.NoError(t, err)
		if row.status != 0 {
			h, _, err := i.receive()
			require.NoError(t, err, name)
			require.EqualValues(t, row.status, h.Half(36), name)
		}
		_, _, err = i.receive()
		require.Error(t, err, name)
		require.NotErrorIs(t, err, context.DeadlineExceeded)
	}
	i := dial(t, addr, testInitiator)
	require.NoError(t, i.login(openTarget, secrets{}))
}

func TestNegotiation(t *testing.T) {
	for _, row := range []struct{ key, value, want string }{
		{"MaxBurstLength", "16777215", "1048576"}, {"MaxBurstLength", "0x2000", "8192"}, {"MaxBurstLength", "1", "Reject"},
		{"FirstBurstLength", "16777215", "131072"}, {"FirstBurstLength", "x", "Reject"}, {"MaxConnections", "8", "1"},
		{"MaxOutstandingR2T", "8", "1"}, {"ErrorRecoveryLevel", "2", "0"}, {"DefaultTime2Wait", "0", "2"}, {"DefaultTime2Retain", "20", "0"},
		{"InitialR2T", "No", "No"}, {"InitialR2T", "Maybe", "Reject"}, {"DataPDUInOrder", "No", "Yes"}, {"HeaderDigest", "CRC32C,None", "CRC32C"},
		{"DataDigest", "SHA1,None", "None"}, {"DataDigest", "SHA1", "Reject"}, {"MaxRecvDataSegmentLength", "8192", ""},
		{"MaxRecvDataSegmentLength", "1", "Reject"}, {"IFMarker", "Yes", "No"}, {"TaskReporting", "FastAbort,RFC3720", "RFC3720"},
		{"X-com.example", "1", "NotUnderstood"},
	} {
		p := defaultParams()
		p.maxBurst = maxBurst
		require.Equal(t, row.want, p.agree(row.key, row.value), "%s=%s", row.key, row.value)
	}
}

func TestExportsThatCantBe(t *testing.T) {
	s := NewServer(Config{})
	good := exportOf(newMemory(1 << 20))
	for name, change := range map[string]func(*Export){
		"IQN":       func(e *Export) { e.IQN = "volume" },
		"IQN ":      func(e *Export) { e.IQN = "iqn." + strings.Repeat("a", 220) },
		"LUN":       func(e *Export) { e.LUN = 1 << 14 },
		"Volume":    func(e *Export) { e.Volume = "" },
		"Volume ":   func(e *Export) { e.Volume = "a\x00" },
		"Store":     func(e *Export) { e.Store = nil },
		"IQN  ":     func(e *Export) { e.Initiators = []Initiator{{IQN: "iqn.A"}} },
		"twice":     func(e *Export) { e.Initiators = []Initiator{{IQN: "iqn.a"}, {IQN: "iqn.a"}} },
		"a secret":  func(e *Export) { e.Initiators = []Initiator{{IQN: "iqn.a", User: "u", Secret: "short"}} },
		"without":   func(e *Export) { e.Initiators = []Initiator{{IQN: "iqn.a", User: "u"}} },
		"MutualSec": func(e *Export) { e.Initiators = []Initiator{{IQN: "iqn.a", MutualUser: "u", MutualSecret: userSecret}} },
		"is its Secret": func(e *Export) {
			e.Initiators = []Initiator{{IQN: "iqn.a", User: "u", Secret: userSecret, MutualUser: "u", MutualSecret: userSecret}}
		},
	} {
		e := good
		change(&e)
		err := s.Export(context.Background(), e)
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", name, err)
		require.ErrorContains(t, err, strings.TrimSpace(name))
	}
}

// pipes is a listener whose connections are pipes.
type pipes struct {
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case nc := <-p.accept:
		return nc, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

func TestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{accept: make(chan net.Conn), closed: make(chan struct{})}
		s := NewServer(Config{MaxLogins: 2})
		require.NoError(t, s.Export(t.Context(), exportOf(newMemory(1<<20))))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(ctx, p) }()
		connect := func() *initiator {
			ours, theirs := net.Pipe()
			p.accept <- theirs
			return newInitiator(ours, testInitiator)
		}
		gone := func(i *initiator, after time.Duration) {
			t.Helper()
			begun := time.Now()
			for {
				if _, _, err := i.receive(); err != nil {
					break
				}
			}
			require.Equal(t, after, time.Since(begun))
			_ = i.nc.Close()
		}
		// Who says nothing is not waited for, and others find their place taken until then.
		silent, slow := connect(), connect()
		_, err := slow.nc.Write([]byte{pdu.LoginRequest})
		require.NoError(t, err)
		gone(connect(), 0)
		gone(silent, 15*time.Second)
		gone(slow, 0)
		synctest.Wait()

		// A session that is silent is asked, and ends if there is no answer.
		i := connect()
		require.NoError(t, i.login(testTarget, secrets{}))
		begun := time.Now()
		h, _, err := i.receive()
		require.NoError(t, err)
		require.EqualValues(t, pdu.NOPIn, h.Opcode())
		require.GreaterOrEqual(t, time.Since(begun), 15*time.Second)
		answer := i.header(nil, 0, pdu.Final, int(h.Word(pdu.AtTransfer)))
		answer[0] = pdu.NOPOut | 0x40
		answer.SetWord(pdu.AtTag, pdu.NoTag)
		i.cmdSN--
		require.NoError(t, i.send(answer, nil))
		i.good(t, testUnitReady, nil, 0)
		begun = time.Now()
		for err == nil {
			_, _, err = i.receive()
		}
		require.ErrorIs(t, err, io.EOF)
		require.InDelta(t, 37, time.Since(begun).Seconds(), 8)
		cancel()
		require.NoError(t, <-ended)
	})
}

func FuzzLogin(f *testing.F) {
	s := NewServer(Config{})
	require.NoError(f, s.Export(context.Background(), exportOf(newMemory(4096))))
	secret := exportOf(newMemory(4096))
	secret.IQN = tenantTarget
	secret.Initiators = []Initiator{{IQN: testInitiator, User: "ann", Secret: userSecret}}
	require.NoError(f, s.Export(context.Background(), secret))
	names := "InitiatorName=" + testInitiator + "\x00TargetName="
	f.Add(request(nil, names+testTarget+"\x00"))
	f.Add(append(request(func(h *pdu.Header) { h[1] = 0 }, names+tenantTarget+"\x00AuthMethod=CHAP\x00"),
		append(request(func(h *pdu.Header) { h[1] = 0 }, "CHAP_A=5\x00"), request(func(h *pdu.Header) { h[1] = 0x83 }, "CHAP_N=ann\x00CHAP_R=0xaa\x00")...)...))
	f.Add(request(func(h *pdu.Header) { h[1] = 0x83 }, "InitiatorName="+testInitiator+"\x00SessionType=Discovery\x00AuthMethod=CHAP,None\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := newLogin(s)
		for len(b) >= pdu.HeaderSize {
			h := pdu.Header(b[:pdu.HeaderSize])
			b = b[pdu.HeaderSize:]
			n := min(h.DataLen(), len(b), mostTextBytes)
			reply := l.step(&h, b[:n])
			b = b[min(n+pdu.Pad(n), len(b)):]
			if reply.status != statusSuccess {
				if l.reason == "" || reply.done {
					t.Fatal("refused without a reason")
				}
				return
			}
			if !reply.done {
				continue
			}
			if l.initiator != testInitiator && l.initiator != testInitiator2 && !l.discovery || l.target == tenantTarget {
				t.Fatalf("%s is logged in to %s", l.initiator, l.target) // the secret can't be guessed
			}
			return
		}
	})
}
