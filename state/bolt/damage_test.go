package bolt

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// sample returns the bytes of a file with n records, large and small, and free pages, and what is in it. The file ends with
// its last page in use.
func sample(t testing.TB, n int) (file []byte, have map[string]string) {
	path := filepath.Join(t.TempDir(), "db")
	l, err := Open(Config{Path: path})
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	have = map[string]string{}
	for i := 0; i < n; i += 10 {
		var b state.Batch
		for j := range 10 {
			key := fmt.Sprintf("r/thing/%05d", rng.IntN(100000))
			if _, twice := have[key]; twice {
				continue
			}
			value := strings.Repeat(fmt.Sprint(i+j), rng.IntN(60))
			if rng.IntN(50) == 0 {
				value = strings.Repeat("large", 4000)
			}
			b.Ops = append(b.Ops, state.Op{Key: key, Value: []byte(value)})
			have[key] = value
		}
		_, err := l.Commit(t.Context(), b)
		require.NoError(t, err)
	}
	for key := range have {
		if rng.IntN(4) == 0 {
			_, err := l.Commit(t.Context(), state.Batch{Ops: []state.Op{{Key: key, Delete: true}}})
			require.NoError(t, err)
			delete(have, key)
		}
	}
	require.NoError(t, l.Close())
	file, err = os.ReadFile(path)
	require.NoError(t, err)
	m, err := readMetas(bytes.NewReader(file), int64(len(file)))
	require.NoError(t, err)
	return file[:m.high*uint64(m.pageSize)], have
}

// TestDamage damages a file at random. It is refused as damaged, or what was changed means nothing: then everything is there,
// and stays there when the file is used.
func TestDamage(t *testing.T) {
	file, have := sample(t, 400)
	rng := rand.New(rand.NewPCG(3, 4))
	page := func(f []byte) []byte { at := rng.IntN(len(f)/4096) * 4096; return f[at : at+4096] }
	for name, damage := range map[string]func(f []byte) []byte{
		"a bit":                func(f []byte) []byte { f[rng.IntN(len(f))] ^= 1 << rng.IntN(8); return f },
		"a bit in the head":    func(f []byte) []byte { page(f)[rng.IntN(120)] ^= 1 << rng.IntN(8); return f },
		"a bit in the metas":   func(f []byte) []byte { f[rng.IntN(2)*4096+rng.IntN(80)] ^= 1 << rng.IntN(8); return f },
		"several bytes":        func(f []byte) []byte { p := page(f); copy(p[rng.IntN(4080):], "0123456789abcdef"); return f },
		"a page of zeros":      func(f []byte) []byte { clear(page(f)); return f },
		"a sector of zeros":    func(f []byte) []byte { clear(page(f)[rng.IntN(8)*512:][:512]); return f },
		"a page of another":    func(f []byte) []byte { copy(page(f), page(f)); return f },
		"the end is missing":   func(f []byte) []byte { return f[:rng.IntN(len(f))] },
		"the end is all zeros": func(f []byte) []byte { clear(f[rng.IntN(len(f)):]); return f },
		"something in between": func(f []byte) []byte {
			at := rng.IntN(len(f))
			return append(f[:at:at], append([]byte("x"), f[at:]...)...)
		},
		"an item of its header": func(f []byte) []byte { p := page(f); p[8+rng.IntN(8)] = byte(rng.IntN(256)); return f },
	} {
		t.Run(name, func(t *testing.T) {
			refused := 0
			const tries = 20
			for range tries {
				path := filepath.Join(t.TempDir(), "db")
				f := damage(bytes.Clone(file))
				if bytes.Equal(f, file) {
					continue
				}
				require.NoError(t, os.WriteFile(path, f, 0o600))
				l, err := Open(Config{Path: path})
				if err != nil {
					refused++
					require.True(t, errdefs.IsDataLoss(err), err)
					require.ErrorContains(t, err, "damaged")
					after, err := os.ReadFile(path)
					require.NoError(t, err)
					require.True(t, bytes.Equal(f, after), "a file that was refused was changed")
					continue
				}
				got, _ := rows(t, l)
				require.Equal(t, have, got)
				for i := range 20 {
					put(t, l, fmt.Sprintf("r/thing/%05d", i*5000), strings.Repeat("y", i*500))
				}
				now, _ := rows(t, l)
				require.NoError(t, l.Close())
				l = open(t, path)
				again, _ := rows(t, l)
				require.Equal(t, now, again)
				require.NoError(t, l.Close())
			}
			t.Logf("%d of %d refused", refused, tries)
			require.NotZero(t, refused)
		})
	}
}

func TestFilesThatAreNotOurs(t *testing.T) {
	dir := t.TempDir()
	for name, row := range map[string]struct {
		write func(path string) error
		is    func(error) bool
		says  string
	}{
		"empty": {func(path string) error { return os.WriteFile(path, nil, 0o600) }, errdefs.IsDataLoss, "empty"},
		"short": {func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) }, errdefs.IsDataLoss, "ends"},
		"text":  {func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("hello\n"), 9000), 0o600) }, errdefs.IsInvalidArgument, "not a state file"},
		"another database": {func(path string) error {
			db, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				return err
			}
			defer db.Close()
			return db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("mine")); return err })
		}, errdefs.IsInvalidArgument, "not a state file"},
		"a new database": {func(path string) error {
			db, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				return err
			}
			return db.Close()
		}, errdefs.IsInvalidArgument, "not a state file"},
		"newer": {func(path string) error {
			l, err := Open(Config{Path: path})
			if err != nil {
				return err
			}
			if err := l.db.Update(func(tx *bbolt.Tx) error {
				return tx.Bucket([]byte(aboutBucket)).Put([]byte(formatKey), encodeFormat(l.table, version+1))
			}); err != nil {
				return err
			}
			return l.Close()
		}, errdefs.IsInvalidArgument, "format 2, this program knows format 1"},
		"a directory": {func(path string) error { return os.Mkdir(path, 0o700) }, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			require.NoError(t, row.write(path))
			before, _ := os.ReadFile(path)
			_, err := Open(Config{Path: path})
			require.Error(t, err)
			require.ErrorContains(t, err, path)
			if row.is != nil {
				require.True(t, row.is(err), err)
				require.ErrorContains(t, err, row.says)
			}
			after, _ := os.ReadFile(path)
			require.True(t, bytes.Equal(before, after))
		})
	}
}

func TestConfig(t *testing.T) {
	_, err := Open(Config{})
	require.True(t, errdefs.IsInvalidArgument(err))
	_, err = Open(Config{Path: "x", History: -1})
	require.True(t, errdefs.IsInvalidArgument(err))
	_, err = Open(Config{Path: filepath.Join(t.TempDir(), "none", "db")})
	require.True(t, errdefs.IsNotFound(err), err)
	path := filepath.Join(t.TempDir(), "db")
	open(t, path)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	names, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, names, 1)
}

// A file that is cut off while it is open ends the log, not the process.
func TestAFileThatIsCutOffWhileItIsOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	l := open(t, path)
	for i := range 2000 {
		put(t, l, fmt.Sprint("key-", i), strings.Repeat("v", 100))
	}
	var followed error
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, err := range l.Follow(t.Context(), 0) {
			followed = err
		}
	}()
	require.NoError(t, os.Truncate(path, 3*4096))
	for b, err := range l.Follow(t.Context(), 0) { // a snapshot reads the pages
		require.True(t, errdefs.IsDataLoss(err) || len(b.Ops) > 0, err)
		break
	}
	var err error
	for i := 0; i < 2000 && err == nil; i++ {
		_, err = l.Commit(t.Context(), state.Batch{Ops: []state.Op{{Key: fmt.Sprint("key-", i), Value: []byte("w")}}})
	}
	require.Error(t, err)
	_, err = l.Commit(t.Context(), state.Batch{Ops: []state.Op{{Key: "a"}}})
	require.True(t, errdefs.IsUnavailable(err), err)
	<-done
	require.Error(t, followed)
	require.NoError(t, l.Close())
}

// FuzzCheck patches a good file: the check refuses it, or finds what it found before.
func FuzzCheck(f *testing.F) {
	file, _ := sample(f, 40)
	want, err := check(bytes.NewReader(file), int64(len(file)))
	require.NoError(f, err)
	for page := range len(file) / 4096 {
		f.Add(page*4096, []byte{0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255}, len(file))
		f.Add(page*4096+4, bytes.Repeat([]byte{255}, 40), len(file))
		f.Add(page*4096+16, []byte("x"), page*4096)
	}
	f.Fuzz(func(t *testing.T, at int, patch []byte, size int) {
		damaged := bytes.Clone(file)
		if at >= 0 && at < len(file) {
			copy(damaged[at:], patch)
		}
		if size >= 0 && size < len(damaged) {
			damaged = damaged[:size]
		}
		if got, err := check(bytes.NewReader(damaged), int64(len(damaged))); err == nil && got != want {
			t.Errorf("found %+v, want %+v", got, want)
		}
	})
}
