package openiscsi

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/compute"
	"github.com/dewpoint-cloud/dewpoint/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func good() compute.Connection {
	return compute.Connection{VolumeID: "9f8b4f9e-0000-4000-8000-000000000001", Epoch: 7, Device: "vdb", Initiator: "iqn.2026-01.cloud.dewpoint:host-1",
		Target: volume.Target{Portal: "127.0.0.1:3260", IQN: "iqn.2026-01.cloud.dewpoint:volume-1"}, User: "attachment-7", Secret: "a secret, of 7"}
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []Config{{Patience: time.Millisecond}, {Timeout: -1}} {
		_, err := New(cfg)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	}
}

// TestConnectionsAreChecked: what a record or a command line would take for something else goes nowhere.
func TestConnectionsAreChecked(t *testing.T) {
	c, err := New(Config{})
	require.NoError(t, err)
	c.run = func(context.Context, ...string) ([]byte, error) { t.Error("it was run"); return nil, nil }
	for field, spoil := range map[string]func(c *compute.Connection){
		"VolumeID":         func(c *compute.Connection) { c.VolumeID = "../x" },
		"Target.Portal":    func(c *compute.Connection) { c.Target.Portal = "127.0.0.1" },
		"Target.Portal is": func(c *compute.Connection) { c.Target.Portal = "-x:1" },
		"Target.IQN":       func(c *compute.Connection) { c.Target.IQN = "iqn.x/../../y" },
		"Initiator":        func(c *compute.Connection) { c.Initiator = "iqn.x\nnode.startup = automatic" },
		"User":             func(c *compute.Connection) { c.User = "a b" },
		"Secret":           func(c *compute.Connection) { c.Secret = "x\ny" },
		"Secret of":        func(c *compute.Connection) { c.Secret = "" },
	} {
		conn := good()
		conn.Secret = "a-secret-of-7"
		spoil(&conn)
		_, err := c.Connect(t.Context(), conn)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, field)
		require.ErrorContains(t, err, strings.Fields(field)[0])
		require.NotContains(t, err.Error(), "a-secret")
		require.ErrorIs(t, c.Disconnect(t.Context(), conn), errdefs.ErrInvalidArgument)
		require.ErrorIs(t, c.Grow(t.Context(), conn, 1), errdefs.ErrInvalidArgument)
	}
}

type exitCode int

func (e exitCode) Error() string { return "exit status" }
func (e exitCode) ExitCode() int { return int(e) }

// pretended is a Connector over a directory in the place of /sys and of open-iscsi's, and an iscsiadm that fails at one command.
func pretended(t *testing.T, fails string, with error) (*Connector, *[]string) {
	dir := t.TempDir()
	var ran []string
	c, err := New(Config{Database: dir, Timeout: 100 * time.Millisecond})
	require.NoError(t, err)
	c.sys = filepath.Join(dir, "sys")
	c.run = func(_ context.Context, args ...string) ([]byte, error) {
		if args[1] == "session" {
			require.NoError(t, os.RemoveAll(filepath.Join(c.sys, "class", "iscsi_session", "session"+args[3])))
		}
		line := strings.Join(args, " ")
		ran = append(ran, line)
		if fails != "" && strings.Contains(line, fails) {
			return []byte("iscsiadm: it\nfailed"), with
		}
		if strings.HasPrefix(line, "-m node") && strings.HasSuffix(line, "--op new") {
			file := filepath.Join(dir, "nodes", args[3], strings.Replace(args[5], ":", ",", 1))
			require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
			return nil, os.WriteFile(file, []byte("# BEGIN\nnode.startup = automatic\nnode.tpgt = 1\n# END\n"), 0o600)
		}
		return nil, nil
	}
	return c, &ran
}

func secretOf(c compute.Connection) compute.Connection { c.Secret = "a-secret-of-7"; return c }

func TestFailuresHaveClasses(t *testing.T) {
	for code, class := range map[int]error{4: errdefs.ErrUnavailable, 8: errdefs.ErrUnavailable, 20: errdefs.ErrUnavailable,
		12: errdefs.ErrFailedPrecondition, 24: errdefs.ErrPermissionDenied, 19: errdefs.ErrFailedPrecondition, 7: errdefs.ErrInternal} {
		c, _ := pretended(t, "--login", exitCode(code))
		_, err := c.Connect(t.Context(), secretOf(good()))
		require.ErrorIs(t, err, class, code)
		require.ErrorContains(t, err, "it failed")
	}
	c, _ := pretended(t, "--op", errors.New("executable file not found"))
	_, err := c.Connect(t.Context(), secretOf(good()))
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, "install open-iscsi")
	c, _ = pretended(t, "", nil)
	_, err = c.Connect(t.Context(), secretOf(good()))
	require.ErrorIs(t, err, errdefs.ErrUnavailable, "there is never a session")
}

// TestSecretsAreInNoCommandLine also looks at what the record has.
func TestSecretsAreInNoCommandLine(t *testing.T) {
	c, ran := pretended(t, "", nil)
	conn := secretOf(good())
	require.NoError(t, c.login(t.Context(), conn))
	require.NotContains(t, strings.Join(*ran, "\n"), conn.Secret)
	b, err := os.ReadFile(filepath.Join(c.cfg.Database, "nodes", conn.Target.IQN, "127.0.0.1,3260"))
	require.NoError(t, err)
	require.Contains(t, string(b), "node.session.auth.password = a-secret-of-7\n")
	require.Contains(t, string(b), "node.startup = manual\n")
	require.NotContains(t, string(b), "automatic")
}

// TestSessionsOfOthersStay: only those are touched that are of the volume, and of no newer epoch.
func TestSessionsOfOthersStay(t *testing.T) {
	c, ran := pretended(t, "", nil)
	conn := secretOf(good())
	for id, name := range map[string]string{"1": "default", "2": record(conn.VolumeID, 6), "3": record("another", 7), "4": record(conn.VolumeID, 9), "5": record(conn.VolumeID, 7) + "x"} {
		dir := filepath.Join(c.sys, "class", "iscsi_session", "session"+id)
		require.NoError(t, os.MkdirAll(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "ifacename"), []byte(name+"\n"), 0o600))
	}
	require.NoError(t, c.Disconnect(t.Context(), conn))
	require.Equal(t, []string{"-m session -r 2 --logout"}, *ran)
	_, err := c.Connect(t.Context(), conn)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, "epoch 9")
}
