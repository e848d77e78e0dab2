package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dewpoint-cloud/dewpoint/internal/libvirtd"
	"github.com/dewpoint-cloud/dewpoint/internal/netns"
)

// host is what the cloud gets of this machine: a directory, a network namespace, and a libvirtd of its own in it.
type host struct {
	dir    string
	netns  string // its path; "": the machine's own network
	made   string // name of the namespace; "": none
	socket string // libvirtd's
	daemon *libvirtd.Daemon
}

// startTimeout bounds the start of libvirtd; the first one on a machine asks QEMU for all that it can, which takes long.
const startTimeout = 5 * time.Minute

// stopTimeout bounds the end of libvirtd and of the guests that are left.
const stopTimeout = time.Minute

// prepareHost makes what is missing of the host, and finds what an earlier minicloud left running.
func prepareHost(ctx context.Context, o options, logger *slog.Logger) (*host, error) {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	h := &host{dir: dir}
	if o.netns != "host" {
		h.made = o.netns
		if h.netns, err = namespace(ctx, o.netns); err != nil {
			return nil, fmt.Errorf("network namespace %s: %w", o.netns, err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	h.daemon, err = libvirtd.Start(ctx, libvirtd.Config{Dir: filepath.Join(dir, "libvirt"), NetNS: h.netns, Reaper: []string{self, "reap"},
		Logger: logger})
	if err != nil {
		return nil, err
	}
	h.socket = h.daemon.Socket()
	return h, nil
}

// namespace returns the path of a named network namespace, which is made if there is none.
func namespace(ctx context.Context, name string) (string, error) {
	path := filepath.Join("/run/netns", name)
	if filepath.Base(path) != name {
		return "", errors.New("its name is not a file name")
	}
	if ip(ctx, "netns", "exec", name, "true") == nil {
		return path, nil
	}
	_ = ip(ctx, "netns", "del", name) // a file of one that is gone, as after a start of the machine
	if err := ip(ctx, "netns", "add", name); err != nil {
		return "", err
	}
	return path, ip(ctx, "-n", name, "link", "set", "lo", "up")
}

// listen listens on an address of the namespace. A socket stays in the namespace of the thread that made it.
func (h *host) listen(ctx context.Context, address string) (listener net.Listener, err error) {
	err = netns.Do(h.netns, func() (err error) {
		listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		return err
	})
	return listener, err
}

// ip runs the program ip, whose words about what is wrong are the error.
func ip(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// remove takes down what the cloud left running: libvirtd with any guest that is left, and the namespace with all that is in
// it; with files, the directory too.
func (h *host) remove(ctx context.Context, files bool) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	err := errors.Join(h.daemon.KillGuests(ctx), h.daemon.Stop(ctx))
	if h.made != "" {
		err = errors.Join(err, ip(ctx, "netns", "del", h.made))
	}
	if err == nil && files {
		err = os.RemoveAll(h.dir)
	}
	return err
}
