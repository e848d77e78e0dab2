package etcd

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// keys are the log's keys in etcd; see the package for what they are.
type keys struct{ prefix string }

func (k keys) head() string          { return k.prefix + "head" }
func (k keys) row(key string) string { return k.prefix + "k/" + key }
func (k keys) end() string           { return k.prefix + "k0" } // after the last row
func (k keys) slot(lease, n int64) string {
	return fmt.Sprintf("%sc/%016x/%d", k.prefix, uint64(lease), n)
}

// key returns the log's key of a row.
func (k keys) key(row string) (string, bool) { return strings.CutPrefix(row, k.prefix+"k/") }

// format is this version's. It begins what is written to the head; a removal that may have changed nothing, so that etcd would have
// nothing to say of the batch, follows it.
const format = "1"

func headValue(removed string) string {
	if removed == "" {
		return format
	}
	return format + "-" + removed
}

// parseHead returns the key of the removal in a head.
func (k keys) parseHead(value []byte) (removed string, err error) {
	rest, ours := strings.CutPrefix(string(value), format)
	removed, is := strings.CutPrefix(rest, "-")
	if !ours || rest != "" && !is {
		return "", fmt.Errorf("state/etcd: key %q holds %.20q, want format %s of a log: something else, or a newer program, writes below the prefix %q: %w",
			k.head(), value, format, k.prefix, errdefs.ErrInvalidArgument)
	}
	return removed, nil
}
