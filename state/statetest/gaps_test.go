package statetest

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

// gappy makes a log that counts one that leaves out revisions: only every tenth is used, and the first is 17.
func gappy(log state.Log) state.Log {
	out := func(rev state.Revision) state.Revision {
		if rev == 0 {
			return 0
		}
		return 10*rev + 7
	}
	in := func(rev state.Revision) state.Revision {
		if rev == 0 || (rev >= 17 && rev%10 == 7) {
			return rev / 10
		}
		return unreached // there is no such batch
	}
	return broken{Log: log, commit: func(ctx context.Context, b state.Batch) (state.Revision, error) {
		b.Guards = append([]state.Guard(nil), b.Guards...)
		for i, g := range b.Guards {
			b.Guards[i].Rev = in(g.Rev)
		}
		rev, err := log.Commit(ctx, b)
		return out(rev), err
	}, follow: func(ctx context.Context, from state.Revision) iter.Seq2[state.Batch, error] {
		return func(yield func(state.Batch, error) bool) {
			for b, err := range log.Follow(ctx, in(from)) {
				b.Rev = out(b.Rev)
				b.Ops = append([]state.Op(nil), b.Ops...)
				for i := range b.Ops {
					b.Ops[i].Rev = out(b.Ops[i].Rev)
				}
				if !yield(b, err) {
					return
				}
			}
		}
	}}
}

func withGaps(s Subject) Subject {
	s.Log, s.Gaps = gappy(s.Log), true
	if reopen := s.Reopen; reopen != nil {
		s.Reopen = func() (state.Log, error) {
			log, err := reopen()
			if err != nil {
				return nil, err
			}
			return gappy(log), nil
		}
	}
	return s
}

func TestALogWithGaps(t *testing.T) {
	TestLog(t, func(string) (Subject, error) {
		return withGaps(Subject{Log: memstate.New(memstate.Config{History: 400})}), nil
	})
}

// The suite finds the same faults in logs that leave out revisions.
func TestBrokenLogsWithGapsAreFound(t *testing.T) {
	for name, fault := range faults(400) {
		switch name {
		case "yields what it keeps", // gappy copies what it yields
			"a follower that is behind skips to now without a snapshot": // nobody is behind
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var found []string
			for _, r := range rows() {
				if err := run(func(string) (Subject, error) { return withGaps(fault()), nil }, r, 100*time.Millisecond); err != nil {
					found = append(found, fmt.Sprintf("%s: %v", r.name, err))
				}
			}
			require.NotEmpty(t, found)
			t.Log(found)
		})
	}
}
