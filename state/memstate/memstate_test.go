package memstate_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/dewpoint-cloud/dewpoint/state/memstate"
	"github.com/dewpoint-cloud/dewpoint/state/statetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLog(t *testing.T) {
	statetest.TestLog(t, func(string) (statetest.Subject, error) {
		return statetest.Subject{Log: memstate.New(memstate.Config{History: 8})}, nil
	})
}
