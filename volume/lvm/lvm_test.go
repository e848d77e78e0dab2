package lvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/volumetest"
)

// small is a GiB of tests that need no real one.
const small = 4 << 20

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kinds runs a test on linear and on thin volumes.
func kinds(t *testing.T, f func(t *testing.T, thin bool)) {
	for name, thin := range map[string]bool{"linear": false, "thin": true} {
		t.Run(name, func(t *testing.T) { f(t, thin) })
	}
}

func TestContractOverAPretendedLVM(t *testing.T) {
	kinds(t, func(t *testing.T, thin bool) {
		volumetest.TestDriver(t, func(t *testing.T) volumetest.Env {
			f := newFake(t, thin, gib)
			cfg := f.config()
			cfg.zero, cfg.copy = zeroSparse, copySparse // the suite's volumes are large; those of TestCrashes are written for real
			d, err := Open(t.Context(), cfg)
			require.NoError(t, err)
			return volumetest.Env{Driver: d, Quiet: true,
				Foreign: func() (func(), error) {
					f.mu.Lock()
					defer f.mu.Unlock()
					name := volumePrefix + uuid.NewString()
					f.lvs[name] = &lv{Name: name, Size: 1 << 20, Tags: []string{"theirs"}, Attr: "-wi-a-----"}
					return func() {
						f.mu.Lock()
						defer f.mu.Unlock()
						delete(f.lvs, name)
					}, nil
				},
				Hang: func() (func(), error) {
					hang := make(chan struct{})
					f.mu.Lock()
					defer f.mu.Unlock()
					f.hang = hang
					return func() {
						f.mu.Lock()
						defer f.mu.Unlock()
						f.hang = nil
						close(hang)
					}, nil
				},
				Down: func() (func(), error) {
					f.mu.Lock()
					defer f.mu.Unlock()
					f.vgs = "renamed"
					return func() {
						f.mu.Lock()
						defer f.mu.Unlock()
						f.vgs = group
					}, nil
				},
			}
		})
	})
}

// zeroSparse makes a hole.
func zeroSparse(ctx context.Context, path string, begin, end int64) error {
	return writeDevice(ctx, path, begin, min(end, begin+piece), func(w *os.File, offset, _ int64) error {
		return unix.Fallocate(int(w.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, end-begin)
	})
}

// copySparse copies what is not a hole.
func copySparse(ctx context.Context, to, from string, size int64) error {
	if err := zeroSparse(ctx, to, 0, size); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer out.Close()
	for offset := int64(0); ; {
		begin, err := in.Seek(offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		if offset, err = in.Seek(begin, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, begin), io.NewSectionReader(in, begin, offset-begin)); err != nil {
			return err
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	f := newFake(t, true, small)
	for field, spoil := range map[string]func(*Config){
		"VG": func(c *Config) { c.VG = "" }, "VG is \"-f": func(c *Config) { c.VG = "-f" }, "ThinPool": func(c *Config) { c.ThinPool = "a b" },
		"Tries": func(c *Config) { c.Tries = 11 }, "Timeout": func(c *Config) { c.Timeout = -1 },
	} {
		cfg := f.config()
		spoil(&cfg)
		_, err := Open(t.Context(), cfg)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, field)
	}
	missing := f.config()
	missing.VG = "nothing"
	_, err := Open(t.Context(), missing)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	missing = f.config()
	missing.ThinPool = "nothing"
	_, err = Open(t.Context(), missing)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	f.lvs["pool"].Attr = "twi-aot---"
	_, err = Open(t.Context(), f.config())
	require.ErrorContains(t, err, "does not zero its chunks")
	f.lvs["pool"].Attr = "-wi-a-----"
	_, err = Open(t.Context(), f.config())
	require.ErrorContains(t, err, "is no thin pool")
}

// What lvm2 2.03.16 wrote, and what a newer one does with json_std.
func TestReportsAreRead(t *testing.T) {
	lvs, _, err := parseReport([]byte(`  {
      "report": [
          {
              "lv": [
                  {"lv_name":"dp-volume-6e2b1d0e-5d66-4f4b-9a4b-0d1a6a3f2c11", "lv_size":"1073741824", "lv_tags":"dewpoint.volume,dewpoint.zero.536870912", "lv_attr":"-wi-a-----", "pool_lv":""},
                  {"lv_name":"root", "lv_size":"8589934592", "lv_tags":"", "lv_attr":"-wi-ao----", "pool_lv":""}
              ]
          }
      ]
  }`))
	require.NoError(t, err)
	require.Equal(t, []lv{
		{Name: "dp-volume-6e2b1d0e-5d66-4f4b-9a4b-0d1a6a3f2c11", Size: 1 << 30, Tags: tagList{"dewpoint.volume", "dewpoint.zero.536870912"}, Attr: "-wi-a-----"},
		{Name: "root", Size: 8 << 30, Attr: "-wi-ao----"},
	}, lvs)
	_, vgs, err := parseReport([]byte(`{"report":[{"vg":[{"vg_size":17175674880,"vg_free":"0B","vg_extent_size":"4194304"}]}],"log":[]}`))
	require.NoError(t, err)
	require.Equal(t, []vg{{17175674880, 0, 4 << 20}}, vgs)
	lvs, _, err = parseReport([]byte(`{"report":[{"lv":[{"lv_name":"a","lv_size":"1","lv_tags":["x","y"]}]}]}`))
	require.NoError(t, err)
	require.Equal(t, tagList{"x", "y"}, lvs[0].Tags)
	for _, text := range []string{``, `{}`, `[]`, `{"report":[{"lv":[{"lv_size":"1"}]}]}`, `{"report":[{"lv":[{"lv_name":"a","lv_size":"1.00g"}]}]}`,
		`{"report":[{"lv":[{"lv_name":"a","lv_size":"-1"}]}]}`} {
		_, _, err := parseReport([]byte(text))
		require.ErrorIs(t, err, errdefs.ErrInternal, text)
	}
}

func TestForeignVolumesAreToldApart(t *testing.T) {
	id, of := uuid.NewString(), uuid.NewString()
	for name, c := range map[string]struct {
		lv   lv
		want volume.Info // zero: it is foreign
	}{
		"a volume":                  {lv{Name: volumePrefix + id, Size: 2 * gib, Tags: tagList{"x", tagVolume}}, volume.Info{ID: id, SizeGiB: 2}},
		"a snapshot":                {lv{Name: snapshotPrefix + id, Size: gib, Tags: tagList{tagOf + of, tagSnapshot}}, volume.Info{ID: id, SizeGiB: 1, Of: of}},
		"an extension under way":    {lv{Name: volumePrefix + id, Size: 3 * gib, Tags: tagList{tagVolume, tagZero + "1073741824"}}, volume.Info{ID: id, SizeGiB: 1}},
		"our name alone":            {lv{Name: volumePrefix + id, Size: gib}, volume.Info{}},
		"our tag alone":             {lv{Name: "data", Size: gib, Tags: tagList{tagVolume}}, volume.Info{}},
		"no UUID":                   {lv{Name: volumePrefix + "1", Size: gib, Tags: tagList{tagVolume}}, volume.Info{}},
		"a snapshot of nothing":     {lv{Name: snapshotPrefix + id, Size: gib, Tags: tagList{tagSnapshot}}, volume.Info{}},
		"a volume's tag on another": {lv{Name: snapshotPrefix + id, Size: gib, Tags: tagList{tagVolume, tagOf + of}}, volume.Info{}},
		"zeros beyond its end":      {lv{Name: volumePrefix + id, Size: gib, Tags: tagList{tagVolume, tagZero + "9999999999"}}, volume.Info{}},
	} {
		e, ok := parse(c.lv, gib)
		require.Equal(t, c.want != volume.Info{}, ok, name)
		if ok {
			require.Equal(t, c.want, e.Info, name)
		}
	}
}

func TestFailuresHaveClasses(t *testing.T) {
	for says, class := range map[string]error{
		`  Volume group "vg0" has insufficient free space (10 extents): 256 required.`: errdefs.ErrResourceExhausted,
		`  Insufficient free space: 256 extents needed, but only 10 available`:         errdefs.ErrResourceExhausted,
		`  Failed to find logical volume "vg0/x"`:                                      errdefs.ErrNotFound,
		`  Logical Volume "x" already exists in volume group "vg0"`:                    errdefs.ErrAlreadyExists,
		`  Volume group "vg0" not found`:                                               errdefs.ErrUnavailable,
		`  Logical volume vg0/x in use.`:                                               errdefs.ErrUnavailable,
		`  device-mapper: remove ioctl on  (253:0) failed: Device or resource busy`:    errdefs.ErrUnavailable,
		`  /run/lock/lvm/V_vg0:aux: open failed: Permission denied`:                    errdefs.ErrPermissionDenied,
		`  something else`: errdefs.ErrInternal,
	} {
		require.ErrorIs(t, failed("lvcreate", []byte(says), exit), class, says)
	}
	err := failed("lvs", nil, &exec.Error{Name: "lvs", Err: exec.ErrNotFound})
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
	require.ErrorContains(t, err, "lvs")
}

// TestForeignVolumeWithOurName is left alone by everything.
func TestForeignVolumeWithOurName(t *testing.T) {
	f := newFake(t, false, small)
	d := f.open(t)
	id := uuid.NewString()
	theirs := &lv{Name: volumePrefix + id, Size: small, Attr: "-wi-a-----"}
	f.lvs[theirs.Name] = theirs
	require.ErrorIs(t, d.Create(t.Context(), id, 1), errdefs.ErrAlreadyExists)
	require.ErrorIs(t, d.Extend(t.Context(), id, 2), errdefs.ErrNotFound)
	require.NoError(t, d.Delete(t.Context(), id))
	require.NoError(t, d.DeleteSnapshot(t.Context(), id))
	require.Same(t, theirs, f.lvs[theirs.Name])
	require.Equal(t, number(small), theirs.Size)
}

// TestStaleNodesAreNotWritten: a device of another size, or none, is not what the records of LVM say.
func TestStaleNodesAreNotWritten(t *testing.T) {
	f := newFake(t, false, small)
	d := f.open(t)
	id := uuid.NewString()
	require.NoError(t, d.Create(t.Context(), id, 1))
	path, err := d.Path(t.Context(), id)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(path, 1<<20))
	for _, spoil := range []func() error{func() error { return nil }, func() error { return os.Remove(path) }} {
		require.NoError(t, spoil())
		_, err = d.Path(t.Context(), id)
		require.ErrorIs(t, err, errdefs.ErrUnavailable)
		require.ErrorIs(t, d.Clone(t.Context(), uuid.NewString(), id, 1), errdefs.ErrUnavailable)
	}
	require.Len(t, f.lvs, 1, "the clones are gone again")
}

// TestBusyIsTriedAgain, so often and no more.
func TestBusyIsTriedAgain(t *testing.T) {
	f := newFake(t, false, small)
	d := f.open(t)
	id := uuid.NewString()
	require.NoError(t, d.Create(t.Context(), id, 1))
	busy := 0
	f.before = func(_ int, program string) string {
		if program == "lvremove" && busy > 0 {
			busy--
			return "  Logical volume vg0/x in use."
		}
		return ""
	}
	busy = 3
	require.ErrorIs(t, d.Delete(t.Context(), id), errdefs.ErrUnavailable)
	require.Zero(t, busy)
	busy = 2
	require.NoError(t, d.Delete(t.Context(), id))
	require.Empty(t, f.lvs)
}

// TestAnExtensionThatFailsInItsEnd: what LVM took for a volume before it failed is zeros all the same, when the call is repeated.
func TestAnExtensionThatFailsInItsEnd(t *testing.T) {
	f := newFake(t, false, small)
	d := f.open(t)
	id := uuid.NewString()
	require.NoError(t, d.Create(t.Context(), id, 1))
	failures := 1
	f.after = func(_ int, program string) string {
		if program == "lvextend" && failures > 0 {
			failures--
			return "  device-mapper: resume ioctl on  (253:0) failed: Device or resource busy"
		}
		return ""
	}
	require.Error(t, d.Extend(t.Context(), id, 2))
	require.Zero(t, failures)
	require.NoError(t, d.Extend(t.Context(), id, 2))
	for offset := int64(small); offset < 2*small; offset += small / 4 {
		require.Equal(t, string(make([]byte, 20)), get(t, d, id, offset), "at %d there is what was there before", offset)
	}
}

func TestCommandsThatDoNotEnd(t *testing.T) {
	f := newFake(t, false, small)
	d := f.open(t)
	d.cfg.Timeout = 20 * time.Millisecond
	f.hang = make(chan struct{})
	_, err := d.List(t.Context())
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
	require.ErrorContains(t, err, "has not ended within 20ms")
}

// TestCrashes ends each call at each of its commands, before and after it had its effect, as the death of its process would, and
// repeats it with the next process's driver.
func TestCrashes(t *testing.T) {
	source, made := uuid.NewString(), uuid.NewString()
	create := func(ctx context.Context, d *Driver) error { return d.Create(ctx, source, 1) }
	with := func(more func(ctx context.Context, d *Driver) error) func(ctx context.Context, d *Driver) error {
		return func(ctx context.Context, d *Driver) error {
			if err := create(ctx, d); err != nil {
				return err
			}
			return more(ctx, d)
		}
	}
	for name, c := range map[string]struct {
		before, do func(ctx context.Context, d *Driver) error
		want       volume.Info // of made; zero: not there
		text       string      // what it holds
		open       bool        // the source is in use
	}{
		"create": {create, func(ctx context.Context, d *Driver) error { return d.Create(ctx, made, 2) }, volume.Info{ID: made, SizeGiB: 2}, "", false},
		"clone":  {create, func(ctx context.Context, d *Driver) error { return d.Clone(ctx, made, source, 2) }, volume.Info{ID: made, SizeGiB: 2}, "text", false},
		"clone of one in use": {create, func(ctx context.Context, d *Driver) error { return d.Clone(ctx, made, source, 2) },
			volume.Info{ID: made, SizeGiB: 2}, "text", true},
		"snapshot of one in use": {create, func(ctx context.Context, d *Driver) error { return d.Snapshot(ctx, made, source) },
			volume.Info{ID: made, SizeGiB: 1, Of: source}, "", true},
		"snapshot of one in use that is given up": {create, func(ctx context.Context, d *Driver) error {
			return errors.Join(d.Snapshot(ctx, made, source), d.DeleteSnapshot(ctx, made))
		}, volume.Info{}, "", true},
		"snapshot": {create, func(ctx context.Context, d *Driver) error { return d.Snapshot(ctx, made, source) },
			volume.Info{ID: made, SizeGiB: 1, Of: source}, "", false},
		"extend": {with(func(ctx context.Context, d *Driver) error { return d.Create(ctx, made, 1) }),
			func(ctx context.Context, d *Driver) error { return d.Extend(ctx, made, 3) }, volume.Info{ID: made, SizeGiB: 3}, "", false},
		"delete": {with(func(ctx context.Context, d *Driver) error { return d.Create(ctx, made, 1) }),
			func(ctx context.Context, d *Driver) error { return d.Delete(ctx, made) }, volume.Info{}, "", false},
		"delete a snapshot": {with(func(ctx context.Context, d *Driver) error { return d.Snapshot(ctx, made, source) }),
			func(ctx context.Context, d *Driver) error { return d.DeleteSnapshot(ctx, made) }, volume.Info{}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			kinds(t, func(t *testing.T, thin bool) {
				for place := 0; ; place++ {
					f := newFake(t, thin, small)
					d := f.open(t)
					require.NoError(t, c.before(t.Context(), d))
					put(t, d, source, "text")
					if c.open {
						path, err := d.Path(t.Context(), source)
						require.NoError(t, err)
						held, err := os.Open(path)
						require.NoError(t, err)
						defer held.Close()
					}
					ctx, die := context.WithCancel(t.Context())
					met := 0
					point := func(int, string) string {
						if met++; met == place+1 {
							die()
							return "died"
						}
						return ""
					}
					f.before, f.after = point, point
					err := c.do(ctx, d)
					died := ctx.Err() != nil
					die()
					require.Equal(t, died, err != nil)
					f.before, f.after = nil, nil
					d = f.open(t)
					for range 2 {
						require.NoError(t, c.do(t.Context(), d))
					}
					all, err := d.List(t.Context())
					require.NoError(t, err)
					have := volume.Info{}
					if at := slices.IndexFunc(all, func(i volume.Info) bool { return i.ID == made }); at >= 0 {
						have = all[at]
					}
					require.Equal(t, c.want, have)
					require.Equal(t, "text", get(t, d, source, 0)[:4])
					if c.want.ID != "" && c.want.Of == "" {
						require.Equal(t, c.text+string(make([]byte, 20-len(c.text))), get(t, d, made, 0))
						for offset := int64(small / 4); offset < int64(c.want.SizeGiB)*small; offset += small / 4 {
							require.Equal(t, string(make([]byte, 20)), get(t, d, made, offset), "at %d there is what was there before", offset)
						}
					}
					for _, l := range f.lvs {
						for _, tag := range l.Tags {
							require.NotEqual(t, tagNew, tag)
							require.NotEqual(t, tagCopy, tag)
							require.NotContains(t, tag, tagZero)
						}
					}
					if !died {
						require.Positive(t, place)
						break
					}
				}
			})
		})
	}
}

func put(t *testing.T, d *Driver, id, text string) {
	t.Helper()
	path, err := d.Path(t.Context(), id)
	require.NoError(t, err)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte(text), 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func get(t *testing.T, d *Driver, id string, offset int64) string {
	t.Helper()
	path, err := d.Path(t.Context(), id)
	require.NoError(t, err)
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	b := make([]byte, 20)
	_, err = f.ReadAt(b, offset)
	require.NoError(t, err)
	return string(b)
}

// TestProgramsAreAskedToEnd: one whose caller has gone gets a signal that it can heed.
func TestProgramsAreAskedToEnd(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, _, err := runTool(ctx, "sh", "-c", fmt.Sprintf(`trap "echo asked > %s; exit 3" TERM; echo > %s.ready; while :; do sleep 0.05; done`, mark, mark))
		done <- err
	}()
	require.Eventually(t, func() bool { _, err := os.Stat(mark + ".ready"); return err == nil }, time.Minute, 10*time.Millisecond)
	cancel()
	require.Error(t, <-done)
	require.FileExists(t, mark)
	out, says, err := runTool(t.Context(), "sh", "-c", "echo out; echo says >&2; exit 5")
	require.Error(t, err)
	require.Equal(t, "out\n", string(out))
	require.ErrorContains(t, failed("sh", says, err), "says")
}
