package libvirtd

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHalfStarted(t *testing.T) {
	for note, want := range map[string]bool{
		"<domstatus state='paused' reason='starting up' pid='0'/>":                    true,
		"<?xml version='1.0'?>\n<!-- c -->\n<domstatus pid='0' reason='starting up'>": true,
		"<domstatus state='paused' reason='starting up' pid='71'/>":                   false,
		"<domstatus state='running' reason='booted' pid='0'/>":                        false,
		"<domain pid='0' reason='starting up'/>":                                      false,
		"<domstatus pid='0":                                                           false,
		"":                                                                            false,
	} {
		require.Equal(t, want, halfStarted(strings.NewReader(note)), note)
	}
}

func FuzzHalfStarted(f *testing.F) {
	f.Add("<domstatus state='paused' reason='starting up' pid='0'/>")
	f.Add("<a><b")
	f.Fuzz(func(t *testing.T, note string) {
		if halfStarted(strings.NewReader(note)) {
			require.Contains(t, note, "domstatus")
		}
	})
}
