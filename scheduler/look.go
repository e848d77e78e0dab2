package scheduler

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// look is one call's search for hosts.
type look struct {
	cfg   Config
	r     state.Reader
	req   Request
	now   time.Time
	given map[string]Resources // by this call, which the store does not know yet

	// within is every host of the zone, or the host, that is asked for, once they were all looked at, with what this call
	// has given away.
	within []Candidate
}

// best returns the host for the next instance, nil if none will do. What is given away is to be added to its Used.
func (l *look) best() *Candidate {
	if l.within == nil {
		some, whole := l.sample()
		if !whole {
			if c := l.choose(some); c != nil {
				return c
			}
			some = l.candidates(l.hosts(l.req.Zone))
		}
		l.within = some // so that the next instance of this call costs no reading
	}
	return l.choose(l.within)
}

// sample returns some of the hosts that the request could go to, at random, and whether they are all of those.
func (l *look) sample() (some []Candidate, whole bool) {
	if l.req.Host != "" {
		h, err := findHost(l.r, l.req.Host)
		if err != nil {
			return []Candidate{}, true
		}
		return l.candidates([]Host{h}), true
	}
	few := 4 * l.cfg.Sample
	var found []Host
	for h := range l.each(l.req.Zone) {
		if found = append(found, h); len(found) > few {
			return l.candidates(l.lots()), false
		}
	}
	return l.candidates(found), true
}

// findHost returns a host by its id or its name.
func findHost(r state.Reader, idOrName string) (Host, error) {
	if h, err := Hosts.Get(r, idOrName); err == nil {
		return h, nil
	}
	if h, err := Hosts.One(r, "name", idOrName); err == nil {
		return h, nil
	}
	return Host{}, fmt.Errorf("scheduler: host %.64q: %w", idOrName, errdefs.ErrNotFound)
}

// lots returns a sample of the zone. It takes whole lots, of which each draw is as likely as any other: so each host is,
// whatever ids and names hosts have. Lots that follow each other must not always be drawn together: hosts with few
// neighbours would get more than others.
func (l *look) lots() []Host {
	var found []Host
	first, stride := rand.IntN(lotCount), 2*rand.IntN(lotCount/2)+1 // odd, so that it passes all lots
	for i := 0; i < lotCount && len(found) < l.cfg.Sample; i++ {
		for h := range Hosts.By(l.r, "lot", lotKey(l.req.Zone, (first+i*stride)%lotCount)) {
			found = append(found, h)
		}
	}
	rand.Shuffle(len(found), func(i, j int) { found[i], found[j] = found[j], found[i] })
	return found[:min(len(found), l.cfg.Sample)]
}

// each yields the hosts of a zone, or with "" of all.
func (l *look) each(zone string) func(func(Host) bool) {
	if zone == "" {
		return Hosts.All(l.r)
	}
	return Hosts.By(l.r, "zone", zone)
}

func (l *look) hosts(zone string) []Host {
	var all []Host
	for h := range l.each(zone) {
		all = append(all, h)
	}
	return all
}

func (l *look) candidates(hosts []Host) []Candidate {
	all := make([]Candidate, len(hosts))
	for i, h := range hosts {
		all[i] = Candidate{Host: h, Used: l.cfg.Used(l.r, h.ID).Plus(l.given[h.ID])}
		all[i].hear(l.cfg.Members, l.r, l.now)
	}
	return all
}

// choose returns the candidate that passes all filters and weighs most; of equals, any.
func (l *look) choose(candidates []Candidate) *Candidate {
	var chosen *Candidate
	top, ties := 0.0, 0
	for i := range candidates {
		c := &candidates[i]
		if l.failed(c) != "" {
			continue
		}
		score := 0.0
		for _, w := range l.cfg.Weighers {
			score += w.Weight * w.Score(l.req, *c)
		}
		switch {
		case chosen == nil || score > top:
			chosen, top, ties = c, score, 1
		case score == top:
			if ties++; rand.IntN(ties) == 0 {
				chosen = c
			}
		}
	}
	return chosen
}

// failed returns the name of the first filter that a host does not pass, "" if it passes all.
func (l *look) failed(c *Candidate) string {
	if l.req.Except != "" && c.ID == l.req.Except {
		return "another host"
	}
	for _, filter := range l.cfg.Filters {
		if !filter.Pass(l.req, *c) {
			return filter.Name
		}
	}
	return ""
}

// refusal says why no host of the cloud will do.
func (l *look) refusal(wanted, placed int) *Unplaced {
	all := l.candidates(l.hosts(""))
	u := &Unplaced{Wanted: wanted, Placed: placed, Hosts: len(all), Failed: map[string]int{}}
	for i := range all {
		name := l.failed(&all[i])
		if name == "" { // it was not looked at, and the filters are not those that say so
			name = "host or availability zone"
		}
		u.Failed[name]++
	}
	return u
}

// lotCount is how many lots hosts are put into, so that some can be drawn; a power of two.
const lotCount = 256

// lots files a host under its lot in the cloud, and under that in its zone.
func (h Host) lots() []string {
	sum := fnv.New32a()
	sum.Write([]byte(h.ID))
	lot := int(sum.Sum32() % lotCount)
	if h.Zone == "" {
		return []string{lotKey("", lot)}
	}
	return []string{lotKey("", lot), lotKey(h.Zone, lot)}
}

func lotKey(zone string, lot int) string { return strconv.Itoa(lot) + "/" + zone }
