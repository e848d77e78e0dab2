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
// kine (etcd's protocol on PostgreSQL, MySQL or SQLite) is made for Kubernetes and takes only the transactions Kubernetes
// makes: one comparison, and one put or removal of the same key. A batch here needs several keys to change together, so on kine Open
// and Follow work and Commit is refused, as not implemented, and nothing is written. Its other differences would matter too: a lease
// is only a time to live in seconds for each key, and it compacts by itself, after minutes. A cloud with its records in PostgreSQL
// or MySQL needs a log written for that.
//
// # Keys
//
// This is format 1. Below the prefix, by default "dewpoint/", are "head", with the value "1", followed by "-" and a key if the batch
// only removed keys; "k/" and a record's key, with its value as it is; and "c/", a lease in hexadecimal, "/" and a number: a slot, with
// the id of the commit that wrote it last, or "-" and an id that was given up. A head with another value is refused.
package etcd
