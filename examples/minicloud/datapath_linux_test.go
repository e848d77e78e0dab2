package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestADatapathNeedsANode(t *testing.T) {
	err := runDatapath(t.Context(), options{dir: t.TempDir(), netns: "host"}, nil, &bytes.Buffer{})
	require.ErrorContains(t, err, "no node has begun in ")
}

// TestTheDatapathOfANodeIsShown: a node with a machine says what its network should be, and is, and that they are the same.
func TestTheDatapathOfANodeIsShown(t *testing.T) {
	l := newLab(t)
	l.start("controller", "c", l.program, "controller", "-dir", filepath.Join(l.dir, "c"), "-listen", "10.90.0.1:7443", "-memory", "96")
	l.join()
	shown := func(host string) string {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		out, err := exec.CommandContext(ctx, "ip", "netns", "exec", l.prefix+host, l.program, "datapath", "-dir", filepath.Join(l.dir, host)).CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	require.Equal(t, "desired:\n  nothing\nactual:\n  nothing\ndifference:\n  none\n", shown("h1"))
	out, err := l.run("launch", "-n", "3")
	require.NoError(t, err, out)
	l.await(patience, func() string {
		taps := 0
		for _, host := range labHosts[1:] {
			text := shown(host)
			if !strings.HasSuffix(text, "difference:\n  none\n") {
				return host + ": " + text // what came with the last machine is there with the agent's next look
			}
			taps += strings.Count(text, "  tap ")
		}
		if taps != 6 { // each is desired, and there
			return fmt.Sprintf("%d taps are shown, must be 6", taps)
		}
		return ""
	})
	for _, name := range []string{"h1", "h2", "h3", "controller"} {
		l.end(name, syscall.SIGTERM)
	}
}
