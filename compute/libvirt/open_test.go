package libvirt

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/stretchr/testify/require"
)

// answer plays libvirtd on a connection for so many calls, each of which it answers with success and no more, and hangs up.
func answer(raw net.Conn, calls int) {
	defer raw.Close()
	for range calls {
		var length [4]byte
		if _, err := io.ReadFull(raw, length[:]); err != nil {
			return
		}
		call := make([]byte, binary.BigEndian.Uint32(length[:])-4)
		if _, err := io.ReadFull(raw, call); err != nil {
			return
		}
		reply := append([]byte{0, 0, 0, 32}, call[:24]...) // the header: program, version, procedure, type, serial, status
		reply[15] = 1                                      // a reply
		reply = append(reply, 0, 0, 0, 0)                  // an empty list
		if _, err := raw.Write(reply); err != nil {
			return
		}
	}
}

func TestConnectionsThatAreLostWhileTheyAreOpened(t *testing.T) {
	for calls := range 4 {
		for range 20 {
			ours, theirs := net.Pipe()
			go answer(theirs, calls)
			c, err := open(t.Context(), ours, string(golibvirt.QEMUSystem))
			if calls < 2 { // the list of ways to authenticate, and the opening
				require.Error(t, err)
				break // which takes lossWait
			}
			require.NoError(t, err)
			if calls == 2 {
				<-c.lost
			}
			c.hangUp()
		}
	}
}

func TestAContextEndsAnOpening(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() { _, _ = io.Copy(io.Discard, theirs) }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := open(ctx, ours, string(golibvirt.QEMUSystem))
	require.Error(t, err)
}
