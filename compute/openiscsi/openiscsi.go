package openiscsi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// Config is how a [Connector] behaves.
type Config struct {
	// Patience is how long reads and writes of a machine wait for a target that is away before they fail, at least a second. Zero: 120
	// seconds.
	Patience time.Duration
	// Timeout is how long a session may take to have its device, and how long one that has lost its target to find it again, when Connect is called.
	// Zero: 30 seconds.
	Timeout time.Duration
	// Database is where open-iscsi keeps its records, in the directories ifaces and nodes. Empty: the one of /etc/iscsi and
	// /var/lib/iscsi that has them.
	Database string
}

// Connector is a compute.Connector over the kernel's initiator. It keeps nothing: several may be used on one host, if no two are
// called for one volume at once.
type Connector struct {
	cfg Config
	run tool
	sys string
}

var _ compute.Connector = (*Connector)(nil)

// New checks the configuration. It starts nothing, and does not ask whether iscsid runs.
func New(cfg Config) (*Connector, error) {
	if cfg.Patience == 0 {
		cfg.Patience = 120 * time.Second
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Patience < time.Second {
		return nil, fmt.Errorf("openiscsi: Config.Patience is %v, must be at least a second: %w", cfg.Patience, errdefs.ErrInvalidArgument)
	}
	if cfg.Timeout < 0 {
		return nil, fmt.Errorf("openiscsi: Config.Timeout is %v: %w", cfg.Timeout, errdefs.ErrInvalidArgument)
	}
	return &Connector{cfg: cfg, run: runTool, sys: "/sys"}, nil
}

var (
	validVolume = regexp.MustCompile(`^[0-9A-Za-z]{1,32}$`)
	validIQN    = regexp.MustCompile(`^(iqn|eui|naa)\.[^\s/\x00-\x1f]{1,219}$`)
	validWord   = regexp.MustCompile(`^[!-~]{1,255}$`)
)

// check refuses what can't be handed to iscsiadm, whose records are lines of words.
func check(c compute.Connection) error {
	bad := func(field, value string) error {
		return fmt.Errorf("openiscsi: %s of volume %.40q is %.80q: %w", field, c.VolumeID, value, errdefs.ErrInvalidArgument)
	}
	host, port, err := net.SplitHostPort(c.Target.Portal)
	n, portErr := strconv.ParseUint(port, 10, 16)
	switch {
	case !validVolume.MatchString(compact(c.VolumeID)):
		return bad("VolumeID", c.VolumeID)
	case err != nil || portErr != nil || n == 0 || !validWord.MatchString(host) || strings.HasPrefix(host, "-"):
		return bad("Target.Portal", c.Target.Portal)
	case !validIQN.MatchString(c.Target.IQN):
		return bad("Target.IQN", c.Target.IQN)
	case !validIQN.MatchString(c.Initiator):
		return bad("Initiator", c.Initiator)
	case c.User != "" && !validWord.MatchString(c.User):
		return bad("User", c.User)
	case (c.User == "") != (c.Secret == "") || c.Secret != "" && !validWord.MatchString(c.Secret):
		return fmt.Errorf("openiscsi: Secret of volume %s is missing, is without a User, or is not of printable characters: %w", c.VolumeID, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Connect implements compute.Connector. A wrong secret is PermissionDenied; a target that does not answer, and an iscsid that does not, are
// Unavailable; a name that the target does not know is FailedPrecondition, and so are a host that can't and an epoch that is older than one that
// is connected here. When it returns an error nothing is connected: to end a login that is under way can take 15 seconds after ctx has
// ended. What could not be ended even so is in the error, and Disconnect's to end.
func (c *Connector) Connect(ctx context.Context, conn compute.Connection) (compute.Disk, error) {
	if err := check(conn); err != nil {
		return compute.Disk{}, err
	}
	all, err := c.sessions(conn.VolumeID)
	if err != nil {
		return compute.Disk{}, err
	}
	there := false
	for _, s := range all {
		switch {
		case s.epoch > conn.Epoch:
			return compute.Disk{}, fmt.Errorf("openiscsi: volume %s is connected here with epoch %d, newer than %d: %w", conn.VolumeID, s.epoch, conn.Epoch,
				errdefs.ErrFailedPrecondition)
		case s.epoch == conn.Epoch && s.target == conn.Target.IQN && s.portal == conn.Target.Portal:
			there = true
		default:
			if err := c.logout(ctx, s); err != nil {
				return compute.Disk{}, err
			}
		}
	}
	if !there {
		err = c.forget(ctx, conn.VolumeID, conn.Epoch)
		if err == nil {
			err = c.login(ctx, conn)
		}
	}
	var path string
	if err == nil {
		path, err = c.device(ctx, conn)
	}
	if err != nil {
		if !there {
			rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoDelay)
			defer cancel()
			err = errors.Join(err, c.Disconnect(rest, conn))
		}
		return compute.Disk{}, err
	}
	return compute.Disk{Format: "raw", Serial: compute.VolumeSerial(conn.VolumeID), Device: conn.Device, Path: path}, nil
}

// Disconnect implements compute.Connector. What the host has not written yet is written, if the target is there.
func (c *Connector) Disconnect(ctx context.Context, conn compute.Connection) error {
	if err := check(conn); err != nil {
		return err
	}
	all, err := c.sessions(conn.VolumeID)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.epoch <= conn.Epoch {
			if err := c.logout(ctx, s); err != nil {
				return err
			}
		}
	}
	return c.forget(ctx, conn.VolumeID, conn.Epoch)
}

// growAgain is after how long the kernel is asked again to look at a size.
const growAgain = 100 * time.Millisecond

// Grow implements compute.Connector. A device that does not become so large within Config.Timeout is Unavailable.
func (c *Connector) Grow(ctx context.Context, conn compute.Connection, bytes int64) error {
	if err := check(conn); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	for {
		size, connected, err := c.rescan(conn)
		if err != nil || !connected || size >= bytes {
			return err
		}
		select {
		case <-limited.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("openiscsi: volume %s has %d bytes here, not %d: %w", conn.VolumeID, size, bytes, errdefs.ErrUnavailable)
		case <-time.After(growAgain):
		}
	}
}

// rescan has the kernel look at the size of a volume's device, and returns it in bytes.
func (c *Connector) rescan(conn compute.Connection) (bytes int64, connected bool, err error) {
	all, err := c.sessions(conn.VolumeID)
	if err != nil {
		return 0, false, err
	}
	for _, s := range all {
		if s.epoch != conn.Epoch {
			continue
		}
		block, err := s.block(conn.Target.LUN)
		if err != nil || block == "" {
			return 0, true, err
		}
		if err := os.WriteFile(filepath.Join(block, "device", "rescan"), []byte("1"), 0); err != nil {
			return 0, true, unavailable("asking for the size of volume "+conn.VolumeID, err)
		}
		sectors, err := strconv.ParseInt(read(block, "size"), 10, 64) // of 512 bytes, whatever a block is
		if err != nil {
			return 0, true, unavailable("reading the size of volume "+conn.VolumeID, err)
		}
		return sectors * 512, true, nil
	}
	return 0, false, nil
}

func unavailable(what string, err error) error {
	return fmt.Errorf("openiscsi: %s: %w: %w", what, err, errdefs.ErrUnavailable)
}
