package scheduler

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDefaultFilters(t *testing.T) {
	roomy := Candidate{Host: Host{ID: "id", Name: "name", Zone: "a", Total: Resources{4, 1000, 100}}}
	with := func(change func(*Candidate)) Candidate { c := roomy; change(&c); return c }
	ask := func(vcpus, memory, disk int) Request { return Request{Resources: Resources{vcpus, memory, disk}} }
	for _, row := range []struct {
		name   string
		req    Request
		c      Candidate
		ratios Ratios
		fails  string
	}{
		{name: "nothing asked", c: roomy},
		{name: "heard of just in time", c: with(func(c *Candidate) { c.Silent = DownAfter - 1 })},
		{name: "gives a sign of life every 20 s", c: with(func(c *Candidate) { c.Silent, c.Every = 2*DownAfter-1, 20*time.Second })},
		{name: "silent for six signs of life", c: with(func(c *Candidate) { c.Silent, c.Every = 2*DownAfter, 20*time.Second }), fails: "up"},
		{name: "silent", c: with(func(c *Candidate) { c.Silent = DownAfter }), fails: "up"},
		{name: "silent for ever", c: with(func(c *Candidate) { c.Silent = 1000 * time.Hour }), fails: "up"},
		{name: "disabled", c: with(func(c *Candidate) { c.Disabled = true }), fails: "enabled"},
		{name: "by id", req: Request{Host: "id"}, c: roomy},
		{name: "by name", req: Request{Host: "name"}, c: roomy},
		{name: "another host", req: Request{Host: "Name"}, c: roomy, fails: "host"},
		{name: "its zone", req: Request{Zone: "a"}, c: roomy},
		{name: "another zone", req: Request{Zone: "b"}, c: roomy, fails: "availability zone"},
		{name: "memory to the last byte, oversold 1.5 times", req: ask(0, 1500, 0), c: roomy},
		{name: "memory and one more", req: ask(0, 1501, 0), c: roomy, fails: "memory"},
		{name: "memory beside others", req: ask(0, 501, 0), c: with(func(c *Candidate) { c.Used.MemoryMiB = 1000 }), fails: "memory"},
		{name: "cores, 16 times", req: ask(64, 0, 0), c: roomy},
		{name: "cores and one more", req: ask(65, 0, 0), c: roomy, fails: "cores"},
		{name: "disk, once", req: ask(0, 0, 100), c: roomy},
		{name: "disk and one more", req: ask(0, 0, 101), c: roomy, fails: "disk"},
		{name: "no overselling", req: ask(5, 0, 0), c: roomy, ratios: Ratios{VCPUs: 1}, fails: "cores"},
		{name: "memory by another ratio", req: ask(0, 1001, 0), c: roomy, ratios: Ratios{Memory: 1}, fails: "memory"},
		{name: "disk by another ratio", req: ask(0, 0, 200), c: roomy, ratios: Ratios{Disk: 2}},
		{name: "less than nothing is free", req: ask(0, 1, 0), c: with(func(c *Candidate) { c.Used.MemoryMiB = 2000 }), fails: "memory"},
		{name: "nothing asked of a full host", c: with(func(c *Candidate) { c.Used = Resources{64, 1500, 100} })},
	} {
		l := look{cfg: Config{Filters: DefaultFilters(row.ratios)}, req: row.req}
		require.Equal(t, row.fails, l.failed(&row.c), row.name)
	}
}

func TestDefaultWeigher(t *testing.T) {
	score := func(total, used int) float64 {
		return DefaultWeighers()[0].Score(Request{}, Candidate{Host: Host{Total: Resources{MemoryMiB: total}}, Used: Resources{MemoryMiB: used}})
	}
	require.Equal(t, 1.0, score(1000, 0))
	require.Equal(t, 0.25, score(1000, 750))
	require.Zero(t, score(0, 0), "a host without memory is no number either")
	require.Greater(t, score(1000, 100), score(100, 50))
}
