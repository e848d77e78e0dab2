package lvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// tool runs one of LVM's programs and returns what it wrote. An error that is not an [*exec.ExitError] says that it could
// not be run.
type tool func(ctx context.Context, program string, args ...string) (out, says []byte, err error)

// stopDelay is how long a program may take to end when it was asked to: LVM finishes what must not be left half-done.
const stopDelay = 10 * time.Second

func runTool(ctx context.Context, program string, args ...string) (out, says []byte, err error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopDelay
	err = cmd.Run()
	return stdout.Bytes(), stderr.Bytes(), err
}

// classes are words in what LVM says when it fails, in any case, with what they mean. The first that is found counts.
var classes = []struct {
	words string
	class error
}{
	{"insufficient free", errdefs.ErrResourceExhausted},
	{"not enough free", errdefs.ErrResourceExhausted},
	{"free space in thin pool", errdefs.ErrResourceExhausted},
	{"failed to find logical volume", errdefs.ErrNotFound},
	{"one or more specified logical volume(s) not found", errdefs.ErrNotFound},
	{"already exists in volume group", errdefs.ErrAlreadyExists},
	{"volume group \"", errdefs.ErrUnavailable}, // … not found
	{"in use", errdefs.ErrUnavailable},
	{"resource busy", errdefs.ErrUnavailable},
	{"can't get lock", errdefs.ErrUnavailable},
	{"locking failed", errdefs.ErrUnavailable},
	{"device-mapper", errdefs.ErrUnavailable},
	{"input/output error", errdefs.ErrUnavailable},
	{"permission denied", errdefs.ErrPermissionDenied},
}

// failed makes an error of what a program said before it failed.
func failed(program string, says []byte, err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("lvm: %s: %w: %w", program, err, errdefs.ErrUnavailable)
	}
	text := strings.Join(strings.Fields(string(says)), " ")
	if len(text) > 500 {
		text = text[:500]
	}
	for _, c := range classes {
		if strings.Contains(strings.ToLower(text), c.words) {
			return fmt.Errorf("lvm: %s: %s: %w", program, text, c.class)
		}
	}
	return fmt.Errorf("lvm: %s: %s (%v): %w", program, text, err, errdefs.ErrInternal)
}

// lv is a logical volume as lvs reports it.
type lv struct {
	Name string  `json:"lv_name"`
	Size number  `json:"lv_size"`
	Tags tagList `json:"lv_tags"`
	Attr string  `json:"lv_attr"`
	Pool string  `json:"pool_lv"`
}

// vg is a volume group as vgs reports it.
type vg struct {
	Size   number `json:"vg_size"`
	Free   number `json:"vg_free"`
	Extent number `json:"vg_extent_size"`
}

// number is one of bytes, which LVM's JSON has as a string.
type number int64

// UnmarshalJSON reads "1073741824", with or without the unit that --nosuffix leaves away, or the number itself.
func (n *number) UnmarshalJSON(b []byte) error {
	text := strings.TrimSuffix(strings.Trim(string(b), `"`), "B")
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v < 0 {
		return fmt.Errorf("%.40q is not a number of bytes", b)
	}
	*n = number(v)
	return nil
}

// tagList is one of tags, which LVM's JSON has as a string with commas, or, with json_std, as a list.
type tagList []string

// UnmarshalJSON reads both forms.
func (l *tagList) UnmarshalJSON(b []byte) error {
	*l = nil
	var list []string
	if json.Unmarshal(b, &list) == nil {
		*l = list
		return nil
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	for tag := range strings.SplitSeq(text, ",") {
		if tag != "" {
			*l = append(*l, tag)
		}
	}
	return nil
}

// parseReport reads what lvs or vgs wrote with --reportformat json: {"report": [{"lv": […]}]}.
func parseReport(out []byte) (lvs []lv, vgs []vg, err error) {
	var r struct {
		Report []struct {
			LV []lv `json:"lv"`
			VG []vg `json:"vg"`
		} `json:"report"`
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, nil, fmt.Errorf("lvm: the report can't be read: %w: %w", err, errdefs.ErrInternal)
	}
	if len(r.Report) == 0 {
		return nil, nil, fmt.Errorf("lvm: the report is empty: %w", errdefs.ErrInternal)
	}
	for _, part := range r.Report {
		lvs, vgs = append(lvs, part.LV...), append(vgs, part.VG...)
	}
	for _, l := range lvs {
		if l.Name == "" {
			return nil, nil, fmt.Errorf("lvm: the report has a logical volume without a name: %w", errdefs.ErrInternal)
		}
	}
	return lvs, vgs, nil
}
