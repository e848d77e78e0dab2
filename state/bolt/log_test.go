package bolt

import (
	"path/filepath"
	"testing"

	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/statetest"
)

func TestLog(t *testing.T) {
	statetest.TestLog(t, func(dir string) (statetest.Subject, error) {
		open := func() (state.Log, error) { return Open(Config{Path: filepath.Join(dir, "db"), History: 8}) }
		log, err := open()
		return statetest.Subject{Log: log, Reopen: open}, err
	})
}
