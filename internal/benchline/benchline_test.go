package benchline

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMedian(t *testing.T) {
	require.Equal(t, 0.0, Median(nil))
	require.Equal(t, 2.0, Median([]float64{3, 1, 2}))
	require.Equal(t, 2.5, Median([]float64{4, 1, 2, 3}))
}

func TestReportAppendsALine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results.jsonl")
	t.Setenv("DEWPOINT_BENCH", file)
	testing.Benchmark(func(b *testing.B) {
		Report(b, Line{Name: "a", Ours: 2, Peer: 1, PeerName: "p", Ratio: 2, Unit: "1/s", Goal: ">= 1x", Met: true, Runs: 5})
	})
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var l Line
	require.NoError(t, json.Unmarshal(text[:len(text)/max(1, countLines(text))], &l))
	require.Equal(t, "a", l.Name)
	require.True(t, l.Met)
}

func countLines(text []byte) (n int) {
	for _, c := range text {
		if c == '\n' {
			n++
		}
	}
	return n
}
