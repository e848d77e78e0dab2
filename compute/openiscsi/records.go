package openiscsi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

// tool runs iscsiadm and returns what it said.
type tool func(ctx context.Context, args ...string) (says []byte, err error)

const (
	// stopDelay is how long iscsiadm may take to end when it was asked to.
	stopDelay = 5 * time.Second
	// loginTimeout is how long a login may take, in seconds. iscsid does not give one up before.
	loginTimeout = 10
	// undoDelay is how long is tried to end what a call has left.
	undoDelay = (loginTimeout + 5) * time.Second
)

func runTool(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "iscsiadm", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopDelay
	return cmd.CombinedOutput()
}

// What iscsiadm's exit codes say, iscsiadm(8), "EXIT STATUS".
var (
	nothingThere = []int{2, 21} // no session, no record
	alreadyThere = []int{15}
	classes      = map[int]error{
		4: errdefs.ErrUnavailable, 8: errdefs.ErrUnavailable, 11: errdefs.ErrUnavailable, // the target does not answer
		10: errdefs.ErrUnavailable, 18: errdefs.ErrUnavailable, 20: errdefs.ErrUnavailable, 28: errdefs.ErrUnavailable, 29: errdefs.ErrUnavailable,
		12: errdefs.ErrFailedPrecondition, 14: errdefs.ErrFailedPrecondition, 27: errdefs.ErrFailedPrecondition, // no module
		13: errdefs.ErrPermissionDenied, 24: errdefs.ErrPermissionDenied, // who asks; who logs in
		5: errdefs.ErrFailedPrecondition, 19: errdefs.ErrFailedPrecondition, // the target refuses, for other reasons
	}
)

// admin runs iscsiadm; the exit codes of fine are success, too.
func (c *Connector) admin(ctx context.Context, fine []int, args ...string) error {
	says, err := c.run(ctx, args...)
	if err == nil {
		return nil
	}
	if ctxErr := ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	var exit interface{ ExitCode() int }
	if !errors.As(err, &exit) {
		return fmt.Errorf("openiscsi: iscsiadm: %w; install open-iscsi: %w", err, errdefs.ErrFailedPrecondition)
	}
	if slices.Contains(fine, exit.ExitCode()) {
		return nil
	}
	class, known := classes[exit.ExitCode()]
	if !known {
		class = errdefs.ErrInternal
	}
	text := strings.Join(strings.Fields(string(says)), " ")
	return fmt.Errorf("openiscsi: %.500s (%w): %w", strings.TrimPrefix(text, "iscsiadm: "), err, class)
}

// database is where open-iscsi keeps its records.
func (c *Connector) database() string {
	if c.cfg.Database != "" {
		return c.cfg.Database
	}
	for _, dir := range []string{"/etc/iscsi", "/var/lib/iscsi"} {
		if _, err := os.Stat(filepath.Join(dir, "ifaces")); err == nil {
			return dir
		}
	}
	return "/etc/iscsi"
}

// login writes an attachment's records and logs in.
func (c *Connector) login(ctx context.Context, conn compute.Connection) error {
	name := record(conn.VolumeID, conn.Epoch)
	node := []string{"-m", "node", "-T", conn.Target.IQN, "-p", conn.Target.Portal, "-I", name}
	for _, args := range [][]string{
		{"-m", "iface", "-I", name, "--op", "new"},
		{"-m", "iface", "-I", name, "--op", "update", "-n", "iface.transport_name", "-v", "tcp"},
		{"-m", "iface", "-I", name, "--op", "update", "-n", "iface.initiatorname", "-v", conn.Initiator},
		append(slices.Clone(node), "--op", "new"),
	} {
		if err := c.admin(ctx, nil, args...); err != nil {
			return err
		}
	}
	if err := c.complete(conn, name); err != nil {
		return err
	}
	return c.admin(ctx, alreadyThere, append(node, "--login")...)
}

// complete adds to a node record what it has of ours, the secret among it, which a command line would show to everybody.
func (c *Connector) complete(conn compute.Connection, name string) error {
	host, port, err := net.SplitHostPort(conn.Target.Portal)
	if err != nil {
		return err
	}
	// A file, or a directory for each group of portals with a file for each interface.
	at := filepath.Join(c.database(), "nodes", conn.Target.IQN, host+","+port)
	var files []string
	for _, pattern := range []string{at, at + ",*/" + name, at + "/" + name} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, f := range found {
			if info, err := os.Stat(f); err == nil && info.Mode().IsRegular() {
				files = append(files, f)
			}
		}
	}
	if len(files) != 1 {
		return fmt.Errorf("openiscsi: there are %d records of %s at %s below %s, not one: see Config.Database: %w", len(files), conn.Target.IQN,
			conn.Target.Portal, c.database(), errdefs.ErrFailedPrecondition)
	}
	ours := [][2]string{
		{"node.startup", "manual"}, {"node.conn[0].startup", "manual"}, // what may log in is not for the host's start to say
		{"node.session.nr_sessions", "1"},
		{"node.session.initial_login_retry_max", "1"}, {"node.conn[0].timeo.login_timeout", fmt.Sprint(loginTimeout)},
		{"node.session.timeo.replacement_timeout", fmt.Sprint(int(c.cfg.Patience.Seconds()))},
	}
	if conn.User != "" {
		ours = append(ours, [][2]string{{"node.session.auth.authmethod", "CHAP"}, {"node.session.auth.username", conn.User},
			{"node.session.auth.password", conn.Secret}}...)
	}
	old, err := os.ReadFile(files[0])
	if err != nil {
		return unavailable("reading a record", err)
	}
	var b bytes.Buffer
	for line := range strings.Lines(string(old)) {
		key, _, _ := strings.Cut(line, " =")
		if strings.HasPrefix(line, "# END") {
			for _, o := range ours {
				b.WriteString(o[0] + " = " + o[1] + "\n")
			}
		}
		if !slices.ContainsFunc(ours, func(o [2]string) bool { return o[0] == key }) {
			b.WriteString(line)
		}
	}
	if err := errors.Join(os.Chmod(files[0], 0o600), os.WriteFile(files[0], b.Bytes(), 0o600)); err != nil {
		return unavailable("writing a record", err)
	}
	return nil
}

// logout ends a session and waits until the host has nothing of it; one that is gone is success. iscsid refuses where a session is just logging in,
// or looking for its target again; that is waited for, but not for ever.
func (c *Connector) logout(ctx context.Context, s session) error {
	limited, cancel := context.WithTimeout(ctx, undoDelay)
	defer cancel()
	for {
		err := c.admin(ctx, nothingThere, "-m", "session", "-r", s.id, "--logout")
		if _, gone := os.Stat(s.dir); gone != nil {
			return nil
		}
		if err != nil && !errdefs.IsInternal(err) && !errdefs.IsUnavailable(err) {
			return err
		}
		select {
		case <-time.After(10 * look):
		case <-limited.Done():
			if err == nil {
				err = fmt.Errorf("openiscsi: the host does not end session %s of %s: %w", s.id, s.target, errdefs.ErrUnavailable)
			}
			return errors.Join(ctx.Err(), err)
		}
	}
}

// forget removes the records of a volume up to an epoch.
func (c *Connector) forget(ctx context.Context, volumeID string, epoch uint64) error {
	entries, err := os.ReadDir(filepath.Join(c.database(), "ifaces"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return unavailable("reading open-iscsi's records", err)
	}
	for _, e := range entries {
		if n, ours := epochOf(e.Name(), volumeID); !ours || n > epoch {
			continue
		}
		if err := c.admin(ctx, nothingThere, "-m", "node", "-I", e.Name(), "--op", "delete"); err != nil {
			return err
		}
		if err := c.admin(ctx, nothingThere, "-m", "iface", "-I", e.Name(), "--op", "delete"); err != nil {
			return err
		}
	}
	return nil
}
