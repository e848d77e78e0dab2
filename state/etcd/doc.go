// Package etcd is a state.Log on etcd v3, for a cloud whose controllers run on several hosts. Each opens a log of its own on the
// same prefix; what one commits, all follow.
//
//	log, err := etcd.Open(ctx, etcd.Config{Endpoints: []string{"https://10.0.0.1:2379", "https://10.0.0.2:2379"}, TLS: tls})
//	…
//	defer log.Close()
//	store, err := state.Open(ctx, state.Config{Log: log, Schema: schema})
//
// It is tried with etcd 3.4 and 3.7. Package etcdserver runs a member in the host program.
//
// # Commits
//
// A batch is one transaction: a comparison of ModRevision for each guard, a request for each operation, and two more. One writes
// the key "head", so that each batch has a revision even if it changed nothing, and a follower knows where it ends. The other writes
// an id to one of the few keys that this log reuses for it, its slots, under the condition that the slot is as this log left it.
//
// When the answer to a transaction is lost (the connection breaks, a leader changes, a member is killed) the log writes the slot
// under the same condition. If that succeeds, the batch is not in the log and can't come late either, so it is tried again; if not,
// the slot tells whether it was written, and at which revision. Only when etcd can't be asked that, for Config.Timeout, is the
// error state.ErrUnknown. The slots are under a lease: they go when the log is closed, or five minutes after its process is gone.
//
// # Limits
//
// etcd refuses a transaction with more than 128 operations, or of more than 1.5 MiB. A batch that would be over that (126 operations,
// 127 guards, about 1.4 MiB of keys and values, a key of 32 KiB) is refused before it is sent, as an invalid argument that names the
// limit. A state.Store makes its groups of updates small enough by itself; a single update that is too large fails. Where the servers
// allow more (--max-txn-ops, --max-request-bytes), say so in Config.MaxOps and Config.MaxBytes.
//
// # Followers
//
// A follower reads all keys at one revision, in pages, and then watches from the next. What it has not consumed waits in memory, up
// to Config.History batches and 64 MiB; beyond that, or if etcd has compacted what a follower asks for, it is given a snapshot again.
// Revisions are etcd's, so others that use the same etcd take some of them. A value that somebody writes by hand below "k/" reaches
// followers with the batch after it. Before etcd is restored from a copy, stop all programs that use it, and have the restore raise
// the revision (etcdutl snapshot restore --bump-revision), because revisions that come twice deceive those that saw the first.
//
// # Compaction
//
// etcd keeps old revisions until somebody compacts it, and fills up otherwise. Run it with --auto-compaction-mode=periodic and
// --auto-compaction-retention=1h or so, as etcdserver does; or set Config.Compact if etcd has no other use. The files shrink only with
// etcdctl defrag. Nothing here depends on what is kept: a follower that is too late is given a snapshot.
//
// # Trouble
//
// Wrong credentials, a certificate that either side does not take, and a prefix that the user has no role for are errors at once, with
// the classes that [Open] names. A user needs read and write on the prefix (etcdctl role grant-permission R --prefix=true readwrite
// dewpoint/), and the root role for Config.Compact. While etcd can't be reached, Open and followers wait and say so; commits end
// after Config.Timeout.
//
// # kine
//
// kine is etcd's protocol on PostgreSQL, MySQL and SQLite. It is made for Kubernetes and takes only the transactions Kubernetes makes, of
// a single key. With Config.SingleKey each batch is one: an entry of a journal that is created under the next number, if nobody else was
// faster, after its guards were checked against all entries before. So each log keeps the whole state in memory, beside the store that
// is above it, and one after the other commits, which is what a store does anyway. The entry is then read back, for kine says of an insert that
// its database failed that it was done. When the journal has grown by as much as the state takes, and by 1024 entries, a log
// writes the state beside it, as a snapshot in pieces, and removes what is in that, up to the last 1024 entries. The limits are Config.MaxBytes
// and what state.Limits has for all.
//
// It is tried with kine 0.17.5 on PostgreSQL 15, killed in turns, compacting, two of them on one database; and by hand on MariaDB 10.11. To run it:
//
//	CREATE USER kine PASSWORD '…';
//	CREATE DATABASE kine OWNER kine;
//
//	kine --endpoint 'postgres://kine:…@db.example/kine?sslmode=verify-full' --ca-file db-ca.pem --compact-interval 5m
//	     --server-cert-file kine.crt --server-key-file kine.key --trusted-ca-file ca.pem --listen-address 10.0.0.1:2379 --metrics-bind-address 0
//
// For MySQL the database is 'mysql://kine:…@tcp(db.example:3306)/kine'; a prefix has at most 500 bytes there. kine makes its table, and
// the database too if its user may. Several kine may serve one database, on a host each. What is written through one is seen at the others after
// --datastore-poll-interval, one second if it is not set; guards hold at once. Without --compact-interval the table grows for ever.
// kine has no users: whoever has a certificate of --trusted-ca-file can read and write all. What is durable is for the database to
// say: leave PostgreSQL's fsync and synchronous_commit, and MySQL's innodb_flush_log_at_trx_commit, as they are; and let kine
// write to the primary only, and read from no other.
//
// # Keys
//
// This is format 1. Below the prefix, by default "dewpoint/", are "head", with the value "1", followed by "-" and a key if the batch
// only removed keys; "k/" and a record's key, with its value as it is; and "c/", a lease in hexadecimal, "/" and a number: a slot, with
// the id of the commit that wrote it last, or "-" and an id that was given up. A head with another value is refused.
//
// With Config.SingleKey the head is "journal-1" and never changes. Beside it are "j/" and a number of 20 digits: an entry, of which number 0 has no
// operations; "p/", the number of an entry, an id and a number: a piece of a snapshot; and "s/" and the number of an entry: that
// the pieces of the id in it are the state at that entry. All are written once, and removed; none is changed.
package etcd
