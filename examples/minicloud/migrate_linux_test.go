package main

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/libvirtd"
)

// A machine with a disk of its own and a volume of another host moves between three hosts while it runs, and lets go of its volume afterwards, which a
// guest does that runs and reaches it. One whose destination's agent has died waits for it.
func TestAMachineMoves(t *testing.T) {
	l := newLab(t)
	l.start("controller", "c", l.program, "controller", "-dir", filepath.Join(l.dir, "c"), "-listen", "10.90.0.1:7443", "-memory", "96")
	l.join(func(host string) []string {
		return []string{"-peer", "qemu+unix:///system?socket=" + libvirtd.Socket(filepath.Join(l.dir, host, "libvirt"))}
	})
	do := func(args ...string) string {
		t.Helper()
		out, err := l.run(args...)
		require.NoError(t, err, "%s: %s", strings.Join(args, " "), out)
		return out
	}
	id := regexp.MustCompile(`[0-9a-f-]{36}`).FindString(do("launch", "-name", "mover"))
	do("volume", "create", "-name", "data", "-size", "1")
	do("volume", "attach", "data", "mover")
	host := func() string {
		return regexp.MustCompile(`ACTIVE +(h\d)`).FindStringSubmatch(do("list"))[1]
	}
	for range 3 {
		from := host()
		do("migrate", "mover")
		require.NotEqual(t, from, host())
		l.settled([]string{id})
	}
	do("volume", "detach", "data")
	do("volume", "attach", "data", "mover")

	others := slices.DeleteFunc(slices.Clone(labHosts[1:]), func(h string) bool { return h == host() })
	do("migrate", "mover", others[0])
	require.Equal(t, others[0], host())
	out, err := l.run("migrate", "mover", others[0])
	require.ErrorContains(t, err, "exit status")
	require.Contains(t, out, "is on host "+others[0]+" already")
	l.end(others[1], syscall.SIGKILL)
	out, err = l.run("migrate", "-wait", "3s", "mover", others[1])
	require.Error(t, err, out)
	l.again(others[1])
	l.settled([]string{id})
	do("volume", "detach", "data")
	do("volume", "delete", "data")
	l.finish([]string{id})
}
