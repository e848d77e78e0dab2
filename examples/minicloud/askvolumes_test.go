package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestVolumesFromTheCommandLine: a volume of one node is used by machines of two, at the address that its node has for all of them.
func TestVolumesFromTheCommandLine(t *testing.T) {
	l := newLab(t)
	l.start("controller", "c", l.program, "controller", "-dir", filepath.Join(l.dir, "c"), "-listen", "10.90.0.1:7443", "-memory", "96")
	l.join()
	volumes := func(args string) (string, error) {
		t.Helper()
		words := strings.Fields(args)
		ctx := t.Context()
		out, err := l.command(ctx, append([]string{"volume", words[0], "-dir", filepath.Join(l.dir, "c")}, words[1:]...)...).CombinedOutput()
		return string(out), err
	}
	does := func(args, says string) {
		t.Helper()
		out, err := volumes(args)
		require.NoError(t, err, out)
		require.Regexp(t, says, out)
	}
	refuses := func(args, says string) {
		t.Helper()
		out, err := volumes(args)
		require.Error(t, err, out)
		require.Regexp(t, says, out)
	}
	does("create -size 1 -name data", `\tdata\t1 GiB\tavailable`)
	refuses("create -name none", "SizeGiB is 0")
	out, err := l.run("launch", "-n", "3", "-name", "m", "-wait", "100s")
	require.NoError(t, err, out)
	list, err := l.run("list")
	require.NoError(t, err, list)
	hosts := map[string]string{} // a machine on each
	for _, m := range regexp.MustCompile(`(?m)(m-\d) +ACTIVE +(h\d) `).FindAllStringSubmatch(list, -1) {
		hosts[m[2]] = m[1]
	}
	require.Greater(t, len(hosts), 1, list)
	size := 1
	for _, machine := range hosts { // at most one of them is on the volume's own
		does("attach data "+machine, fmt.Sprintf(`\tdata\t%d GiB\tin-use`, size))
		does("list", `data +\d GiB +in-use +\S+ +used by \S+ as vdb`)
		refuses("delete data", "attached to")
		size++
		does(fmt.Sprintf("extend -size %d data", size), fmt.Sprintf(`\tdata\t%d GiB\tin-use`, size))
		does("detach data", fmt.Sprintf(`\tdata\t%d GiB\tavailable`, size))
	}
	size++
	does(fmt.Sprintf("extend -size %d data", size), fmt.Sprintf(`\tdata\t%d GiB\tavailable`, size))
	does("snapshot -name before data", fmt.Sprintf(`\tbefore\t%d GiB\tavailable`, size))
	does("create -name copy -snapshot before", fmt.Sprintf(`\tcopy\t%d GiB\tavailable`, size))
	refuses("delete data", "has snapshot")
	// From a node to the controller, and back to whichever node has the most room.
	does("image -name picture before", `^\S+\tpicture\t\d+ bytes\tactive`)
	out, err = volumes("image data")
	require.NoError(t, err, out)
	made := strings.Fields(out)[0]
	does("create -name from-image -image "+made, fmt.Sprintf(`\tfrom-image\t%d GiB\tavailable`, size))
	does("delete from-image", `\tfrom-image\tgone`)
	refuses("image nobody", `volume "nobody": not found`)
	refuses("delete nobody", `volume "nobody": not found`)
	does("delete before", `\tbefore\tgone`)
	does("delete data", `\tdata\tgone`)
	does("delete copy", `\tcopy\tgone`)
	out, err = l.run("terminate", "-wait", "100s")
	require.NoError(t, err, out)

	// A machine boots from a volume that is made for it, and goes with it.
	out, err = l.run("launch", "-name", "from-volume", "-boot-size", "1", "-wait", "100s")
	require.NoError(t, err, out)
	does("list", `from-volume +1 GiB +in-use +\S+ +used by \S+ as vda`)
	out, err = l.run("terminate", "-wait", "100s")
	require.NoError(t, err, out)
	require.Eventually(t, func() bool {
		out, err := volumes("list")
		return err == nil && !strings.Contains(out, "from-volume")
	}, time.Minute, time.Second)
}

func TestACommandThatIsWrongSaysHow(t *testing.T) {
	for args, says := range map[string]string{
		"launch -boot-volume data -n 2":         "-n is 2, must be 1 for a machine that boots from a volume",
		"launch -boot-volume data -boot-size 1": "-boot-size is 1, must be at least 0, and 0 with -boot-volume",
		"launch -boot-size -1":                  "-boot-size is -1",
		"node -initiator none":                  "-initiator is \"none\", must be \"qemu\" or \"kernel\"",
		"node -initiator kernel -netns other":   "-initiator kernel needs -netns host",
		"volume attach data":                    "takes VOLUME MACHINE, but has 1 arguments",
		"volume delete":                         "takes VOLUME, but has 0 arguments",
		"controller -kine":                      "-kine goes with -etcd",
		"volume list all":                       "takes no argument",
		"volume nonsense now":                   `takes no argument, but has "volume"`,
	} {
		_, err := understand(strings.Fields(args), &bytes.Buffer{})
		require.ErrorContains(t, err, says, args)
	}
}
