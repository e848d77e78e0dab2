package main

import (
	"bytes"
	"flag"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestVolumesFromTheCommandLine: a volume of one node is used by machines of two, at the address that its node has for all of them.
func TestVolumesFromTheCommandLine(t *testing.T) {
	l := newLab(t)
	l.start("controller", "c", l.program, "controller", "-dir", filepath.Join(l.dir, "c"), "-listen", "10.90.0.1:7443", "-memory", "96")
	l.join()
	volumes := func(args string) (string, error) {
		t.Helper()
		return l.run(append([]string{"volume"}, strings.Fields(args)...)...)
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
	refuses("create -name none", "-size is 0, must be at least 1 GiB; with -image or -snapshot it may be left out")
	out, err := l.run("launch", "-n", "3", "-name", "m")
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
		does("list", `data +\d GiB +in-use +h\d +`+machine+` as vdb`)
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
	out, err = l.run("image", "delete", made)
	require.NoError(t, err, out)
	require.Contains(t, out, made+"\tdata\tgone\n")
	refuses("create -name again -image "+made, `image "`+made+`": not found`)
	refuses("image nobody", `volume "nobody": not found`)
	refuses("delete nobody", `volume "nobody": not found`)
	does("delete before", `\tbefore\tgone`)
	does("delete data", `\tdata\tgone`)
	does("delete copy", `\tcopy\tgone`)
	out, err = l.run("terminate")
	require.NoError(t, err, out)

	// A machine boots from a volume that is made for it, and goes with it.
	out, err = l.run("launch", "-name", "from-volume", "-boot-size", "1")
	require.NoError(t, err, out)
	does("list", `from-volume +1 GiB +in-use +h\d +from-volume as vda`)
	out, err = l.run("terminate")
	require.NoError(t, err, out)
	l.await(patience, func() string {
		if out, err := volumes("list"); err != nil || strings.Contains(out, "from-volume") {
			return fmt.Sprint(err, out)
		}
		return ""
	})
}

func TestACommandThatIsWrongSaysHow(t *testing.T) {
	for args, says := range map[string]string{
		"launch -boot-volume data -n 2":         "-n is 2, must be 1 for a machine that boots from a volume",
		"launch -boot-volume data -boot-size 1": "-boot-size is 1, must be at least 0, and 0 with -boot-volume",
		"launch -boot-size -1":                  "-boot-size is -1",
		"node -initiator none":                  "-initiator is \"none\", must be \"qemu\" or \"kernel\"",
		"node -initiator kernel -netns other":   "-initiator kernel needs -netns host",
		"volume attach data":                    `volume attach takes VOLUME MACHINE, but has the arguments ["data"]`,
		"volume delete":                         "volume delete takes VOLUME|SNAPSHOT, but has the arguments []",
		"disable a b":                           `disable takes HOST, but has the arguments ["a" "b"]`,
		"controller -kine":                      "-kine goes with -etcd",
		"volume list all":                       `volume list takes no argument, but has "all"`,
		"image delete":                          `image delete takes IMAGE, but has the arguments []`,
		"volume nonsense now":                   `there is no command "volume nonsense"; minicloud volume -help lists them`,
		"nonsense":                              `there is no command "nonsense"; minicloud -help lists them`,
		"terminate -wait 0s":                    "-wait is 0s, must be more than 0",
		"volume extend data":                    "-size is 0, must be the new size, at least 1 GiB",
		"volume create -size -1 -image mini":    "-size is -1, must be at least 1 GiB",
		"volume extend data -sice 2":            "-sice",
	} {
		_, err := understand(strings.Fields(args), &bytes.Buffer{})
		require.ErrorContains(t, err, says, args)
	}
}

func TestHelp(t *testing.T) {
	for _, c := range commands() {
		for _, args := range []string{c.name + " -help", "help " + c.name, c.name + " -h"} {
			var said bytes.Buffer
			_, err := understand(strings.Fields(args), &said)
			require.ErrorIs(t, err, flag.ErrHelp, args)
			require.Contains(t, said.String(), "minicloud "+c.name+" [flags]", args)
			require.Contains(t, said.String(), c.about+".\n", args)
		}
	}
	for _, args := range []string{"volume", "volume -help", "help volume"} {
		var said bytes.Buffer
		_, err := understand(strings.Fields(args), &said)
		require.ErrorIs(t, err, flag.ErrHelp, args)
		require.Regexp(t, `(?m)^  volume attach VOLUME MACHINE +gives a volume to a machine`, said.String(), args)
		require.NotContains(t, said.String(), "launch", args)
	}
	for _, args := range []string{"-help", "help"} {
		var said bytes.Buffer
		_, err := understand(strings.Fields(args), &said)
		require.ErrorIs(t, err, flag.ErrHelp, args)
		for _, c := range commands() {
			require.Contains(t, said.String(), "\n  "+c.name, args)
		}
	}
}

func TestFlagsStandAnywhere(t *testing.T) {
	_, o, err := parseWords(strings.Fields("volume extend -wait 7s data -size 3 -dir /elsewhere"), &bytes.Buffer{})
	require.NoError(t, err)
	require.Equal(t, []string{"data"}, o.args)
	require.Equal(t, 3, o.size)
	require.Equal(t, []string{"-size=3", "-wait=7s"}, o.set)
	_, o, err = parseWords([]string{"controller", "-etcd", "https://a:1, https://b:2"}, &bytes.Buffer{})
	require.NoError(t, err)
	require.Equal(t, list{"https://a:1", "https://b:2"}, o.etcd)
}
