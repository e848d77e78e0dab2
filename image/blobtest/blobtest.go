// Package blobtest checks that an implementation of image.Blobs keeps the contract that is written above that interface.
package blobtest

import (
	"testing"

	"github.com/dewpoint-cloud/dewpoint/image"
)

// Test runs every row of the suite on a new, empty store that open returns. Each row is a sentence of the contract,
// and the name of its subtest.
//
//	func TestFiles(t *testing.T) {
//		blobtest.Test(t, func(t *testing.T) image.Blobs { … })
//	}
func Test(t *testing.T, open func(t *testing.T) image.Blobs) {
	for _, row := range rows() {
		t.Run(row.rule, func(t *testing.T) {
			if err := row.check(t.Context(), open(t)); err != nil {
				t.Errorf("the rule %q is broken: %v", row.rule, err)
			}
		})
	}
}
