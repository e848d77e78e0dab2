//go:build linux

package dhcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/benchline"
	"github.com/dewpoint-cloud/dewpoint/internal/netnstest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// BenchmarkPeerPerfdhcp has perfdhcp, Kea's own tool, ask our server and Kea for more exchanges than either can give beside it: how
// many they do. It speaks as a relay agent, which no guest is, so that both have a [switchboard] before them, which makes its
// messages those of cards.
func BenchmarkPeerPerfdhcp(b *testing.B) {
	testneed.Root(b)
	testneed.Tools(b, "ip", "kea-dhcp4", "perfdhcp")
	const rounds, ports = 5, 10000
	for range b.N {
		ours, kea := newSide(b, ports, startOurs), newSide(b, ports, startKea)
		for range rounds {
			ours.perfdhcp()
			kea.perfdhcp()
		}
		o, k := benchline.Median(ours.rates), benchline.Median(kea.rates)
		benchline.Report(b, benchline.Line{
			Name: fmt.Sprintf("dhcp/perfdhcp/%d-ports", ports), Ours: o, Peer: k, PeerName: "kea", Ratio: o / k, Unit: "1/s",
			Goal: ">= 1.5x", Met: o/k >= 1.5, CPU: benchline.Median(ours.cpu), Runs: rounds,
			Setup: fmt.Sprintf("perfdhcp starts %d exchanges a second; kea used %.0f us of CPU for one; %% of requests not answered in 1 s: ours %.1f, kea %.1f",
				offered, benchline.Median(kea.cpu), benchline.Median(ours.load), benchline.Median(kea.load)),
		})
	}
}

const offered = 40000 // exchanges a second

// perfdhcp measures one round; load is the share of messages that were not answered, in percent.
func (s *side) perfdhcp() {
	const seconds = 3
	stop := s.g.switchboard(s.guest)
	defer stop()
	var out []byte
	cpu := processCPU(s.b, s.process.Pid)
	require.NoError(s.b, s.guest.Do(func() (err error) {
		out, err = exec.Command("perfdhcp", "-4", "-l", "127.0.0.1", "-L", "6767", "-N", "6768", "-r", strconv.Itoa(offered), "-p", strconv.Itoa(seconds),
			"-R", strconv.Itoa(len(s.g.clients)), "-b", "mac="+testMAC(0).String(), "127.0.0.1").CombinedOutput()
		if e := new(exec.ExitError); err != nil && !(errors.As(err, &e) && e.ExitCode() == 3) { // 3: not all was answered
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}))
	var sent, received [2]int
	for i, what := range [][]byte{[]byte("DISCOVER-OFFER"), []byte("REQUEST-ACK")} {
		_, part, found := bytes.Cut(out, what)
		require.True(s.b, found, string(out))
		sent[i], received[i] = counted(s.b, part, "sent packets"), counted(s.b, part, "received packets")
	}
	s.rates = append(s.rates, float64(received[1])/seconds)
	s.cpu = append(s.cpu, float64((processCPU(s.b, s.process.Pid)-cpu).Microseconds())/float64(received[1]))
	s.load = append(s.load, 100*(1-float64(received[0]+received[1])/float64(sent[0]+sent[1])))
}

func counted(b testing.TB, text []byte, what string) int {
	m := regexp.MustCompile(what + `: (\d+)`).FindSubmatch(text)
	require.NotNil(b, m, string(text))
	n, err := strconv.Atoi(string(m[1]))
	require.NoError(b, err)
	return n
}

// switchboard hands what comes to port 6768 as from a relay agent to the generator's card, as from the client's own, and the answers
// back, until stop is called.
func (g *generator) switchboard(ns *netnstest.NS) (stop func()) {
	var relay *net.UDPConn
	require.NoError(g.t, ns.Do(func() (err error) {
		relay, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 6768})
		return err
	}))
	require.NoError(g.t, relay.SetReadBuffer(4<<20))
	agent := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 6767}
	done := make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() {
		m := make([]byte, 2000)
		for {
			n, err := relay.Read(m)
			if err != nil {
				return
			}
			if n < bootpHeader+4 {
				continue
			}
			f := append(g.frames[0][:0], 255, 255, 255, 255, 255, 255)
			f = append(f, m[28:34]...)
			f = append(f, 0x08, 0)
			f = appendMessage(f, clientMessage{xid: binary.BigEndian.Uint32(m[4:]), mac: hardware(m[28:34]), broadcast: true, options: m[bootpHeader+4 : n]})
			g.frames[0] = f
			g.tx.vectors[0].Base = &f[0]
			g.tx.vectors[0].SetLen(len(f))
			g.queued = 1
			g.flush()
		}
	})
	both.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			for _, m := range g.receive() {
				if len(m) < 14+28+bootpHeader+4 {
					continue
				}
				copy(m[14+28+24:], agent.IP.To4())        // giaddr
				_, _ = relay.WriteToUDP(m[14+28:], agent) // an agent that has ended hears no more
			}
		}
	})
	return func() {
		close(done)
		_ = relay.Close()
		both.Wait()
	}
}
