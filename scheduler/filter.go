package scheduler

import "time"

// Candidate is a host as filters and weighers see it.
type Candidate struct {
	Host
	Used   Resources     // what its instances take
	Silent time.Duration // how long ago it last gave a sign of life
	Every  time.Duration // how often it gives one; 0: not known
	Skew   time.Duration // how far its clock is ahead of this process's; below 0: behind; 0 too where that is not known
}

// Up tells whether the host is alive: see [DownAfter].
func (c Candidate) Up() bool { return c.Silent < downAfter(c.Every) }

// Free returns what the host can still give away, with nothing oversold.
func (c Candidate) Free() Resources { return c.Total.Minus(c.Used) }

// Filter tells which hosts can take a request. Pass must depend on its arguments alone.
type Filter struct {
	Name string // says, in a refusal, what the host failed: "memory"
	Pass func(req Request, c Candidate) bool
}

// Weigher says how good a host is for a request: the host with the highest sum of Weight × Score is chosen. Score
// must depend on its arguments alone and should lie between 0 and 1.
type Weigher struct {
	Name   string
	Weight float64
	Score  func(req Request, c Candidate) float64
}

// Ratios is how often a resource may be given away. A host with 8 processors and a ratio of 16 runs instances with
// 128 virtual ones.
type Ratios struct {
	VCPUs  float64 // 0: 16
	Memory float64 // 0: 1.5
	Disk   float64 // 0: 1
}

// DefaultFilters returns the filters that every cloud wants: the host is up, its clock is right, it is enabled, is the one asked for, is
// in the zone, and has the memory, processors and disk.
func DefaultFilters(r Ratios) []Filter {
	if r.VCPUs == 0 {
		r.VCPUs = 16
	}
	if r.Memory == 0 {
		r.Memory = 1.5
	}
	if r.Disk == 0 {
		r.Disk = 1
	}
	fits := func(total, used, want int, ratio float64) bool {
		return float64(used+want) <= float64(total)*ratio
	}
	return []Filter{
		{"up", func(_ Request, c Candidate) bool { return c.Up() }},
		{"clock", func(_ Request, c Candidate) bool { return !c.WrongClock() }},
		{"enabled", func(_ Request, c Candidate) bool { return !c.Disabled }},
		{"host", func(req Request, c Candidate) bool { return req.Host == "" || req.Host == c.ID || req.Host == c.Name }},
		{"availability zone", func(req Request, c Candidate) bool { return req.Zone == "" || req.Zone == c.Zone }},
		{"memory", func(req Request, c Candidate) bool {
			return fits(c.Total.MemoryMiB, c.Used.MemoryMiB, req.MemoryMiB, r.Memory)
		}},
		{"cores", func(req Request, c Candidate) bool { return fits(c.Total.VCPUs, c.Used.VCPUs, req.VCPUs, r.VCPUs) }},
		{"disk", func(req Request, c Candidate) bool { return fits(c.Total.DiskGiB, c.Used.DiskGiB, req.DiskGiB, r.Disk) }},
	}
}

// DefaultWeighers prefers the host with the largest share of its memory free, so that instances spread out.
func DefaultWeighers() []Weigher {
	return []Weigher{{"free memory", 1, func(_ Request, c Candidate) float64 {
		if c.Total.MemoryMiB == 0 {
			return 0
		}
		return float64(c.Free().MemoryMiB) / float64(c.Total.MemoryMiB)
	}}}
}
