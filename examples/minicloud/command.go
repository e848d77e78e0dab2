package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// command is a word after the program's name, and what it does. Without one, minicloud is a cloud on one machine.
type command struct {
	name, arguments, about string
	flags                  []string // of those in declare that it takes
	run                    func(ctx context.Context, o options, w io.Writer) error
}

func commands() []command {
	machine := []string{"config", "dir", "v"}
	return []command{
		{"controller", "", "takes requests, and is what nodes join; runs the store and the bus unless -etcd and -bus name others",
			append([]string{"listen", "etcd", "kine", "bus", "cidr", "cidr6", "bridge", "uplink", "memory"}, machine...), runController},
		{"node", "", "runs machines of the cloud whose controller it joins", append([]string{"join", "token", "name", "netns", "volumes", "peer", "initiator"}, machine...), runNode},
		{"token", "", "prints a new token, for nodes to join the controller on this machine", machine, printToken},
		{"launch", "", "launches machines, and waits until they are active", append([]string{"n", "name", "wait", "request", "boot-volume", "boot-size"}, machine...), runLaunch},
		{"list", "", "shows the machines", machine, runList},
		{"terminate", "[NAME|ID]...", "terminates machines, all if none is named, and waits until they are gone", append([]string{"wait"}, machine...), runTerminate},
		{"migrate", "MACHINE [HOST]", "moves a machine to another host while it runs, and waits until it is there", append([]string{"wait"}, machine...), runMigrate},
		{"hosts", "", "shows the hosts", machine, runHosts},
		{"datapath", "", "shows this node's network as the records want it, as it is, and the difference", append([]string{"netns"}, machine...), runDatapath},
		{"disable", "HOST", "keeps new machines off a host", append([]string{"reason"}, machine...), runDisable},
		{"volume create", "", "makes a volume, and waits until it is there", append([]string{"size", "name", "image", "snapshot", "wait"}, machine...), runVolumeCreate},
		{"volume list", "", "shows the volumes and their snapshots", machine, runVolumeList},
		{"volume attach", "VOLUME MACHINE", "gives a volume to a machine, and waits until that has it", append([]string{"wait"}, machine...), runVolumeAttach},
		{"volume detach", "VOLUME", "takes a volume from its machine, and waits until that has let go", append([]string{"wait"}, machine...), runVolumeDetach},
		{"volume extend", "VOLUME", "makes a volume larger, also while it is used", append([]string{"size", "wait"}, machine...), runVolumeExtend},
		{"volume snapshot", "VOLUME", "keeps what a volume holds now, also while it is used", append([]string{"name", "wait"}, machine...), runVolumeSnapshot},
		{"volume image", "VOLUME", "makes an image of what a volume that nobody uses, or a snapshot, holds, and waits until it is there",
			append([]string{"name", "wait"}, machine...), runVolumeImage},
		{"volume delete", "VOLUME", "deletes a volume, or a snapshot, and waits until it is gone", append([]string{"wait"}, machine...), runVolumeDelete},
		{"enable", "HOST", "lets a host have new machines again", machine, runEnable},
	}
}

// declare declares a flag.
func (o *options) declare(f *flag.FlagSet, name string) {
	switch name {
	case "config":
		f.StringVar(&o.config, name, "", "a YAML file with values for these flags, by their names; those on the command line win")
	case "dir":
		f.StringVar(&o.dir, name, defaultDir, "where it keeps everything; at most 72 bytes")
	case "v":
		f.BoolVar(&o.verbose, name, false, "show the log")
	case "listen":
		f.StringVar(&o.listen, name, "127.0.0.1:7443", "where nodes join: this machine's address as they reach it, and a port")
	case "etcd":
		f.Var(&o.etcd, name, "endpoints of an etcd cluster, separated by commas, https://host:port; \"\": one is run here, on port 7444")
	case "kine":
		f.BoolVar(&o.kine, name, false, "what -etcd names is kine, etcd's protocol on an SQL database")
	case "bus":
		f.StringVar(&o.bus, name, "", "amqps://user:password@host of RabbitMQ, or tls://host:port of NATS; \"\": a NATS server is run here, on port 7445")
	case "cidr":
		f.TextVar(&o.cidr, name, defaultCIDR, "the machines' subnet")
	case "cidr6":
		f.TextVar(&o.cidr6, name, defaultCIDR6, "the machines' IPv6 subnet, a /64; \"\": none")
	case "bridge":
		f.StringVar(&o.bridge, name, "br100", "the bridge that they are on")
	case "uplink":
		f.StringVar(&o.uplink, name, "", "the network card of each node that joins the bridge")
	case "memory":
		f.IntVar(&o.memory, name, 128, "memory of a machine in MiB, 96 to 4096")
	case "join":
		f.StringVar(&o.join, name, "", "host:port of the controller; needed once, with -token")
	case "token":
		f.StringVar(&o.token, name, "", "what `minicloud token` printed on the controller")
	case "netns":
		f.StringVar(&o.netns, name, "host", "the network namespace that the node's machines live in, as in `ip netns`; \"host\": the host's own network")
	case "volumes":
		f.StringVar(&o.volumes, name, "", "address:port where all nodes reach this one's volumes, an address of this machine; "+
			"\"\": that from which it reaches the controller and port 3260, or, with -netns, "+loopback+", for its own machines alone")
	case "initiator":
		f.StringVar(&o.initiator, name, "qemu", "who reaches volumes for this node's machines: \"qemu\", each machine's own, or \"kernel\", the node's, by open-iscsi; "+
			"that needs -netns host")
	case "boot-volume":
		f.StringVar(&o.bootVolume, name, "", "the id or name of a volume to boot from, which stays when the machine goes; \"\": none")
	case "boot-size":
		f.IntVar(&o.bootSize, name, 0, "boot from a volume of so many GiB that is made of the image for the machine, and goes with it; 0: none")
	case "peer":
		f.StringVar(&o.peer, name, "", "the URI at which the libvirtds of all other nodes reach this one's, so that machines can move here while they run: "+
			"qemu+ssh://root@NODE/system?socket=DIR/libvirt/run/libvirt-sock with the -dir; their memory and disks come by TCP, unencrypted, to the "+
			"address of -volumes; \"\": none moves here")
	case "name":
		f.StringVar(&o.name, name, "", "what to call it; \"\": the machine's name, or for launch, \"mini\"")
	case "n":
		f.IntVar(&o.instances, name, 1, "how many, 1 to 200")
	case "request":
		f.StringVar(&o.request, name, "", "a name for the request, with which it can be repeated and gives the same machines; at most 64 bytes")
	case "wait":
		f.DurationVar(&o.wait, name, 90*time.Second, "how long to wait for it")
	case "size":
		f.IntVar(&o.size, name, 0, "its size in GiB; of a volume that is made of something, 0 is the size of that")
	case "image":
		f.StringVar(&o.image, name, "", "the id of an image that it begins with; \"\": none")
	case "snapshot":
		f.StringVar(&o.snapshot, name, "", "the id or name of a snapshot that it begins with; \"\": none")
	case "reason":
		f.StringVar(&o.reason, name, "", "why, for people; at most 255 bytes")
	default:
		panic("no flag is called " + name)
	}
}

// list is a flag with several values.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }
func (l *list) Set(s string) error {
	*l = nil
	if s != "" {
		*l = strings.Split(s, ",")
	}
	return nil
}

// parseCommand reads the command line of a command; what is wrong with it is said on w.
func parseCommand(c command, args []string, w io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("minicloud "+c.name, flag.ContinueOnError)
	f.SetOutput(w)
	for _, name := range c.flags {
		o.declare(f, name)
	}
	f.Usage = func() {
		fmt.Fprintf(w, "minicloud %s: %s.\n\n", strings.TrimSpace(c.name+" [flags] "+c.arguments), c.about)
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if err := fromFile(f, o.config); err != nil {
		return o, err
	}
	o.args = f.Args()
	return o, o.check(c)
}

// fromFile sets the flags that the command line did not.
func fromFile(f *flag.FlagSet, file string) error {
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("-config: %w", err)
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(text, &values); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	given := map[string]bool{}
	f.Visit(func(x *flag.Flag) { given[x.Name] = true })
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if name == "config" || !known(name) {
			return fmt.Errorf("%s: %q is not a setting", file, name)
		}
		if f.Lookup(name) == nil || given[name] {
			continue // of another command: one file may serve all
		}
		if err := f.Set(name, words(values[name])); err != nil {
			return fmt.Errorf("%s: %s: %w", file, name, err)
		}
	}
	return nil
}

// words is a value of the file as the command line would have it.
func words(v any) string {
	if all, ok := v.([]any); ok {
		var texts []string
		for _, x := range all {
			texts = append(texts, fmt.Sprint(x))
		}
		return strings.Join(texts, ",")
	}
	return fmt.Sprint(v)
}

func known(name string) bool {
	for _, c := range commands() {
		if slices.Contains(c.flags, name) {
			return true
		}
	}
	return false
}

// check says what is wrong with what was given.
func (o *options) check(c command) error {
	takes := func(name string) bool { return slices.Contains(c.flags, name) }
	if c.arguments == "" && len(o.args) > 0 {
		return fmt.Errorf("takes no argument, but has %q", o.args[0])
	}
	if c.arguments == "HOST" && len(o.args) != 1 {
		return fmt.Errorf("takes the name of one host, but has %d arguments", len(o.args))
	}
	words := strings.Fields(c.arguments)
	least := len(slices.DeleteFunc(slices.Clone(words), func(w string) bool { return strings.HasPrefix(w, "[") }))
	if least > 0 && c.arguments != "HOST" && (len(o.args) < least || len(o.args) > len(words)) {
		return fmt.Errorf("takes %s, but has %d arguments", c.arguments, len(o.args))
	}
	if len(o.dir) == 0 || len(o.dir) > 72 {
		return fmt.Errorf("-dir has %d bytes, must have 1 to 72: a socket's path has an end", len(o.dir))
	}
	if o.kine && len(o.etcd) == 0 {
		return errors.New("-kine goes with -etcd, which says where kine is")
	}
	if takes("memory") && (o.memory < 96 || o.memory > 4096) {
		return fmt.Errorf("-memory is %d MiB, must be 96 to 4096", o.memory)
	}
	if takes("n") && (o.instances < 1 || o.instances > 200) {
		return fmt.Errorf("-n is %d, must be 1 to 200", o.instances)
	}
	if takes("netns") && o.netns == "" {
		return fmt.Errorf(`-netns is empty; the host's own network is "host"`)
	}
	if takes("initiator") {
		switch {
		case o.initiator != "qemu" && o.initiator != "kernel":
			return fmt.Errorf(`-initiator is %q, must be "qemu" or "kernel"`, o.initiator)
		case o.initiator == "kernel" && o.netns != "host":
			return fmt.Errorf("-initiator kernel needs -netns host: the kernel's initiator is not in the namespace %s", o.netns)
		}
	}
	if takes("boot-size") && (o.bootSize < 0 || o.bootSize > 0 && o.bootVolume != "") {
		return fmt.Errorf("-boot-size is %d, must be at least 0, and 0 with -boot-volume, which has a size", o.bootSize)
	}
	if takes("boot-volume") && (o.bootVolume != "" || o.bootSize > 0) && o.instances != 1 {
		return fmt.Errorf("-n is %d, must be 1 for a machine that boots from a volume", o.instances)
	}
	if takes("volumes") && o.volumes != "" {
		if a, err := netip.ParseAddrPort(o.volumes); err != nil || a.Addr().IsUnspecified() || a.Addr().IsMulticast() || a.Addr().Zone() != "" {
			return fmt.Errorf("-volumes is %q, must be an address, by which others reach this machine, and a port", o.volumes)
		}
	}
	for name, address := range map[string]string{"listen": o.listen, "join": o.join} {
		if takes(name) && address != "" {
			if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
				return fmt.Errorf("-%s is %q, must be host:port", name, address)
			}
		}
	}
	return nil
}

// logger is where a command's log goes: to w, only what is a warning unless -v is given.
func (o *options) logger(w io.Writer) *slog.Logger {
	level := slog.LevelWarn
	if o.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
