// Package etcdserver runs a member of etcd inside the host program, so that a small cloud needs no etcd beside it: alone, or one on
// each of three hosts. It is etcd as it is, with its files and its protocol; etcdctl and state/etcd speak to it.
//
//	s, err := etcdserver.Start(etcdserver.Config{Dir: "/var/lib/cloud/etcd", Client: "127.0.0.1:2379"})
//	…
//	defer s.Close()
//	if err := s.Ready(ctx); err != nil { … }
//	log, err := etcd.Open(ctx, etcd.Config{Endpoints: s.Endpoints()})
//
// # Durability
//
// What a client was told is committed is flushed to the disks of a majority of the members. etcd's unsafe options are off and can't
// be set from here. A member whose disk fails in the middle of a write can't go on, and must not answer any more: it panics, as
// etcd by itself would end its process.
//
// # Security
//
// Anyone who reaches a member's ports can read and change all that is in it, so without TLS it listens on loopback only, unless
// Config.Plaintext says otherwise. With TLS, clients and members must show a certificate of the CA that is named.
package etcdserver
