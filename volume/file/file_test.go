package file_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/volume"
	"github.com/dewpoint-cloud/dewpoint/volume/file"
	"github.com/dewpoint-cloud/dewpoint/volume/volumetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("DEWPOINT_TEST_VOLUMES"); dir != "" {
		churn(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, dir string) *file.Driver {
	t.Helper()
	d, err := file.Open(file.Config{Dir: dir, TotalGiB: 16})
	require.NoError(t, err)
	return d
}

func fresh(t testing.TB) (*file.Driver, string) {
	dir := t.TempDir()
	d := open(t, dir)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d, dir
}

func TestContract(t *testing.T) {
	volumetest.TestDriver(t, func(t *testing.T) volumetest.Env {
		d, dir := fresh(t)
		return volumetest.Env{Driver: d, Foreign: func() (func(), error) {
			// What the directory may have besides: another name, and our name on what is no file.
			path, link := filepath.Join(dir, "disk-"+uuid.NewString()), filepath.Join(dir, "volume-"+uuid.NewString())
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return nil, err
			}
			return func() { _ = os.Remove(path); _ = os.Remove(link) }, os.Symlink(path, link)
		}}
	})
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]file.Config{
		"Dir": {}, "TotalGiB": {Dir: t.TempDir(), TotalGiB: -1},
	} {
		_, err := file.Open(cfg)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, name)
	}
	_, err := file.Open(file.Config{Dir: filepath.Join(t.TempDir(), "missing")})
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}

func TestDirectoryIsOneDriversAtATime(t *testing.T) {
	dir := t.TempDir()
	d := open(t, dir)
	_, err := file.Open(file.Config{Dir: dir})
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.NoError(t, d.Close())
	require.NoError(t, open(t, dir).Close())
}

// TestRoomOfTheFileSystem counts what was promised and is not written yet as taken.
func TestRoomOfTheFileSystem(t *testing.T) {
	d, err := file.Open(file.Config{Dir: t.TempDir()})
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close()) }()
	before, err := d.Stats(t.Context())
	require.NoError(t, err)
	require.Positive(t, before.TotalGiB)
	require.Less(t, before.FreeGiB, before.TotalGiB)
	if before.FreeGiB < 8 {
		t.Fatalf("the file system of the test's directory has %d GiB free, 8 are needed", before.FreeGiB)
	}
	for tries := 1; ; tries++ {
		id := uuid.NewString()
		before, err := d.Stats(t.Context())
		require.NoError(t, err)
		require.NoError(t, d.Create(t.Context(), id, 6))
		after, err := d.Stats(t.Context())
		require.NoError(t, err)
		require.NoError(t, d.Delete(t.Context(), id))
		if after.FreeGiB <= before.FreeGiB-4 {
			break
		}
		require.Less(t, tries, 20, "there were %+v, and are %+v", before, after) // others may free as much just then, but not each time
	}
	require.ErrorIs(t, d.Create(t.Context(), uuid.NewString(), before.TotalGiB), errdefs.ErrResourceExhausted)
}

// TestLinksAreNotFollowed puts links with our names, to a file that must stay as it is.
func TestLinksAreNotFollowed(t *testing.T) {
	d, dir := fresh(t)
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("secret"), 0o600))
	id, other := uuid.NewString(), uuid.NewString()
	require.NoError(t, os.Symlink(secret, filepath.Join(dir, "volume-"+id)))
	require.NoError(t, os.Symlink(secret, filepath.Join(dir, "new-"+other)))
	_, err := d.Path(t.Context(), id)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.ErrorIs(t, d.Clone(t.Context(), other, id, 1), errdefs.ErrNotFound)
	require.Error(t, d.Create(t.Context(), id, 1))
	require.NoError(t, d.Create(t.Context(), other, 1))
	require.NoError(t, d.Delete(t.Context(), id))
	text, err := os.ReadFile(secret)
	require.NoError(t, err)
	require.Equal(t, "secret", string(text))
	_, err = os.Lstat(filepath.Join(dir, "volume-"+id))
	require.NoError(t, err, "what is not ours stays")
}

// TestFilesStaySparse: a clone of a volume with little in it takes little.
func TestFilesStaySparse(t *testing.T) {
	d, _ := fresh(t)
	id, clone := uuid.NewString(), uuid.NewString()
	require.NoError(t, d.Create(t.Context(), id, 2))
	write(t, d, id, "text", 1<<30)
	require.NoError(t, d.Clone(t.Context(), clone, id, 3))
	require.Equal(t, "text", read(t, d, clone, 4, 1<<30))
	path, err := d.Path(t.Context(), clone)
	require.NoError(t, err)
	out, err := exec.Command("du", "-k", path).Output()
	require.NoError(t, err)
	var kib int
	_, err = fmt.Sscan(string(out), &kib)
	require.NoError(t, err)
	require.Less(t, kib, 1024)
}

// TestCutShortByItsContext: a copy ends with its context and leaves nothing.
func TestCutShortByItsContext(t *testing.T) {
	d, dir := fresh(t)
	id, clone := uuid.NewString(), uuid.NewString()
	require.NoError(t, d.Create(t.Context(), id, 1))
	write(t, d, id, strings.Repeat("x", 16<<20), 0)
	ctx, cancel := context.WithCancel(t.Context())
	d.SetPoint(func(where string) error {
		if where == "copied" {
			cancel()
			return ctx.Err()
		}
		return nil
	})
	require.Equal(t, context.Canceled, d.Clone(ctx, clone, id, 1))
	d.SetPoint(nil)
	_, err := d.Path(t.Context(), clone)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.NoFileExists(t, filepath.Join(dir, "new-"+clone))
}

// TestCrashes ends each call at each of its places, as its process's death would, then repeats it with the next process's
// driver, or lets it be.
func TestCrashes(t *testing.T) {
	volumeID, made := uuid.NewString(), uuid.NewString()
	exists := func(ctx context.Context, d *file.Driver) error {
		if err := d.Create(ctx, volumeID, 1); err != nil {
			return err
		}
		return nil
	}
	for name, c := range map[string]struct {
		before func(ctx context.Context, d *file.Driver) error
		do     func(ctx context.Context, d *file.Driver) error
		want   volume.Info // of made; zero: not there
	}{
		"create": {exists, func(ctx context.Context, d *file.Driver) error { return d.Create(ctx, made, 2) }, volume.Info{ID: made, SizeGiB: 2}},
		"clone":  {exists, func(ctx context.Context, d *file.Driver) error { return d.Clone(ctx, made, volumeID, 2) }, volume.Info{ID: made, SizeGiB: 2}},
		"snapshot": {exists, func(ctx context.Context, d *file.Driver) error { return d.Snapshot(ctx, made, volumeID) },
			volume.Info{ID: made, SizeGiB: 1, Of: volumeID}},
		"delete": {func(ctx context.Context, d *file.Driver) error {
			if err := exists(ctx, d); err != nil {
				return err
			}
			return d.Create(ctx, made, 1)
		}, func(ctx context.Context, d *file.Driver) error { return d.Delete(ctx, made) }, volume.Info{}},
		"delete a snapshot": {func(ctx context.Context, d *file.Driver) error {
			if err := exists(ctx, d); err != nil {
				return err
			}
			return d.Snapshot(ctx, made, volumeID)
		}, func(ctx context.Context, d *file.Driver) error { return d.DeleteSnapshot(ctx, made) }, volume.Info{}},
	} {
		t.Run(name, func(t *testing.T) {
			for place := 0; ; place++ {
				dir := t.TempDir()
				d := open(t, dir)
				require.NoError(t, c.before(t.Context(), d))
				write(t, d, volumeID, "text", 0)
				met := -1
				d.SetPoint(func(string) error {
					if met++; met == place {
						return file.ErrCrash
					}
					return nil
				})
				err := c.do(t.Context(), d)
				died := met >= place
				require.Equal(t, died, err != nil)
				require.NoError(t, d.Close())
				d = open(t, dir)
				requireWhole(t, d, dir)
				for range 2 {
					require.NoError(t, c.do(t.Context(), d))
				}
				all, err := d.List(t.Context())
				require.NoError(t, err)
				have := volume.Info{}
				for _, i := range all {
					if i.ID == made {
						have = i
					}
				}
				require.Equal(t, c.want, have)
				require.Equal(t, "text", read(t, d, volumeID, 4, 0))
				requireWhole(t, d, dir)
				require.NoError(t, d.Close())
				if !died {
					require.Positive(t, place, "the call met no place to die at")
					break
				}
			}
		})
	}
}

// requireWhole checks that all there is has its whole size, and that nothing half-made is left.
func requireWhole(t *testing.T, d *file.Driver, dir string) {
	t.Helper()
	names, err := os.ReadDir(dir)
	require.NoError(t, err)
	all, err := d.List(t.Context())
	require.NoError(t, err)
	require.Len(t, names, len(all)+1, "the lock and what is listed")
	for _, i := range all {
		require.Positive(t, i.SizeGiB, "%+v", i)
	}
}

// TestProcessesAreKilled kills a process that makes and removes volumes without end, 20 times. What there is then is whole:
// a clone has what its source has.
func TestProcessesAreKilled(t *testing.T) {
	dir := t.TempDir()
	for n := range 20 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), "DEWPOINT_TEST_VOLUMES="+dir)
		out, err := child.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, child.Start())
		_, err = out.Read(make([]byte, 1)) // it has begun
		require.NoError(t, err)
		time.Sleep(time.Duration(n) * time.Millisecond) // where it dies is a matter of chance
		require.NoError(t, child.Process.Kill())
		_ = child.Wait()

		d := open(t, dir)
		requireWhole(t, d, dir)
		all, err := d.List(t.Context())
		require.NoError(t, err)
		for _, i := range all {
			if i.Of == "" && i.SizeGiB == 2 {
				require.Equal(t, content, read(t, d, i.ID, len(content), 0))
			}
			if i.Of != "" {
				require.NoError(t, d.DeleteSnapshot(t.Context(), i.ID))
			}
		}
		for _, i := range all {
			if i.Of == "" {
				require.NoError(t, d.Delete(t.Context(), i.ID))
			}
		}
		requireWhole(t, d, dir)
		require.NoError(t, d.Close())
	}
}

var content = strings.Repeat("content of a volume ", 1<<14)

// churn is the process that is killed: a volume of 1 GiB is being filled, its clones have 2 and hold all of it.
func churn(dir string) {
	fail := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	d, err := file.Open(file.Config{Dir: dir, TotalGiB: 16})
	fail(err)
	ctx := context.Background()
	source := uuid.NewString()
	fail(d.Create(ctx, source, 1))
	path, err := d.Path(ctx, source)
	fail(err)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	fail(err)
	_, err = f.WriteAt([]byte(content), 0)
	fail(err)
	fmt.Print("x")
	for {
		snapshot, clone := uuid.NewString(), uuid.NewString()
		fail(d.Snapshot(ctx, snapshot, source))
		fail(d.Clone(ctx, clone, snapshot, 2))
		fail(d.Delete(ctx, clone))
		fail(d.DeleteSnapshot(ctx, snapshot))
	}
}

func write(t *testing.T, d *file.Driver, id, text string, offset int64) {
	t.Helper()
	path, err := d.Path(t.Context(), id)
	require.NoError(t, err)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte(text), offset)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func read(t *testing.T, d *file.Driver, id string, n int, offset int64) string {
	t.Helper()
	path, err := d.Path(t.Context(), id)
	require.NoError(t, err)
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	b := make([]byte, n)
	_, err = f.ReadAt(b, offset)
	require.NoError(t, err)
	return string(b)
}
