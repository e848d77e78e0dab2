package fakevolume_test

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/volume/fakevolume"
)

// A store that loses its answer: the volume is made and the caller does not know. It asks again.
func Example() {
	dir, err := os.MkdirTemp("", "volumes")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	driver, err := fakevolume.New(fakevolume.Config{Dir: dir, TotalGiB: 10})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, id := context.Background(), "6e2b1d0e-5d66-4f4b-9a4b-0d1a6a3f2c11"
	driver.Inject(fakevolume.Fault{Method: fakevolume.MethodCreate, Call: 1, After: true, Err: errdefs.ErrUnavailable})

	fmt.Println(driver.Create(ctx, id, 3))
	fmt.Println(driver.Create(ctx, id, 3))
	fmt.Println(driver.Stats(ctx))
	// Output:
	// unavailable
	// <nil>
	// {10 7} <nil>
}
