package dewpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/network"
)

// node is what makes a process one that runs machines.
type node struct {
	hostID  string
	disks   compute.Disks
	network *network.Agent
	compute *compute.Agent
}

func (c *Cloud) newNode(s *Services, cache *image.Cache) (*node, error) {
	host, err := c.host()
	if err != nil {
		return nil, err
	}
	n := &node{hostID: host.ID, disks: c.cfg.Disks}
	servers := append([]network.Server(nil), c.cfg.Servers...)
	if c.cfg.Metadata != nil {
		s, err := c.cfg.Metadata(s)
		if err != nil {
			return nil, fmt.Errorf("dewpoint: Config.Metadata: %w", err)
		}
		servers = append(servers, s)
	}
	n.network, err = network.NewAgent(network.AgentConfig{Store: s.Store, HostID: host.ID, Manager: c.cfg.NetworkManager,
		DHCP: c.cfg.DHCP, Servers: servers, Repair: c.cfg.Repair, Logger: c.cfg.Logger})
	if err != nil {
		return nil, err
	}
	if n.disks == nil {
		n.disks, err = compute.NewImageDisks(compute.ImageDisksConfig{Store: s.Store, Cache: cache, ConsoleDir: c.path("consoles")})
		if err != nil {
			return nil, err
		}
	}
	n.compute, err = compute.NewAgent(compute.AgentConfig{Store: s.Store, Bus: c.cfg.MessageBus, Host: host,
		Hypervisor: c.cfg.Hypervisor, Network: n.network, Disks: n.disks, Addresses: &s.Networks.Addresses, Connector: c.cfg.Connector,
		StopGrace: c.cfg.StopGrace, Heartbeat: c.cfg.Heartbeat, Sync: c.cfg.Sync, Tick: c.cfg.Tick, Hooks: c.cfg.Hooks, Logger: c.cfg.Logger})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// newCache opens where the host has images, for the disks of its machines and for its volumes. It is nil where nobody needs it.
func (c *Cloud) newCache(blobs image.Blobs, images *image.Service) (*image.Cache, error) {
	if c.cfg.Dir == "" || !(c.cfg.VolumeDriver != nil || c.cfg.isNode() && c.cfg.Disks == nil) {
		return nil, nil
	}
	source := c.cfg.Images
	if source == nil {
		host, err := c.host()
		if err != nil {
			return nil, err
		}
		source = ownImages{image.BlobSource{Blobs: blobs}, images, host.ID}
	}
	return image.NewCache(image.CacheConfig{Dir: c.path("node"), Source: source, Logger: c.cfg.Logger})
}

// ownImages are those of a process that keeps them itself.
type ownImages struct {
	image.BlobSource
	service *image.Service
	hostID  string
}

// PutImage implements [image.Sink].
func (o ownImages) PutImage(ctx context.Context, img image.Image, content io.Reader) (image.Stored, error) {
	return o.service.Receive(ctx, o.hostID, img.ID, img.Upload, content)
}

func hostName() (string, error) {
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("dewpoint: this host's name: %w", err)
	}
	return name, nil
}

func (c *Cloud) path(name string) string { return filepath.Join(c.cfg.Dir, name) }

func (c *Cloud) makeDir() error {
	if c.cfg.Dir == "" {
		return nil
	}
	if err := os.Mkdir(c.cfg.Dir, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("dewpoint: Config.Dir: %w", err)
	}
	return nil
}

// HostID returns the id of the host that has the directory: what stands in dir/host-id, which is made, once, if it is missing. A
// Cloud whose Config.Host has no ID asks this for its Dir; a program that must know it earlier asks by itself.
func HostID(dir string) (string, error) {
	id, err := hostID(filepath.Join(dir, "host-id"))
	if err != nil {
		return "", fmt.Errorf("dewpoint: this host's id: %w", err)
	}
	return id, nil
}

func hostID(file string) (string, error) {
	for {
		text, err := os.ReadFile(file)
		if err == nil {
			id := strings.TrimSpace(string(text))
			if uuid.Validate(id) != nil || len(id) != 36 {
				return "", fmt.Errorf("%s has %.40q, which is not a UUID; put back what it had, or this host is another one: %w", file, id,
					errdefs.ErrDataLoss)
			}
			return id, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err := writeOnce(file, uuid.NewString()+"\n"); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
}

// writeOnce makes a file that is never seen half-written, and never changed once it is there.
func writeOnce(file, text string) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".new-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(text)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// sweepEvery is how often contents of images that no record names are looked for.
const sweepEvery = 10 * time.Minute

// sweep removes what deleted images and broken uploads left, now and every now and then.
func (c *Cloud) sweep(ctx context.Context, s *Services) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		if _, err := s.Images.SweepBlobs(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Logger.Warn("dewpoint: leftovers of images could not be removed", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
