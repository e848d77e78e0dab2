//go:build linux

package nodevm

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	verdicts, code := parse("=== RUN   TestA\r\n    a_test.go:1: hm\r\n--- FAIL: TestA (0.10s)\r\n    --- PASS: TestA/b (0.00s)\r\nFAIL\r\nnodevm: ended with 1\r\n")
	require.Equal(t, []string{"--- FAIL: TestA (0.10s)", "    --- PASS: TestA/b (0.00s)"}, verdicts)
	require.Equal(t, "1", code)
	_, code = parse("=== RUN   TestA\r\n")
	require.Empty(t, code, "it has not ended")
}

// It runs itself in a machine.
func TestAMachineRunsTests(t *testing.T) {
	if !Inside() {
		Run(t, Config{Tests: "^TestAMachineRunsTests$"})
		return
	}
	modules, err := os.ReadFile("/proc/modules")
	require.NoError(t, err)
	require.Contains(t, string(modules), "8021q")
	cards, err := os.ReadDir("/sys/class/net")
	require.NoError(t, err)
	var names []string
	for _, card := range cards {
		names = append(names, card.Name())
	}
	require.Equal(t, "lo", strings.Join(names, " "), "no card: nothing in the machine reaches outside")
}
