package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint"
	"github.com/dewpoint-cloud/dewpoint/api/cluster"
	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
	"github.com/dewpoint-cloud/dewpoint/state"
)

// askCloud asks the cloud that o.dir is of: a minicloud that is one by itself takes the command; with the credentials of a controller or a node,
// this process is one of the cloud for as long as it takes to ask it something, as the services are a library.
func askCloud(ctx context.Context, c command, o options, w io.Writer) (err error) {
	if err := send(ctx, c, o, w); !errors.Is(err, errNobody) {
		return err
	}
	cred, err := cluster.Load(credentialsFile(o))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no minicloud runs in %s, and no controller or node has begun there: start one, or say with -dir where there is one", o.dir)
	}
	if err != nil {
		return err
	}
	own, err := cluster.NewNode(cluster.NodeConfig{Credentials: cred})
	if err != nil {
		return err
	}
	cfg, closeLinks, err := connect(ctx, own, o.logger(os.Stderr))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLinks()) }()
	if cfg.Dir, err = os.MkdirTemp("", "minicloud-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(cfg.Dir)) }()
	cloud, err := dewpoint.New(cfg)
	if err != nil {
		return err
	}
	return during(ctx, cloud, func(ctx context.Context, s *dewpoint.Services) error { return c.answer(ctx, o, s, w) })
}

// answer does what the command asks of a cloud, for as long as -wait says.
func (c command) answer(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	ctx = auth.NewContext(ctx, auth.Admin(projectName))
	if o.wait > 0 {
		limited, cancel := context.WithTimeout(ctx, o.wait)
		defer cancel()
		ctx = limited
	}
	err := c.ask(ctx, o, s, w)
	if errors.Is(err, context.DeadlineExceeded) && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("after %v (-wait) it is still under way, and goes on: %w", o.wait, err)
	}
	return err
}

// runLaunch launches machines of the image, flavor and network that the controller, or the minicloud of one machine, has made.
func runLaunch(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	req, err := furnished(ctx, s)
	if err != nil {
		return err
	}
	req.Name, req.MinCount, req.MaxCount, req.Token = o.name, o.instances, o.instances, o.request
	if err := bootFrom(ctx, o, s, &req); err != nil {
		return err
	}
	made, err := s.Compute.Run(ctx, req)
	if err != nil {
		return err
	}
	for _, i := range made {
		fmt.Fprintf(w, "%s\t%s\taccepted\n", i.ID, i.Name)
	}
	for _, i := range made {
		now, err := s.Compute.WaitActive(ctx, i.ID)
		if err != nil {
			return fmt.Errorf("%s (%s): %w", i.Name, i.ID, err)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", i.ID, i.Name, now.Status())
	}
	return nil
}

// bootFrom has a machine boot from a volume, if that was asked for.
func bootFrom(ctx context.Context, o options, s *dewpoint.Services, req *compute.RunRequest) error {
	switch {
	case o.bootVolume != "":
		v, err := findVolume(ctx, s, o.bootVolume)
		if err != nil {
			return err
		}
		req.Image, req.BootVolume = "", &compute.BootVolume{Volume: v.ID}
	case o.bootSize > 0:
		req.Image, req.BootVolume = "", &compute.BootVolume{Image: req.Image, SizeGiB: o.bootSize, DeleteOnTermination: true}
	}
	return nil
}

// furnished finds what the controller has made.
func furnished(ctx context.Context, s *dewpoint.Services) (compute.RunRequest, error) {
	images, err := s.Images.List(ctx, image.Query{Name: flavorName, Status: image.Active})
	if err != nil {
		return compute.RunRequest{}, err
	}
	if len(images) == 0 {
		return compute.RunRequest{}, errors.New("the cloud has no image of a machine yet; it comes with its controller, or minicloud, soon after the start")
	}
	flavors, err := s.Compute.ListFlavors(ctx)
	if err != nil {
		return compute.RunRequest{}, err
	}
	at := slices.IndexFunc(flavors, func(f compute.Flavor) bool {
		return len(f.Name) > len(flavorName) && f.Name[:len(flavorName)+1] == flavorName+"."
	})
	if at < 0 {
		return compute.RunRequest{}, errors.New("the cloud has no flavor of a machine yet; it comes with its controller, or minicloud, soon after the start")
	}
	return compute.RunRequest{Image: images[0].ID, Flavor: flavors[at].Name, Networks: []string{networkName}}, nil
}

func runList(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	all, err := s.Compute.List(ctx, compute.ListOptions{})
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b compute.Instance) int { return a.Created.Compare(b.Created) })
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tNAME\tSTATUS\tHOST\tADDRESS\tFAULT")
	for _, i := range all {
		address := ""
		_ = s.Store.View(func(v *state.View) error {
			for p := range network.Ports.By(v, "instance", i.ID) {
				address = p.Addrs[0].String()
			}
			return nil
		})
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", i.ID, i.Name, i.Status(), hostName(ctx, s, i.HostID), address, i.Fault)
	}
	return t.Flush()
}

// hostName is what people call a host.
func hostName(ctx context.Context, s *dewpoint.Services, id string) string {
	if h, err := s.Hosts.Get(ctx, id); err == nil {
		return h.Name
	}
	return id
}

func runTerminate(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	all, err := s.Compute.List(ctx, compute.ListOptions{})
	if err != nil {
		return err
	}
	for _, name := range o.args {
		if !slices.ContainsFunc(all, func(i compute.Instance) bool { return i.ID == name || i.Name == name }) {
			return fmt.Errorf("machine %q: %w", name, errdefs.ErrNotFound)
		}
	}
	if len(o.args) > 0 {
		all = slices.DeleteFunc(all, func(i compute.Instance) bool {
			return !slices.Contains(o.args, i.ID) && !slices.Contains(o.args, i.Name)
		})
	}
	for _, i := range all {
		if err := s.Compute.Terminate(ctx, i.ID); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	for _, i := range all {
		if err := s.Compute.WaitGone(ctx, i.ID); err != nil {
			return fmt.Errorf("%s (%s): %w", i.Name, i.ID, err)
		}
		fmt.Fprintf(w, "%s\t%s\tgone\n", i.ID, i.Name)
	}
	return nil
}

func runMigrate(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	i, err := findMachine(ctx, s, o.args[0])
	if err != nil {
		return err
	}
	host := ""
	if len(o.args) > 1 {
		host = o.args[1]
	}
	to, err := s.Compute.LiveMigrate(ctx, i.ID, host)
	if err != nil {
		return err
	}
	if i, err = s.Compute.WaitActive(ctx, i.ID); err != nil {
		return err
	}
	if i.HostID != to {
		return fmt.Errorf("%s (%s) stays where it is: %s", i.Name, i.ID, i.Fault)
	}
	_, err = fmt.Fprintf(w, "%s\t%s\tis on %s\n", i.ID, i.Name, hostName(ctx, s, to))
	return err
}

func runHosts(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	all, err := s.Hosts.List(ctx)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tNAME\tSTATE\tSEEN\tVCPUS\tMEMORY\tREASON")
	for _, h := range all {
		words := "down"
		if h.Up() {
			words = "up"
		}
		if h.Disabled {
			words += ", disabled"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s ago\t%d/%d\t%d/%d MiB\t%s\n", h.ID, h.Name, words, h.Silent.Round(time.Second), h.Used.VCPUs,
			h.Total.VCPUs, h.Used.MemoryMiB, h.Total.MemoryMiB, h.Reason)
	}
	return t.Flush()
}

func runDisable(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	h, err := s.Hosts.Disable(ctx, o.args[0], o.reason)
	if err == nil {
		_, err = fmt.Fprintf(w, "%s gets no new machines; those that it has stay\n", h.Name)
	}
	return err
}

func runEnable(ctx context.Context, o options, s *dewpoint.Services, w io.Writer) error {
	h, err := s.Hosts.Enable(ctx, o.args[0])
	if err == nil {
		_, err = fmt.Fprintf(w, "%s gets new machines\n", h.Name)
	}
	return err
}
