package inspect_test

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/image/inspect"
)

func Example() {
	content := strings.NewReader("# Disk DescriptorFile\nversion=1\nRW 2048 FLAT \"/etc/shadow\" 0\n")
	_, err := inspect.Check(inspect.Raw, content, content.Size(), inspect.Limits{})
	fmt.Println(err)
	fmt.Println(errdefs.IsInvalidArgument(err))

	content = strings.NewReader(strings.Repeat("\x00", 4096))
	info, err := inspect.Check(inspect.Raw, content, content.Size(), inspect.Limits{})
	fmt.Println(info.VirtualBytes, err)
	// Output:
	// image declared raw is refused: its content is vmdk; declare the format that it has, or convert it with qemu-img convert -O raw
	// true
	// 4096 <nil>
}
