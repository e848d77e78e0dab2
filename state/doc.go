// Package state keeps a cloud's records: typed tables in memory, indexed, over an ordered and durable [Log].
//
//	         Update(fn)                         View(fn), Watch
//	             │                                   ▲
//	fn runs on a private copy                 indexed tables (go-memdb)
//	             │ operations + guards               ▲ the one apply path
//	             ▼                                   │
//	         Log.Commit ───────────────────────► Log.Follow
//
// A [Store] never changes its tables directly. Update runs its function on a private copy, turns what it changed into
// operations and what it read into guards, drops the copy, commits to the log, and returns when the followed log has
// applied them. So there is one way in for a local change, a change made by another process, and what is read back after a
// restart, and memory, bbolt and etcd differ in the Log alone.
//
// # Records
//
// A record is a plain struct, stored as JSON. The package that owns it declares its [Table] once:
//
//	var Machines = state.NewTable("machine", func(m Machine) string { return m.ID },
//		state.Index("host", func(m Machine) []string { return []string{m.Host} }),
//		state.Unique("name", func(m Machine) []string { return []string{m.Project + "/" + m.Name} }))
//
// Records are values: what a caller gets is a copy, and what it puts is copied. A record type that holds slices, maps
// or pointers has a method Clone, and NewTable insists on it.
//
// # What two writers can't do
//
// Every record that an Update read through its [Tx] is guarded by its revision, so a decision made on data that has
// changed is refused by the log and made again. A [Unique] value is a key of its own in the log. A [Sum] (what a
// host has given away, what a project uses) is derived from the records by the apply path, never counted on the side,
// and guarded like a record. What a decision may do without (the hundred hosts that were looked at and not chosen) is read
// through [Tx.Unguarded].
package state
