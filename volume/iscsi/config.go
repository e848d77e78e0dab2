package iscsi

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Config is how a [Server] behaves.
type Config struct {
	// Log tells of logins, refusals and what ended sessions. Nil is silent.
	Log *slog.Logger
	// Portal is the address that discovery names, with its port, for when initiators reach the listener under another. Empty: the
	// address that the initiator has reached.
	Portal string
	// LoginTimeout is how long a connection may take to log in. Zero: 15 seconds.
	LoginTimeout time.Duration
	// MaxLogins is how many connections may be logging in at once; more are closed at once. Zero: 64.
	MaxLogins int
	// MaxSessions is how many sessions there may be. Zero: 1,024.
	MaxSessions int
	// PingInterval is after how long a silence an initiator is asked whether it is there; after as long again without any
	// sign of it the session ends. An initiator that takes nothing from its connection for twice as long is ended too. Zero: 15 seconds.
	PingInterval time.Duration
	// DrainTimeout is how long commands that were begun have to end when the server stops. Zero: 10 seconds.
	DrainTimeout time.Duration
	// Workers is how many commands of one session run at once where the store is slow. Zero: 64.
	Workers int
	// SessionMemory is how much data of commands one session may have here at once, in bytes, half of it on its way in and half on
	// its way out. Before login it is 16 KiB in all. Zero: 32 MiB; at least 16 MiB.
	SessionMemory int
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.LoginTimeout <= 0 {
		c.LoginTimeout = 15 * time.Second
	}
	if c.MaxLogins <= 0 {
		c.MaxLogins = 64
	}
	if c.MaxSessions <= 0 {
		c.MaxSessions = 1024
	}
	c.MaxSessions = min(c.MaxSessions, 60000) // their numbers have 16 bits
	if c.PingInterval <= 0 {
		c.PingInterval = 15 * time.Second
	}
	if c.DrainTimeout <= 0 {
		c.DrainTimeout = 10 * time.Second
	}
	if c.Workers <= 0 {
		c.Workers = 64
	}
	if c.SessionMemory <= 0 {
		c.SessionMemory = 32 << 20
	}
	c.SessionMemory = max(c.SessionMemory, 16<<20)
	return c
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// validate checks the fields of an export.
func (e Export) validate() error {
	if err := validName("IQN", e.IQN); err != nil {
		return err
	}
	if e.LUN >= 1<<14 {
		return invalid("LUN %d of %s is not below %d", e.LUN, e.IQN, 1<<14)
	}
	if e.Volume == "" || len(e.Volume) > 36 {
		return invalid("Volume of %s has %d bytes, not 1 to 36", e.IQN, len(e.Volume))
	}
	for _, c := range []byte(e.Volume) {
		if c < 0x20 || c > 0x7e {
			return invalid("Volume of %s has the byte %#x, which can't be printed", e.IQN, c)
		}
	}
	if e.Store == nil {
		return invalid("Store of %s is nil", e.IQN)
	}
	seen := map[string]bool{}
	for _, i := range e.Initiators {
		if err := validName("Initiators: IQN", i.IQN); err != nil {
			return err
		}
		if seen[i.IQN] {
			return invalid("Initiators of %s has %s twice", e.IQN, i.IQN)
		}
		seen[i.IQN] = true
		if (i.User == "") != (i.Secret == "") || (i.MutualUser == "") != (i.MutualSecret == "") {
			return invalid("Initiators of %s: %s has a user without a secret, or a secret without a user", e.IQN, i.IQN)
		}
		if i.Secret == "" && i.MutualSecret != "" {
			return invalid("Initiators of %s: %s has MutualSecret without Secret", e.IQN, i.IQN)
		}
		for _, secret := range []string{i.Secret, i.MutualSecret} {
			if secret != "" && (len(secret) < 12 || len(secret) > 255) {
				return invalid("Initiators of %s: a secret of %s has %d bytes, not 12 to 255", e.IQN, i.IQN, len(secret))
			}
		}
		if i.Secret != "" && i.Secret == i.MutualSecret {
			return invalid("Initiators of %s: MutualSecret of %s is its Secret", e.IQN, i.IQN)
		}
		if len(i.User) > 255 || len(i.MutualUser) > 255 || strings.ContainsRune(i.User+i.MutualUser, 0) {
			return invalid("Initiators of %s: a user of %s has more than 255 bytes or a zero", e.IQN, i.IQN)
		}
	}
	return nil
}

// validName checks the form of a name, RFC 7143 section 4.2.7.
func validName(field, name string) error {
	if len(name) > 223 {
		return invalid("%s has %d bytes, more than 223", field, len(name))
	}
	if !strings.HasPrefix(name, "iqn.") && !strings.HasPrefix(name, "eui.") && !strings.HasPrefix(name, "naa.") {
		return invalid("%s %q is no iSCSI name", field, name)
	}
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == ':' || c == '-' || c >= 0x80) {
			return invalid("%s %q has the byte %#x", field, name, c)
		}
	}
	return nil
}
