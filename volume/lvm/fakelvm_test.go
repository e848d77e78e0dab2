package lvm

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeLVM is a volume group whose logical volumes are files. It takes the arguments that LVM's programs take, refuses others, and says what they say. What
// it gives away holds old data, as extents do.
type fakeLVM struct {
	dir string // the group's directory of devices

	mu     sync.Mutex
	vgs    string // name
	total  int64
	gib    int64
	pool   string
	lvs    map[string]*lv
	calls  int
	before func(n int, program string) (says string) // a call that fails before its effect; "": it does not
	after  func(n int, program string) (says string) // and after it
	hang   chan struct{}
}

const group = "vg0"

func newFake(t testing.TB, thin bool, size int64) *fakeLVM {
	f := &fakeLVM{dir: filepath.Join(t.TempDir(), group), vgs: group, gib: size, total: 16 * size, lvs: map[string]*lv{}}
	require.NoError(t, os.Mkdir(f.dir, 0o700))
	if thin {
		f.pool = "pool"
		f.lvs["pool"] = &lv{Name: "pool", Size: number(f.total), Attr: "twi-aotz--"}
	}
	return f
}

func (f *fakeLVM) config() Config {
	return Config{VG: group, ThinPool: f.pool, Tries: 3, run: f.run, devDir: filepath.Dir(f.dir), gib: f.gib, pause: time.Millisecond}
}

func (f *fakeLVM) open(t testing.TB) *Driver {
	d, err := Open(context.Background(), f.config())
	require.NoError(t, err)
	return d
}

// exit is a program's failure. Only its type counts.
var exit = func() error { return exec.Command("false").Run() }()

func (f *fakeLVM) run(ctx context.Context, program string, args ...string) (out, says []byte, err error) {
	f.mu.Lock()
	f.calls++
	n, hang := f.calls, f.hang
	before, after := f.before, f.after
	f.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if before != nil {
		if text := before(n, program); text != "" {
			return nil, []byte(text), exit
		}
	}
	f.mu.Lock()
	text, problem := f.do(program, args)
	f.mu.Unlock()
	if problem != "" {
		return nil, []byte("  " + problem + "\n"), exit
	}
	if after != nil {
		if text := after(n, program); text != "" {
			return nil, []byte(text), exit
		}
	}
	return []byte(text), nil, nil
}

// options reads arguments: those of takes have a value, the others of flags none.
func options(args []string, takes, flags string) (values map[string][]string, rest []string, problem string) {
	values = map[string][]string{}
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case slices.Contains(strings.Fields(takes), a) && i+1 < len(args):
			values[a] = append(values[a], args[i+1])
			i++
		case slices.Contains(strings.Fields(flags), a):
			values[a] = append(values[a], "")
		case strings.HasPrefix(a, "-"):
			return nil, nil, "unrecognized option " + a
		default:
			rest = append(rest, a)
		}
	}
	return values, rest, ""
}

func (f *fakeLVM) path(name string) string { return filepath.Join(f.dir, name) }

// find returns a logical volume by "group/name".
func (f *fakeLVM) find(full string) (*lv, string) {
	vg, name, _ := strings.Cut(full, "/")
	if vg != f.vgs {
		return nil, fmt.Sprintf("Volume group %q not found", vg)
	}
	if l := f.lvs[name]; l != nil {
		return l, ""
	}
	return nil, fmt.Sprintf("Failed to find logical volume %q", full)
}

func (f *fakeLVM) free() int64 {
	free := f.total
	for _, l := range f.lvs {
		if l.Name != f.pool {
			free -= int64(l.Size)
		}
	}
	return free
}

func (f *fakeLVM) do(program string, args []string) (out, problem string) {
	switch program {
	case "vgs", "lvs":
		return f.report(program, args)
	case "lvcreate":
		return "", f.create(args)
	case "lvremove":
		_, rest, problem := options(args, "", "-f -y")
		if problem != "" || len(rest) != 1 {
			return "", "wrong arguments " + problem
		}
		l, problem := f.find(rest[0])
		if problem == "" {
			delete(f.lvs, l.Name)
			_ = os.Remove(f.path(l.Name))
		}
		return "", problem
	case "lvchange":
		o, rest, problem := options(args, "--addtag --deltag", "")
		if problem != "" || len(rest) != 1 {
			return "", "wrong arguments " + problem
		}
		l, problem := f.find(rest[0])
		if problem == "" {
			l.Tags = slices.DeleteFunc(l.Tags, func(tag string) bool { return slices.Contains(o["--deltag"], tag) })
			l.Tags = append(l.Tags, o["--addtag"]...)
		}
		return "", problem
	case "lvextend":
		o, rest, problem := options(args, "-L", "")
		if problem != "" || len(rest) != 1 || len(o["-L"]) != 1 {
			return "", "wrong arguments " + problem
		}
		l, problem := f.find(rest[0])
		if problem != "" {
			return "", problem
		}
		size, err := strconv.ParseInt(strings.TrimSuffix(o["-L"][0], "b"), 10, 64)
		if err != nil || size <= int64(l.Size) {
			return "", "New size given is not larger than existing size"
		}
		if size-int64(l.Size) > f.free() {
			return "", "Insufficient free space: 1024 extents needed, but only 0 available"
		}
		old := int64(l.Size)
		l.Size = number(size)
		return "", f.device(l, old)
	}
	return "", "no program " + program
}

// device gives a logical volume its file, which from a byte on holds old data unless it is thin.
func (f *fakeLVM) device(l *lv, from int64) string {
	w, err := os.OpenFile(f.path(l.Name), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = w.Truncate(int64(l.Size))
	}
	for offset := from; err == nil && f.pool == "" && offset < int64(l.Size); offset += f.gib / 4 {
		_, err = w.WriteAt([]byte("what was here before"), offset)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func (f *fakeLVM) create(args []string) string {
	o, rest, problem := options(args, "-n -L -V -p --thinpool --addtag", "-y -s -Wn -Zn -kn")
	if problem != "" || len(rest) != 1 || len(o["-n"]) != 1 {
		return "wrong arguments " + problem
	}
	name := o["-n"][0]
	if f.lvs[name] != nil {
		return fmt.Sprintf("Logical Volume %q already exists in volume group %q", name, f.vgs)
	}
	l := &lv{Name: name, Tags: o["--addtag"], Attr: "-wi-a-----"}
	if f.pool != "" {
		l.Pool, l.Attr = f.pool, "Vwi-a-tz--"
	}
	if o["-s"] != nil {
		from, problem := f.find(rest[0])
		if problem != "" {
			return problem
		}
		l.Size = from.Size
		if f.pool == "" {
			if len(o["-L"]) != 1 || len(o["-p"]) != 1 {
				return "a snapshot for reading, with room for what changes, is meant"
			}
			n, err := strconv.ParseInt(strings.TrimSuffix(o["-L"][0], "b"), 10, 64)
			if err != nil || n > f.free() {
				return `Volume group "vg0" has insufficient free space (0 extents): 256 required.`
			}
			defer func() { l.Size, l.Attr = number(n), "sri-a-s---" }() // what is said of it is the room for what changes
		} else if o["-kn"] == nil {
			return "a thin snapshot that is active is meant"
		}
		f.lvs[name] = l
		if problem := f.device(l, 0); problem != "" {
			return problem
		}
		return f.copy(name, from.Name)
	}
	size := o["-L"]
	if f.pool != "" {
		size = o["-V"]
		if len(o["--thinpool"]) != 1 || o["--thinpool"][0] != f.pool {
			return "wrong pool"
		}
	} else if o["-Wn"] == nil || o["-Zn"] == nil {
		return "it would ask whether to wipe a signature"
	}
	if rest[0] != f.vgs || len(size) != 1 {
		return fmt.Sprintf("Volume group %q not found", rest[0])
	}
	n, err := strconv.ParseInt(strings.TrimSuffix(size[0], "b"), 10, 64)
	if err != nil {
		return err.Error()
	}
	if n > f.free() {
		return `Volume group "vg0" has insufficient free space (0 extents): 256 required.`
	}
	l.Size = number(n)
	f.lvs[name] = l
	return f.device(l, 0)
}

// opened returns the files that this process has open.
func opened() map[string]bool {
	all := map[string]bool{}
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil {
			all[to] = true
		}
	}
	return all
}

// copy has a thin volume hold what another does.
func (f *fakeLVM) copy(to, from string) string {
	return errorText(copySparse(context.Background(), f.path(to), f.path(from), int64(f.lvs[from].Size)))
}

func errorText(err error) string {
	if err != nil {
		return err.Error()
	}
	return ""
}

// report writes what lvs and vgs write, with everything as text.
func (f *fakeLVM) report(program string, args []string) (out, problem string) {
	o, rest, problem := options(args, "--reportformat --units -o", "--nosuffix")
	if problem != "" || len(rest) != 1 || o["--reportformat"][0] != "json" || o["--units"][0] != "b" || o["--nosuffix"] == nil {
		return "", "wrong arguments " + problem
	}
	if rest[0] != f.vgs {
		return "", fmt.Sprintf("Volume group %q not found\n  Cannot process volume group %s", rest[0], rest[0])
	}
	rows := []map[string]string{}
	if program == "vgs" {
		rows = append(rows, map[string]string{"vg_size": fmt.Sprint(f.total), "vg_free": fmt.Sprint(f.free()), "vg_extent_size": "4194304"})
	} else {
		open := opened()
		for _, l := range f.lvs {
			attr := l.Attr
			if open[f.path(l.Name)] {
				attr = attr[:5] + "o" + attr[6:]
			}
			rows = append(rows, map[string]string{"lv_name": l.Name, "lv_size": fmt.Sprint(l.Size), "lv_tags": strings.Join(l.Tags, ","),
				"lv_attr": attr, "pool_lv": l.Pool})
		}
	}
	b, err := json.Marshal(map[string]any{"report": []any{map[string]any{strings.TrimSuffix(program, "s"): rows}}})
	if err != nil {
		return "", err.Error()
	}
	return string(b), ""
}
