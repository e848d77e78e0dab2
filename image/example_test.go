package image_test

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/dewpoint-cloud/dewpoint/auth"
	"github.com/dewpoint-cloud/dewpoint/image"
	"github.com/dewpoint-cloud/dewpoint/state"
	"github.com/dewpoint-cloud/dewpoint/state/memstate"
)

// An image is registered and uploaded in one call, and looked at before anyone can use it.
func Example() {
	dir, err := os.MkdirTemp("", "images")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := auth.NewContext(context.Background(), auth.Caller{UserID: "ann", ProjectID: "weather", Roles: []string{auth.SysAdmin}})

	records := memstate.New(memstate.Config{})
	defer records.Close()
	store, err := state.Open(ctx, state.Config{Log: records, Schema: append(auth.Schema(), image.Images)})
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	blobs, err := image.NewFiles(filepath.Join(dir, "images"))
	if err != nil {
		log.Fatal(err)
	}
	defer blobs.Close()
	service, err := image.NewService(image.ServiceConfig{Store: store, Blobs: blobs, Policy: auth.DefaultPolicy()})
	if err != nil {
		log.Fatal(err)
	}

	content := bytes.NewReader(make([]byte, 1<<20))
	img, err := service.Create(ctx, image.Spec{Name: "empty disk", Format: image.Raw}, content)
	fmt.Println(img.Status, img.VirtualBytes, err)

	_, err = service.Create(ctx, image.Spec{Name: "no disk", Format: image.QCOW2}, bytes.NewReader(make([]byte, 1<<20)))
	fmt.Println(err)
	// Output:
	// active 1048576 <nil>
	// image declared qcow2 is refused: its content is not qcow2 but raw or unknown; declare the format that it has, or convert it with qemu-img convert -O qcow2
}

// On a node, the boot files are made before the disk, and what is there already is enough to start again.
func ExampleCache() {
	prepare := func(ctx context.Context, c *image.Cache, instanceID string, disk, kernel image.Image) (image.InstanceFiles, error) {
		if files, err := c.Files(ctx, instanceID); err == nil {
			return files, nil
		}
		if _, err := c.BootFile(ctx, instanceID, kernel); err != nil {
			return image.InstanceFiles{}, err
		}
		if _, err := c.Disk(ctx, instanceID, disk, 20); err != nil {
			return image.InstanceFiles{}, err
		}
		return c.Files(ctx, instanceID)
	}
	_ = prepare
}
