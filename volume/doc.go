// Package volume is block storage that outlives the instances it is attached to.
//
// Callers ask the [Service]: it records volumes and snapshots, each on a host with room for it, and what is to be done with them. The
// [Agent] of that host does it, with a [Driver], which makes the devices (volume/file, volume/lvm), and an [Exporter], which lets
// other hosts reach them (volume/iscsi).
//
//	         Service.Create                Service.Attach, Reserve             Confirm
//	(nothing) ─────────► creating ─► available ────────► attaching ─► in-use
//	                        │          ▲   │                 │          │ Service.Detach, Release
//	                        ▼          │   │ Delete          ▼          ▼
//	                      error        └───┼───────────── detaching ◄───┘
//	                        │ Delete       ▼
//	                        └────────► deleting ─► (nothing)
//
// # Attachments
//
// A volume is attached to one consumer at a time: an instance, by package compute, or whatever a host program says, by
// [Service.Attach]. Each [Attachment] has an epoch, one more than the one before it, and a CHAP secret of its own. Before an
// export answers to an epoch, every session of an older one has ended; so of two consumers that both believe to have the volume
// only the one on record can write it.
//
// The secret is in the records, in clear text, in the table [Attachments] that no service returns: both ends of the
// connection read it there. Whoever can read the records can read it; it is made for one attachment, opens one volume, and is worth nothing when
// that has ended.
//
// # In use
//
// A volume is extended and snapshots are made of it while it is used. Whoever uses it sees the new size; a snapshot is what a loss of power at one
// moment would have left. An image of what a volume holds is made of a snapshot, or while nobody uses it.
//
// # What is where
//
// A volume is on one host, the one whose driver made it, and so are its snapshots and its clones. The host's agent exports again what is
// attached when it starts, and compares exports with the records at each sign of life.
package volume
