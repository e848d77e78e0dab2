package bolt

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// writerPath names the environment variable that makes this test's program a writer to a file, to be killed.
const writerPath = "DEWPOINT_BOLT_WRITER"

const writers = 6

// writeUntilKilled has several writers each count up in three keys of its own, and says after each commit how far it is.
func writeUntilKilled(path string) {
	l, err := Open(Config{Path: path})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	have := map[string]state.Op{}
	for b := range l.Follow(context.Background(), 0) {
		for _, op := range b.Ops {
			have[op.Key] = op
		}
		break
	}
	for w := range writers {
		go func() {
			rng := rand.New(rand.NewPCG(uint64(w), uint64(time.Now().UnixNano())))
			n, rev := 0, state.Revision(0)
			if op, ok := have[fmt.Sprint("a/", w)]; ok {
				_, _ = fmt.Sscan(string(op.Value), &n)
				rev = op.Rev
			}
			for {
				n++
				value := []byte(fmt.Sprint(n, " ", strings.Repeat("x", rng.IntN(2000))))
				b := state.Batch{Guards: []state.Guard{{Key: fmt.Sprint("a/", w), Rev: rev}}, Ops: []state.Op{
					{Key: fmt.Sprint("a/", w), Value: value}, {Key: fmt.Sprint("b/", w), Value: value}, {Key: fmt.Sprintf("c/%d/%d", w, n%100), Value: value},
					{Key: fmt.Sprintf("c/%d/%d", w, (n+50)%100), Delete: true}}}
				var err error
				if rev, err = l.Commit(context.Background(), b); err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				fmt.Printf("%d %d %d\n", w, n, rev)
			}
		}()
	}
	select {}
}

// killed runs a writer, kills it some time after it said something, and returns how far each of its writers said it was.
func killed(t *testing.T, path string, after time.Duration) (said [writers]int, last state.Revision) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerPath+"="+path)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	var timer *time.Timer
	for lines.Scan() {
		if timer == nil {
			timer = time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
		var w, n int
		var rev state.Revision
		if _, err := fmt.Sscan(lines.Text(), &w, &n, &rev); err != nil {
			t.Errorf("the writer said %q", lines.Text())
			break
		}
		said[w], last = n, max(last, rev)
	}
	_ = cmd.Process.Kill()
	require.Error(t, cmd.Wait()) // killed
	return said, last
}

// A process that is killed at any instant leaves all that was committed, and nothing by half.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	rng := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	total := 0
	for round := range 10 {
		said, last := killed(t, path, time.Duration(rng.IntN(120))*time.Millisecond)
		l := open(t, path)
		have := map[string]state.Op{}
		var rev state.Revision
		for b, err := range l.Follow(t.Context(), 0) {
			require.NoError(t, err)
			rev = b.Rev
			for _, op := range b.Ops {
				have[op.Key] = op
			}
			break
		}
		require.GreaterOrEqual(t, rev, last)
		for w, n := range said {
			total += n
			a, b := have[fmt.Sprint("a/", w)], have[fmt.Sprint("b/", w)]
			is := 0
			if a.Key != "" {
				_, err := fmt.Sscan(string(a.Value), &is)
				require.NoError(t, err)
				c := have[fmt.Sprintf("c/%d/%d", w, is%100)]
				require.Equal(t, string(a.Value), string(c.Value))
				require.Equal(t, a.Rev, c.Rev)
				require.NotContains(t, have, fmt.Sprintf("c/%d/%d", w, (is+50)%100))
			}
			require.Equal(t, string(a.Value), string(b.Value))
			require.Equal(t, a.Rev, b.Rev)
			if n > 0 && (is < n || is > n+1) {
				t.Errorf("round %d: writer %d said %d and left %d", round, w, n, is)
			}
		}
		require.NoError(t, l.Close())
	}
	require.NotZero(t, total)
}

// A process that is killed while it makes the file leaves none, or one that opens.
func TestKillWhileTheFileIsMade(t *testing.T) {
	for range 12 {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), writerPath+"="+filepath.Join(dir, "db"))
		require.NoError(t, cmd.Start())
		until := time.Now().Add(5 * time.Second)
		for names, _ := os.ReadDir(dir); len(names) == 0 && time.Now().Before(until); names, _ = os.ReadDir(dir) {
			time.Sleep(time.Millisecond) // until it has begun
		}
		time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		l := open(t, filepath.Join(dir, "db"))
		put(t, l, "z", "1")
		require.NoError(t, l.Close())
	}
}
