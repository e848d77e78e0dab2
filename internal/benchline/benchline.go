// Package benchline writes what a benchmark measured: for people to the benchmark's output, and as a line of JSON to the
// file that DEWPOINT_BENCH names, as `make bench` does.
//
// A benchmark measures ours and its peer in turns, several times in one run, so that both meet the same machine; what is
// compared is the median. A rate is better when it is higher, a duration when it is lower: Ratio is always "how many times
// better than the peer".
package benchline

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"
)

// Line is one figure beside its peer.
type Line struct {
	Name     string  `json:"name"`
	Ours     float64 `json:"ours"`
	Peer     float64 `json:"peer"`
	PeerName string  `json:"peer_name"`       // or the physical limit that stands in for a peer
	Ratio    float64 `json:"ratio"`           // ours to the peer's, above 1 where ours is better
	Unit     string  `json:"unit"`            // of Ours and Peer: "1/s", "ms", "B"
	Goal     string  `json:"goal"`            // in words: ">= 10x", "<= 1.05x"
	Met      bool    `json:"met"`             // whether the goal was met
	CPU      float64 `json:"cpu_us_per_op"`   // processor time of our process for one operation, in microseconds; 0: not measured
	Runs     int     `json:"runs"`            // on each side
	Setup    string  `json:"setup,omitempty"` // what was measured, in words
}

// Report writes the line.
func Report(b *testing.B, l Line) {
	b.Helper()
	met := "not met"
	if l.Met {
		met = "met"
	}
	fmt.Printf("%-44s ours %12.4g %-5s  %s %12.4g %-5s  ratio %8.3g  goal %s: %s  cpu %.4g us/op  (median of %d)\n",
		l.Name, l.Ours, l.Unit, l.PeerName, l.Peer, l.Unit, l.Ratio, l.Goal, met, l.CPU, l.Runs)
	path := os.Getenv("DEWPOINT_BENCH")
	if path == "" {
		return
	}
	text, err := json.Marshal(l)
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(append(text, '\n')); err != nil {
		b.Fatal(err)
	}
}

// Median returns the middle of the values, which it sorts.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	if n := len(values); n%2 == 0 {
		return (values[n/2-1] + values[n/2]) / 2
	}
	return values[len(values)/2]
}

// CPU returns the processor time that this process has used so far, user and system.
func CPU() time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		return 0
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}
