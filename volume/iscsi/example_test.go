package iscsi_test

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/dewpoint-cloud/dewpoint/volume/iscsi"
)

// A volume is exported to one initiator, and to another one with the next attachment.
func Example() {
	file, err := os.CreateTemp("", "volume")
	if err != nil {
		panic(err)
	}
	defer os.Remove(file.Name())
	if err := file.Truncate(1 << 30); err != nil {
		panic(err)
	}
	file.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}

	server := iscsi.NewServer(iscsi.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- server.Serve(ctx, listener) }()

	store, err := iscsi.OpenFile(file.Name())
	if err != nil {
		panic(err)
	}
	defer store.Close()
	export := iscsi.Export{IQN: "iqn.2026-01.org.example:volume-1", Volume: "2f9cb2b5-7a5c-4c3a-9a53-0a3a5e6f0f01", Epoch: 7, Store: store,
		Initiators: []iscsi.Initiator{{IQN: "iqn.2026-01.org.example:host-3", User: "host-3", Secret: "a secret of one attachment"}}}
	fmt.Println(server.Export(ctx, export))

	next := export
	next.Epoch++
	next.Initiators = []iscsi.Initiator{{IQN: "iqn.2026-01.org.example:host-4", User: "host-4", Secret: "a secret of the next one"}}
	fmt.Println(server.Export(ctx, next))
	fmt.Println(server.Export(ctx, export))

	cancel()
	fmt.Println(<-ended)
	// Output:
	// <nil>
	// <nil>
	// export iqn.2026-01.org.example:volume-1: epoch 7 is over, there has been 8: failed precondition
	// <nil>
}
