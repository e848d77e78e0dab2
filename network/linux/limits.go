package linux

import (
	"fmt"
	"strings"

	"github.com/dewpoint-cloud/dewpoint/network"
)

// How much taps may get and send: a chain for each tap and direction that has a limit, with one rule, and a map that says whose it is. The
// kernel's bucket holds a second of the rate and the burst.
const (
	limitsIn, limitsOut         = "limits_in", "limits_out" // the maps
	limitChainIn, limitChainOut = "li-", "lo-"              // and the tap's name
	limitsPriority              = 320                       // after all that drops
)

// limitTable returns the chains that are always there.
func limitTable() []chain {
	name := func(text string, m meta) field { return field{text: text, place: ofMeta, meta: m, len: 16} }
	return []chain{
		{name: "limit_in", hook: "postrouting", priority: limitsPriority, rules: []rule{
			{"what guests may get", []match{group(outGroup, "meta oifgroup"), {fields: []field{name("oifname", outName)}, op: through, set: limitsIn}}, ""},
		}},
		{name: "limit_out", hook: "prerouting", priority: -280, rules: []rule{
			{"what guests may send", []match{group(inGroup, "meta iifgroup"), {fields: []field{name("iifname", inName)}, op: through, set: limitsOut}}, ""},
		}},
	}
}

// limitChains returns the chains of a tap's limits.
func limitChains(tap string, l network.Limits) (all []chain) {
	for _, c := range []struct {
		name string
		rate network.Rate
	}{{limitChainIn + tap, l.In}, {limitChainOut + tap, l.Out}} {
		if c.rate.Bytes != 0 {
			over := match{op: overRate, rate: c.rate.Bytes, burst: c.rate.BurstBytes()}
			all = append(all, chain{name: c.name, rules: []rule{{rateText(c.rate), []match{over}, "drop"}}})
		}
	}
	return all
}

// limitElements returns that the chains are the tap's.
func limitElements(tap string, l network.Limits) (all []element) {
	name := string(padded([]byte(tap), 16))
	if l.In.Bytes != 0 {
		all = append(all, element{limitsIn, name, limitChainIn + tap})
	}
	if l.Out.Bytes != 0 {
		all = append(all, element{limitsOut, name, limitChainOut + tap})
	}
	return all
}

// limitChainsToDrop returns the names of the chains that a tap had and is to have no more.
func limitChainsToDrop(tap string, had, wants network.Limits) (names []string) {
	if had.In.Bytes != 0 && wants.In.Bytes == 0 {
		names = append(names, limitChainIn+tap)
	}
	if had.Out.Bytes != 0 && wants.Out.Bytes == 0 {
		names = append(names, limitChainOut+tap)
	}
	return names
}

// rateText is a rate in comments and marks.
func rateText(r network.Rate) string { return fmt.Sprintf("%d+%d", r.Bytes, r.Burst) }

// parseRate understands what rateText wrote, and takes other text for no rate.
func parseRate(text string) (r network.Rate) {
	if n, err := fmt.Sscanf(text, "%d+%d", &r.Bytes, &r.Burst); n != 2 || err != nil {
		return network.Rate{}
	}
	return r
}

// parseLimit understands the comments of a tap's chain for a limit.
func parseLimit(comments []string) network.Rate {
	return parseRate(reason(strings.Join(comments, "")))
}
