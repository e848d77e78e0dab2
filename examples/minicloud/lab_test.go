package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// promised is within what time nothing is stuck any more, on a machine that has nothing else to do.
const promised = 30 * time.Second

// lab is several hosts, each a network namespace, on one network that reaches nothing else.
type lab struct {
	t       *testing.T
	dir     string
	program string
	config  string        // for commands: how long they wait
	calm    time.Duration // how long the cloud may take to be settled
	prefix  string        // of the namespaces' names

	mu        sync.Mutex
	processes map[string]*process
}

// process is one that runs on a host, and is started again as it was.
type process struct {
	host string
	args []string
	log  *os.File
	cmd  *exec.Cmd
	done chan struct{}
}

// hosts of a lab, in the order of their addresses, 10.90.0.1 and up.
var labHosts = []string{"c", "h1", "h2", "h3"}

func newLab(t *testing.T) *lab {
	t.Helper()
	testneed.Slow(t)
	testneed.Root(t)
	testneed.Tools(t, "go", "ip", "qemu-img", "busybox")
	dir, err := os.MkdirTemp("", "lab")
	require.NoError(t, err)
	l := &lab{t: t, dir: dir, program: filepath.Join(dir, "minicloud"), config: patient(t, dir), calm: patience, prefix: filepath.Base(dir) + "-",
		processes: map[string]*process{}}
	t.Cleanup(l.remove)
	out, err := exec.Command("go", "build", "-o", l.program, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	l.ip("netns", "add", l.prefix+"lan")
	l.ip("-n", l.prefix+"lan", "link", "add", "lan", "type", "bridge")
	l.ip("-n", l.prefix+"lan", "link", "set", "lan", "up")
	for n, host := range labHosts {
		ns := l.prefix + host
		l.ip("netns", "add", ns)
		l.ip("-n", ns, "link", "set", "lo", "up")
		l.ip("-n", ns, "link", "add", "eth0", "type", "veth", "peer", "name", host, "netns", l.prefix+"lan")
		l.ip("-n", l.prefix+"lan", "link", "set", host, "master", "lan", "up")
		l.ip("-n", ns, "addr", "add", fmt.Sprintf("10.90.0.%d/24", n+1), "dev", "eth0")
		l.ip("-n", ns, "link", "set", "eth0", "up")
	}
	return l
}

// patient is the file with which commands wait as long as tests do.
func patient(t *testing.T, dir string) string {
	t.Helper()
	file := filepath.Join(dir, "patient.yaml")
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "wait: %v\n", patience), 0o600))
	return file
}

func (l *lab) ip(args ...string) {
	l.t.Helper()
	require.NoError(l.t, ip(l.t.Context(), args...))
}

// start starts a program on a host.
func (l *lab) start(name, host string, args ...string) {
	l.t.Helper()
	log, err := os.Create(filepath.Join(l.dir, name+".log"))
	require.NoError(l.t, err)
	l.mu.Lock()
	l.processes[name] = &process{host: host, args: args, log: log}
	l.mu.Unlock()
	l.again(name)
}

// again starts a program that has ended.
func (l *lab) again(name string) {
	l.mu.Lock()
	p := l.processes[name]
	l.mu.Unlock()
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", l.prefix + p.host}, p.args...)...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.WaitDelay = time.Second
	p.done = make(chan struct{})
	if err := p.cmd.Start(); err != nil {
		l.t.Errorf("starting %s: %v", name, err)
		close(p.done)
		return
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
}

// end sends a program a signal, and returns when it has ended.
func (l *lab) end(name string, signal syscall.Signal) {
	l.mu.Lock()
	p := l.processes[name]
	l.mu.Unlock()
	_ = p.cmd.Process.Signal(signal)
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT)
		<-p.done
		l.t.Errorf("%s has not ended %v after %v; where it hung stands in its log:\n%s", name, patience, signal, l.log(name))
	}
}

// log returns what a program has said.
func (l *lab) log(name string) string {
	text, err := os.ReadFile(filepath.Join(l.dir, name+".log"))
	require.NoError(l.t, err)
	return string(text)
}

// says waits until a program says something.
func (l *lab) says(name, what string) string {
	l.t.Helper()
	r := regexp.MustCompile(what)
	var found string
	require.Eventually(l.t, func() bool {
		found = r.FindString(l.log(name))
		return found != ""
	}, patience, 50*time.Millisecond, "%s does not say %q", name, what)
	return found
}

// run runs a minicloud command on the controller's host.
func (l *lab) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	words := 1 // of the command's name
	if args[0] == "volume" || args[0] == "image" {
		words = 2
	}
	out, err := l.command(ctx, append(append(slices.Clone(args[:words]), "-dir", filepath.Join(l.dir, "c"), "-config", l.config), args[words:]...)...).CombinedOutput()
	return string(out), err
}

// command is the program on the controller's host.
func (l *lab) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", l.prefix + "c", l.program}, args...)...)
}

// guests are the ids of the machines that run anywhere in the lab, each as often as it runs.
func (l *lab) guests() (ids []string) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(l.t, err)
	uuid := regexp.MustCompile(`-uuid\x00([0-9a-f-]{36})\x00`)
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err == nil && bytes.Contains(line, []byte(l.dir+"/")) {
			if m := uuid.FindSubmatch(line); m != nil {
				ids = append(ids, string(m[1]))
			}
		}
	}
	return ids
}

// taps are those of machines, on any host.
func (l *lab) taps() (names []string) {
	for _, host := range labHosts {
		out, err := exec.Command("ip", "-n", l.prefix+host, "-o", "link").CombinedOutput()
		require.NoError(l.t, err, string(out))
		for _, line := range strings.Split(string(out), "\n") {
			if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], "dp") {
				names = append(names, host+"/"+f[1])
			}
		}
	}
	return names
}

func (l *lab) remove() {
	if l.t.Failed() {
		for name := range l.processes {
			text := l.log(name)
			l.t.Logf("%s:\n%s", name, text[max(0, len(text)-6000):])
		}
	}
	for name := range l.processes {
		l.end(name, syscall.SIGKILL)
		_ = l.processes[name].log.Close()
	}
	// What outlives minicloud: libvirtd and its guests, which have the lab's directory in their command lines. One that is killed goes on for a
	// while, and may have started another.
	for begun := time.Now(); l.killRest(); time.Sleep(20 * time.Millisecond) {
		if time.Since(begun) > patience {
			l.t.Error("what minicloud left does not end")
			break
		}
	}
	for _, host := range append([]string{"lan"}, labHosts...) {
		_ = exec.Command("ip", "netns", "del", l.prefix+host).Run()
	}
	if err := os.RemoveAll(l.dir); err != nil {
		l.t.Error(err)
	}
}

// killRest kills what has the lab's directory in its command line, and tells whether there was anything.
func (l *lab) killRest() (found bool) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		line, err := os.ReadFile(file)
		var pid int
		if _, scan := fmt.Sscanf(file, "/proc/%d/", &pid); err == nil && scan == nil && bytes.Contains(line, []byte(l.dir+"/")) && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			found = true
		}
	}
	return found
}

// join has the nodes join, with further flags, and waits until they are up.
func (l *lab) join(flags ...func(host string) []string) {
	l.t.Helper()
	token := strings.Fields(l.says("controller", `-token \S+`))[1]
	for _, host := range labHosts[1:] {
		args := []string{l.program, "node", "-dir", filepath.Join(l.dir, host), "-name", host, "-join", "10.90.0.1:7443", "-token", token}
		for _, more := range flags {
			args = append(args, more(host)...)
		}
		l.start(host, host, args...)
	}
	for _, host := range labHosts[1:] {
		l.says(host, "node "+host+" is up")
	}
}

// work launches machines, five at a time, until all are launched, and terminates each third batch; it returns the ids that are left. A
// request is repeated under its name until it is answered.
func (l *lab) work(total int) (left []string) {
	accepted := regexp.MustCompile(`(?m)^([0-9a-f-]{36})\t\S+\taccepted$`)
	for batch := range total / 5 {
		name := fmt.Sprintf("b%d", batch)
		var ids []string
		for attempt := 1; len(ids) != 5; attempt++ {
			out, err := l.run("launch", "-n", "5", "-name", name, "-request", name, "-wait", "100s")
			ids = nil
			for _, m := range accepted.FindAllStringSubmatch(out, -1) {
				ids = append(ids, m[1])
			}
			if len(ids) != 5 && attempt > 20 {
				l.t.Errorf("launching %s: %v\n%s", name, err, out)
				return left
			}
		}
		if batch%3 != 2 {
			left = append(left, ids...)
			continue
		}
		for attempt := 1; ; attempt++ {
			out, err := l.run(append([]string{"terminate", "-wait", "100s"}, ids...)...)
			if err == nil || strings.Contains(out, "not found") {
				break
			}
			if attempt > 20 {
				l.t.Errorf("terminating %s: %v\n%s", name, err, out)
				return left
			}
		}
	}
	return left
}

// settled checks, within the time that the cloud has for it, that exactly these machines run, once each, and nothing else is left.
func (l *lab) settled(want []string) {
	l.t.Helper()
	var list string
	ok := func() string {
		var err error
		if list, err = l.run("list"); err != nil {
			return "list: " + err.Error()
		}
		for _, id := range want {
			if !regexp.MustCompile(`(?m)^` + id + ` .* ACTIVE `).MatchString(list) {
				return id + " is not active"
			}
		}
		if lines := strings.Count(list, "\n") - 1; lines != len(want) {
			return fmt.Sprintf("%d machines are on record, want %d", lines, len(want))
		}
		guests := map[string]int{}
		for _, id := range l.guests() {
			guests[id]++
		}
		for _, id := range want {
			if guests[id] != 1 {
				return fmt.Sprintf("%s runs %d times", id, guests[id])
			}
		}
		if len(guests) != len(want) {
			return fmt.Sprintf("%d machines run, want %d", len(guests), len(want))
		}
		if taps := l.taps(); len(taps) != len(want) {
			return fmt.Sprintf("there are the taps %v, want %d", taps, len(want))
		}
		return ""
	}
	begun := time.Now()
	l.await(l.calm, func() string {
		problem := ok()
		if problem != "" {
			problem += "\n" + list
		}
		return problem
	})
	l.t.Logf("settled after %v", time.Since(begun).Round(time.Second))
}

// await waits until there is no problem any more, and no longer than limit.
func (l *lab) await(limit time.Duration, problem func() string) {
	l.t.Helper()
	for begun := time.Now(); ; time.Sleep(time.Second) {
		p := problem()
		if p == "" {
			return
		}
		if time.Since(begun) > limit {
			l.t.Fatalf("after %v: %s", limit, p)
		}
	}
}

// finish checks that exactly the machines are there that are to be left, terminates them, and ends the programs in good order.
func (l *lab) finish(left []string) {
	l.t.Helper()
	l.settled(left)
	out, err := l.run("terminate")
	require.NoError(l.t, err, out)
	l.settled(nil)
	for _, name := range append(labHosts[1:len(labHosts):len(labHosts)], "controller") {
		l.end(name, syscall.SIGTERM)
		require.True(l.t, l.processes[name].cmd.ProcessState.Success(), l.log(name))
	}
}

// faults happen one after the other, with a while between them.
func (l *lab) faults(all ...func()) {
	for _, fault := range all {
		fault()
		time.Sleep(time.Duration(1000+rand.IntN(2000)) * time.Millisecond)
	}
}

// cut takes a host off the network for a while.
func (l *lab) cut(host string, d time.Duration) {
	lan := l.prefix + "lan"
	_ = ip(context.Background(), "-n", lan, "link", "set", host, "down")
	time.Sleep(d)
	_ = ip(context.Background(), "-n", lan, "link", "set", host, "up")
}

// Nothing but the cloud's own programs: the controller has the store and the bus, so that its death is theirs.
func TestThreeHostsWithNothingElse(t *testing.T) {
	l := newLab(t)
	l.calm = promised
	l.start("controller", "c", l.program, "controller", "-dir", filepath.Join(l.dir, "c"), "-listen", "10.90.0.1:7443", "-memory", "96")
	l.join()
	out, err := l.run("hosts")
	require.NoError(t, err, out)
	require.Equal(t, 3, strings.Count(out, " up "), out)

	var left []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		left = l.work(50)
	}()
	kill := func(name string) func() {
		return func() { l.end(name, syscall.SIGKILL); l.again(name) }
	}
	l.faults(kill("controller"), kill("h1"), func() { l.cut("h2", 60*time.Second) }, kill("controller"), kill("h3"))
	<-done
	l.finish(left)
}
