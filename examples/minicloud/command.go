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
	"text/tabwriter"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/dewpoint-cloud/dewpoint"
)

// command is what follows the program's name, and what it does. Without one, minicloud is a cloud on one machine.
type command struct {
	name, arguments, about string
	flags                  []string // of those in declare that it takes
	run                    func(ctx context.Context, o options, w io.Writer) error
	ask                    func(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error // instead of run: asks the cloud
}

func commands() []command {
	machine := []string{"config", "dir", "v"}
	with := func(flags ...string) []string { return append(flags, machine...) }
	return []command{
		{name: "launch", about: "launches machines, and waits until they are active", flags: with("n", "name", "wait", "request", "boot-volume", "boot-size"), ask: runLaunch},
		{name: "list", about: "shows the machines", flags: machine, ask: runList},
		{name: "terminate", arguments: "[MACHINE]...", about: "terminates machines, all if none is named, and waits until they are gone", flags: with("wait"), ask: runTerminate},
		{name: "volume create", about: "makes a volume, and waits until it is there", flags: with("size", "name", "image", "snapshot", "wait"), ask: runVolumeCreate},
		{name: "volume list", about: "shows the volumes and their snapshots", flags: machine, ask: runVolumeList},
		{name: "volume attach", arguments: "VOLUME MACHINE", about: "gives a volume to a machine, and waits until that has it", flags: with("device", "wait"), ask: runVolumeAttach},
		{name: "volume detach", arguments: "VOLUME", about: "takes a volume from its machine, and waits until that has let go", flags: with("wait"), ask: runVolumeDetach},
		{name: "volume extend", arguments: "VOLUME", about: "makes a volume larger, also while it is used", flags: with("size", "wait"), ask: runVolumeExtend},
		{name: "volume snapshot", arguments: "VOLUME", about: "keeps what a volume holds now, also while it is used", flags: with("name", "wait"), ask: runVolumeSnapshot},
		{name: "volume image", arguments: "VOLUME|SNAPSHOT", about: "makes an image of what a volume that nobody uses, or a snapshot, holds, and waits until it is there",
			flags: with("name", "wait"), ask: runVolumeImage},
		{name: "volume delete", arguments: "VOLUME|SNAPSHOT", about: "deletes a volume, or a snapshot, and waits until it is gone", flags: with("wait"), ask: runVolumeDelete},
		{name: "images", about: "shows the images", flags: machine, ask: runImages},
		{name: "image delete", arguments: "IMAGE", about: "deletes an image; machines and volumes that were made of it go on", flags: machine, ask: runImageDelete},
		{name: "hosts", about: "shows the hosts", flags: machine, ask: runHosts},
		{name: "disable", arguments: "HOST", about: "keeps new machines off a host", flags: with("reason"), ask: runDisable},
		{name: "enable", arguments: "HOST", about: "lets a host have new machines again", flags: machine, ask: runEnable},
		{name: "migrate", arguments: "MACHINE [HOST]", about: "moves a machine to another host while it runs, and waits until it is there", flags: with("wait"), ask: runMigrate},
		{name: "datapath", about: "shows this node's network as the records want it, as it is, and the difference", flags: with("netns"), ask: runDatapath},

		{name: "controller", about: "takes requests, and is what nodes join; runs the store and the bus unless -etcd and -bus name others",
			flags: with("listen", "etcd", "kine", "bus", "cidr", "cidr6", "bridge", "uplink", "memory"), run: runController},
		{name: "node", about: "runs machines of the cloud whose controller it joins", flags: with("join", "token", "name", "netns", "volumes", "peer", "initiator"), run: runNode},
		{name: "token", about: "prints a new token, for nodes to join the controller on this machine", flags: machine, run: printToken},
	}
}

// summary is a line for each of the commands that f chooses.
func summary(w io.Writer, f func(command) bool) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range commands() {
		if f(c) {
			fmt.Fprintf(t, "  %s\t%s\n", strings.TrimSpace(c.name+" "+c.arguments), c.about)
		}
	}
	_ = t.Flush()
}

// parseWords finds the command that the words begin with, and reads the rest; what is wrong with that, and help, is said on w.
func parseWords(words []string, w io.Writer) (command, options, error) {
	for _, c := range commands() {
		if name := strings.Fields(c.name); len(words) >= len(name) && slices.Equal(words[:len(name)], name) {
			o, err := parseCommand(c, words[len(name):], w)
			return c, o, err
		}
	}
	group, rest := words[0], words[1:]
	grouped := func(c command) bool { return strings.HasPrefix(c.name, group+" ") }
	switch {
	case !slices.ContainsFunc(commands(), grouped):
		return command{}, options{}, fmt.Errorf("there is no command %q; minicloud -help lists them", group)
	case len(rest) > 0 && !strings.HasPrefix(rest[0], "-"):
		return command{}, options{}, fmt.Errorf("there is no command %q; minicloud %s -help lists them", group+" "+rest[0], group)
	}
	fmt.Fprintf(w, "minicloud %s COMMAND asks a cloud; minicloud %s COMMAND -help says more:\n\n", group, group)
	summary(w, grouped)
	return command{}, options{}, flag.ErrHelp
}

// declare declares a flag of a command.
func (o *options) declare(f *flag.FlagSet, c command, name string) {
	switch name {
	case "config":
		f.StringVar(&o.config, name, "", "a YAML `file` with values for these flags, by their names; those on the command line win")
	case "dir":
		f.StringVar(&o.dir, name, defaultDir, "the `directory` of the cloud, or the part of it, that runs on this machine; at most 72 bytes")
	case "v":
		f.BoolVar(&o.verbose, name, false, "show the log")
	case "listen":
		f.StringVar(&o.listen, name, "127.0.0.1:7443", "where nodes join: this machine's `address` as they reach it, and a port")
	case "etcd":
		f.Var(&o.etcd, name, "`endpoints` of an etcd cluster, separated by commas, https://host:port; \"\": one is run here, on port 7444")
	case "kine":
		f.BoolVar(&o.kine, name, false, "what -etcd names is kine, etcd's protocol on an SQL database")
	case "bus":
		f.StringVar(&o.bus, name, "", "the `URL` of RabbitMQ, amqps://user:password@host, or of NATS, tls://host:port; \"\": a NATS server is run here, on port 7445")
	case "cidr":
		f.TextVar(&o.cidr, name, defaultCIDR, "the machines' `subnet`")
	case "cidr6":
		f.TextVar(&o.cidr6, name, defaultCIDR6, "the machines' IPv6 `subnet`, a /64; \"\": none")
	case "bridge":
		f.StringVar(&o.bridge, name, "br100", "the `bridge` that they are on")
	case "uplink":
		f.StringVar(&o.uplink, name, "", "the network `card` of each node that joins the bridge")
	case "memory":
		f.IntVar(&o.memory, name, 128, "memory of a machine in `MiB`, 96 to 4096")
	case "join":
		f.StringVar(&o.join, name, "", "`host:port` of the controller; needed once, with -token")
	case "token":
		f.StringVar(&o.token, name, "", "the `token` that \"minicloud token\" printed on the controller")
	case "netns":
		f.StringVar(&o.netns, name, "host", "the network `namespace` that the node's machines live in, as in \"ip netns\"; \"host\": the host's own network")
	case "volumes":
		f.StringVar(&o.volumes, name, "", "`address:port` where all nodes reach this one's volumes, an address of this machine; "+
			"\"\": that from which it reaches the controller and port 3260, or, with -netns, "+loopback+", for its own machines alone")
	case "initiator":
		f.StringVar(&o.initiator, name, "qemu", "`who` reaches volumes for this node's machines: \"qemu\", each machine's own, or \"kernel\", the node's, by open-iscsi; "+
			"that needs -netns host")
	case "boot-volume":
		f.StringVar(&o.bootVolume, name, "", "the id or name of a `volume` to boot from, which stays when the machine goes; \"\": none")
	case "boot-size":
		f.IntVar(&o.bootSize, name, 0, "boot from a volume of so many `GiB` that is made of the image for the machine, and goes with it; 0: none")
	case "peer":
		f.StringVar(&o.peer, name, "", "the `URI` at which the libvirtds of all other nodes reach this one's, so that machines can move here while they run: "+
			"qemu+ssh://root@NODE/system?socket=DIR/libvirt/run/libvirt-sock with the -dir; their memory and disks come by TCP, unencrypted, to the "+
			"address of -volumes; \"\": none moves here")
	case "name":
		switch c.name {
		case "launch":
			f.StringVar(&o.name, name, "vm", "the machine's `name`; of several, -1, -2, … is added")
		case "node":
			f.StringVar(&o.name, name, "", "the node's `name`; \"\": what its machine calls itself")
		case "volume image":
			f.StringVar(&o.name, name, "", "the image's `name`; \"\": that of what it is made of")
		default:
			f.StringVar(&o.name, name, "", "its `name`; need not be unique, but an id is needed then to say which one is meant")
		}
	case "n":
		f.IntVar(&o.instances, name, 1, "how `many`, 1 to 200")
	case "request":
		f.StringVar(&o.request, name, "", "a `name` for the request, with which it can be repeated and gives the same machines; at most 64 bytes")
	case "wait":
		f.DurationVar(&o.wait, name, 90*time.Second, "how `long` to wait; what is not done by then goes on")
	case "size":
		if c.name == "volume extend" {
			f.IntVar(&o.size, name, 0, "its new size in `GiB`")
		} else {
			f.IntVar(&o.size, name, 0, "its size in `GiB`; needed, unless it begins with an image or a snapshot: 0 is the size of that")
		}
	case "device":
		f.StringVar(&o.device, name, "", "the `name` that the guest is to have it by: vdb to vdz (virtio-blk), or sda to sdz (virtio-scsi); \"\": the first of vdb to vdz that is free")
	case "image":
		f.StringVar(&o.image, name, "", "the id or name of an `image` that it begins with; \"\": none")
	case "snapshot":
		f.StringVar(&o.snapshot, name, "", "the id or name of a `snapshot` that it begins with; \"\": none")
	case "reason":
		f.StringVar(&o.reason, name, "", "`why`, for people; at most 255 bytes")
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
		for _, one := range strings.Split(s, ",") {
			*l = append(*l, strings.TrimSpace(one))
		}
	}
	return nil
}

// parseCommand reads the command line of a command, whose flags may stand before and behind its arguments; what is wrong with it is said on w.
func parseCommand(c command, args []string, w io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("minicloud "+c.name, flag.ContinueOnError)
	f.SetOutput(w)
	for _, name := range c.flags {
		o.declare(f, c, name)
	}
	f.Usage = func() {
		fmt.Fprintf(w, "minicloud %s: %s.\n\n", strings.TrimSpace(c.name+" [flags] "+c.arguments), c.about)
		f.PrintDefaults()
	}
	for {
		if err := f.Parse(args); err != nil {
			return o, err
		}
		if f.NArg() == 0 {
			break
		}
		o.args, args = append(o.args, f.Arg(0)), f.Args()[1:]
	}
	if err := fromFile(f, o.config); err != nil {
		return o, err
	}
	f.Visit(func(x *flag.Flag) {
		if !slices.Contains([]string{"config", "dir", "v"}, x.Name) { // which say how to ask
			o.set = append(o.set, "-"+x.Name+"="+x.Value.String())
		}
	})
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
	words := strings.Fields(c.arguments)
	least := len(slices.DeleteFunc(slices.Clone(words), func(w string) bool { return strings.HasPrefix(w, "[") }))
	switch most := len(words); {
	case most == 0 && len(o.args) > 0:
		return fmt.Errorf("%s takes no argument, but has %q", c.name, o.args[0])
	case len(o.args) < least || len(o.args) > most && !strings.HasSuffix(c.arguments, "..."):
		return fmt.Errorf("%s takes %s, but has the arguments %q", c.name, c.arguments, o.args)
	}
	if takes("size") && (o.size < 0 || o.size == 0 && o.image == "" && o.snapshot == "") {
		if takes("image") {
			return fmt.Errorf("-size is %d, must be at least 1 GiB; with -image or -snapshot it may be left out", o.size)
		}
		return fmt.Errorf("-size is %d, must be the new size, at least 1 GiB", o.size)
	}
	if takes("wait") && o.wait <= 0 {
		return fmt.Errorf("-wait is %v, must be more than 0", o.wait)
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
