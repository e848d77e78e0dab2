package etcd

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/etcd/etcdserver"
	"github.com/dewpoint-cloud/dewpoint/state/statetest"
)

// conforms runs the suite, each log below a prefix of its own.
func conforms(t *testing.T, urls []string) {
	var n atomic.Int64
	statetest.TestLog(t, func(string) (statetest.Subject, error) {
		prefix := fmt.Sprintf("suite/%d/", n.Add(1))
		reopen := func() (state.Log, error) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			return Open(ctx, Config{Endpoints: urls, Prefix: prefix})
		}
		log, err := reopen()
		return statetest.Subject{Log: log, Reopen: reopen, Gaps: true}, err
	})
}

func TestLogOnAnEmbeddedMember(t *testing.T) {
	t.Parallel()
	conforms(t, embedded(t, etcdserver.Config{}))
}

func TestLogOnEtcdOfTheSystem(t *testing.T) {
	t.Parallel()
	conforms(t, endpoints(processes(t, 1)))
}
