package openiscsi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// marks begins the names of our interface records.
const marks = "dewpoint-"

func compact(volumeID string) string { return strings.ReplaceAll(volumeID, "-", "") }

// record is the name of an attachment's interface record, at most 62 bytes: open-iscsi takes 64.
func record(volumeID string, epoch uint64) string {
	return marks + compact(volumeID) + "-" + strconv.FormatUint(epoch, 10)
}

// epochOf returns the epoch in a record's name, and whether it is one of the volume.
func epochOf(name, volumeID string) (uint64, bool) {
	text, ok := strings.CutPrefix(name, marks+compact(volumeID)+"-")
	if !ok {
		return 0, false
	}
	epoch, err := strconv.ParseUint(text, 10, 64)
	return epoch, err == nil
}

// session is one of the kernel's for a volume.
type session struct {
	dir    string // in /sys
	id     string // its number
	epoch  uint64
	target string
	portal string
}

// read returns a file of /sys, "" for one that is gone.
func read(path ...string) string {
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// sessions returns those that the host has for a volume.
func (c *Connector) sessions(volumeID string) (all []session, err error) {
	class := filepath.Join(c.sys, "class", "iscsi_session")
	entries, err := os.ReadDir(class)
	if errors.Is(err, fs.ErrNotExist) { // the module is not loaded
		return nil, nil
	}
	if err != nil {
		return nil, unavailable("reading the host's sessions", err)
	}
	for _, e := range entries {
		s := session{dir: filepath.Join(class, e.Name()), id: strings.TrimPrefix(e.Name(), "session")}
		ours := false
		if s.epoch, ours = epochOf(read(s.dir, "ifacename"), volumeID); !ours {
			continue
		}
		connection := filepath.Join(c.sys, "class", "iscsi_connection", "connection"+s.id+":0")
		s.target = read(s.dir, "targetname")
		s.portal = net.JoinHostPort(read(connection, "persistent_address"), read(connection, "persistent_port"))
		all = append(all, s)
	}
	return all, nil
}

// block returns the directory in /sys of the session's block device, "" for none.
func (s session) block(lun uint16) (string, error) {
	n := int(lun)
	if n > 255 { // addressed flatly, SAM-5 section 4.7.7.3; the kernel leaves the method in the number
		n |= 1 << 14
	}
	found, err := filepath.Glob(fmt.Sprintf("%s/device/target*/*:*:*:%d/block/*", s.dir, n))
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0], nil
}

// look is how often is looked whether the kernel has what it is to have.
const look = 20 * time.Millisecond

// opens tells whether a device can be opened. One that is in /sys and in /dev is not yet ready for that, for a moment.
func opens(path string) error {
	info, err := os.Stat(path)
	if err == nil && info.Mode()&fs.ModeDevice == 0 {
		err = errors.New(path + " is no device")
	}
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

// device waits until the session is logged in and has its device, and returns the device's path.
func (c *Connector) device(ctx context.Context, conn compute.Connection) (string, error) {
	limited, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		all, err := c.sessions(conn.VolumeID)
		if err != nil {
			return "", err
		}
		state := "gone"
		for _, s := range all {
			if s.epoch != conn.Epoch {
				continue
			}
			state = read(s.dir, "state")
			block, err := s.block(conn.Target.LUN)
			if err != nil {
				return "", err
			}
			if state != "LOGGED_IN" || block == "" {
				break
			}
			path := "/dev/" + strings.ReplaceAll(filepath.Base(block), "!", "/")
			if holders, _ := os.ReadDir(filepath.Join(block, "holders")); len(holders) > 0 {
				return "", fmt.Errorf("openiscsi: %s, which is volume %s, is in use by the host's %s: tell multipathd and LVM to leave it alone: %w", path, conn.VolumeID,
					holders[0].Name(), errdefs.ErrFailedPrecondition)
			}
			if err = opens(path); err == nil {
				return path, nil
			}
			state = "LOGGED_IN, and it can't be opened: " + err.Error()
		}
		select {
		case <-tick.C:
		case <-limited.Done():
			if err := ctx.Err(); err != nil {
				return "", err
			}
			return "", fmt.Errorf("openiscsi: volume %s has no disk %d within %v, its session is %s: %w", conn.VolumeID, conn.Target.LUN, c.cfg.Timeout, state,
				errdefs.ErrUnavailable)
		}
	}
}
