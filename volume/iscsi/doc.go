// Package iscsi exports volumes to initiators over iSCSI, RFC 7143, by a target inside this process.
//
//	initiator ── TCP ──► Server ── session ──► Export (IQN, LUN, epoch) ──► Store (a file or a block device)
//
// A [Target] is what the agent of a host uses: one [Export] for each attached volume, under an IQN of its own, for the initiators it
// names, each by its IQN and its CHAP secret. [Server] is the Target of this package: its transport is its own, its SCSI layer is gotgt's where
// that is sound.
//
//	server := iscsi.NewServer(iscsi.Config{})
//	go server.Serve(ctx, listener)
//	store, err := iscsi.OpenFile("/dev/vg/volume")
//	err = server.Export(ctx, iscsi.Export{IQN: "iqn.2026-01.org.example:volume-1", Volume: id, Epoch: 7, Store: store,
//		Initiators: []iscsi.Initiator{{IQN: "iqn.2026-01.org.example:host-3", User: "host-3", Secret: secret}}})
//
// # Fencing
//
// An export has an epoch, one for each attachment. Export with a newer epoch ends every session of the older one, waits until nothing that
// they had begun can touch the volume any more, and only then lets the new initiators in. An older epoch is refused for as long as the
// server lives. So of two instances that both believe to have a volume only one can write it, whatever has crashed.
//
// # What a session can do
//
// Login with CHAP (MD5 and SHA-256), one way or mutual; discovery; immediate and unsolicited data; digests; task management; up to 128 commands at
// once, which run in any order. Not supported: several connections in one session, error recovery above level 0, ordered commands (an initiator that
// wants an order waits for answers), bidirectional commands, TARGET COLD RESET, registrations that outlive the process or are moved, EXTENDED
// COPY, SANITIZE, WRITE ATOMIC, changes of the write cache.
//
// A logical block has 512 bytes. What is unmapped reads as zeros, and so does what WRITE SAME with UNMAP was done to, whatever its data was.
//
// Data that was written is in the host's page cache until a SYNCHRONIZE CACHE, or a write with FUA, has returned; the caching mode page says so.
package iscsi
