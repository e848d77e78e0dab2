// Minicloud is a whole cloud on one Linux machine, in one small program: real virtual machines on a real network, with
// nothing but packages of Debian or Ubuntu. It is what `make minicloud` runs.
//
// It reads from the top: main.go is the command line, cloud.go puts a cloud together out of its parts, launch.go asks it
// for machines, show.go tells what becomes of them, and host_linux.go keeps all of it apart from the rest of the machine.
//
// With a command it asks that cloud for something: command.go lists them, ask.go and askvolumes.go are what a person asks, and take.go brings it there.
// Or it is one process of a cloud on several machines, which takes the same commands: controller.go and node.go are the two that stay, and link.go is
// what connects them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/dewpoint-cloud/dewpoint/internal/libvirtd"
)

// options are the command line.
type options struct {
	dir       string
	instances int
	cidr      netip.Prefix
	cidr6     netip.Prefix
	bridge    string
	uplink    string
	netns     string
	memory    int
	wait      time.Duration
	exit      bool
	keep      bool
	remove    bool
	audit     bool
	verbose   bool

	// Of commands.
	config   string
	listen   string
	etcd     list
	kine     bool
	bus      string
	join     string
	token    string
	name     string
	reason   string
	request  string
	volumes  string
	peer     string
	size     int
	image    string
	snapshot string
	device   string

	initiator  string
	bootVolume string
	bootSize   int

	args []string
	set  []string // the flags that were given, as words, but for those that say how to ask
}

const (
	defaultDir  = "/var/lib/minicloud"
	projectName = "minicloud"
)

var (
	defaultCIDR  = netip.MustParsePrefix("10.99.0.0/24")
	defaultCIDR6 = netip.MustParsePrefix("fd99::/64")
)

func main() {
	// The daemons run under this program, which buries what they leave behind: see internal/libvirtd.
	if len(os.Args) > 2 && os.Args[1] == "reap" {
		if err := libvirtd.Reap(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do, err := understand(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "minicloud:", err)
		os.Exit(2)
	}
	if err := do(ctx, os.Stdout); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "minicloud:", err)
		stop()
		os.Exit(1)
	}
}

// understand returns what the command line asks for; what is wrong with it, and help, is said on w.
func understand(args []string, w io.Writer) (func(context.Context, io.Writer) error, error) {
	if len(args) > 0 && args[0] == "help" {
		args = append(slices.Clone(args[1:]), "-help")
	}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		c, o, err := parseWords(args, w)
		return func(ctx context.Context, out io.Writer) error {
			if c.ask != nil {
				return askCloud(ctx, c, o, out)
			}
			return c.run(ctx, o, out)
		}, err
	}
	o, err := parse(args, w)
	return func(ctx context.Context, out io.Writer) error { return run(ctx, o, out) }, err
}

// parse reads the command line; what is wrong with it is said on w.
func parse(args []string, w io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("minicloud", flag.ContinueOnError)
	f.SetOutput(w)
	f.StringVar(&o.dir, "dir", defaultDir, "the `directory` where it keeps everything: records, images, disks, libvirt's files; at most 72 bytes")
	f.IntVar(&o.instances, "instances", 2, "how `many` machines called mini-1, mini-2, … there shall be, 0 to 200; more of these are terminated, and others are left alone")
	f.TextVar(&o.cidr, "cidr", defaultCIDR, "the machines' `subnet`")
	f.TextVar(&o.cidr6, "cidr6", defaultCIDR6, "the machines' IPv6 `subnet`, a /64; \"\": none")
	f.StringVar(&o.bridge, "bridge", "br100", "the `bridge` that they are on")
	f.StringVar(&o.uplink, "uplink", "", "a network `card` that joins the bridge, with its addresses and routes; needs -netns host")
	f.StringVar(&o.netns, "netns", "minicloud", "the network `namespace` that the cloud lives in, as in \"ip netns\"; \"host\": the host's own network")
	f.IntVar(&o.memory, "memory", 128, "memory of a machine in `MiB`, 96 to 4096")
	f.DurationVar(&o.wait, "wait", 90*time.Second, "how `long` to wait for the machines to come up and reach each other, and for what was left half-done to be finished")
	f.BoolVar(&o.exit, "exit", false, "exit when the machines have reached each other, and take everything down again")
	f.BoolVar(&o.keep, "keep", false, "with -exit: exit, but let the machines run on")
	f.BoolVar(&o.remove, "remove", false, "take down what an earlier minicloud left running, and remove its files")
	f.BoolVar(&o.audit, "audit", false, "finish what an earlier minicloud left half-done, compare the records with the host, show its network, and exit")
	f.BoolVar(&o.verbose, "v", false, "show the log")
	f.Usage = func() {
		fmt.Fprint(w, "minicloud: a cloud on this machine, with real virtual machines in it. It needs root.\n\n")
		f.PrintDefaults()
		fmt.Fprint(w, "\nWhile it runs, minicloud COMMAND, with the same -dir, asks it for something; minicloud COMMAND -help says more:\n\n")
		summary(w, func(c command) bool { return c.ask != nil })
		fmt.Fprint(w, "\nThe same commands ask a cloud on several machines, on its controller or any of its nodes, which are commands too:\n\n")
		summary(w, func(c command) bool { return c.run != nil })
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("takes no argument, but has %q; a command comes first, before flags", f.Arg(0))
	case o.instances < 0 || o.instances > 200:
		return o, fmt.Errorf("-instances is %d, must be 0 to 200", o.instances)
	case o.memory < 96 || o.memory > 4096:
		return o, fmt.Errorf("-memory is %d MiB, must be 96 to 4096", o.memory)
	case len(o.dir) == 0 || len(o.dir) > 72:
		return o, fmt.Errorf("-dir has %d bytes, must have 1 to 72: a socket's path has an end", len(o.dir))
	case o.netns == "":
		return o, errors.New(`-netns is empty; the host's own network is "host"`)
	case o.uplink != "" && o.netns != "host":
		return o, fmt.Errorf("-uplink %s needs -netns host: the card is not in the namespace %s", o.uplink, o.netns)
	case o.keep && !o.exit:
		return o, errors.New("-keep goes with -exit")
	case o.audit && (o.exit || o.remove):
		return o, errors.New("-audit goes with neither -exit nor -remove")
	}
	return o, nil
}

func run(ctx context.Context, o options, w io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: bridges, taps and libvirt are made")
	}
	logger := slog.New(slog.DiscardHandler)
	if o.verbose {
		logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if err := alien(credentialsFile(o), "a controller or a node"); err != nil && !o.remove {
		return err
	}
	h, err := prepareHost(ctx, o, logger)
	if err != nil {
		return err
	}
	if o.remove {
		o.instances = 0
	}
	err = serve(ctx, o, h, logger, &screen{w: w, start: time.Now()})
	if err == nil && (o.remove || o.exit && !o.keep) {
		return h.remove(context.WithoutCancel(ctx), o.remove)
	}
	return err
}
