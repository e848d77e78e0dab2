// Package lvm is a volume.Driver that keeps volumes as logical volumes of one LVM volume group, through LVM's tools (lvm2).
//
//	driver, err := lvm.Open(ctx, lvm.Config{VG: "volumes"})                     // linear
//	driver, err := lvm.Open(ctx, lvm.Config{VG: "volumes", ThinPool: "pool"})   // thin
//
// A volume is the logical volume dp-volume-ID with the tag dewpoint.volume, a snapshot dp-snapshot-ID with the tags
// dewpoint.snapshot and dewpoint.of.VOLUME. What has such a name and no such tag is somebody else's, and is neither listed nor touched.
//
// # Contents
//
// A linear volume is written with zeros before it is a volume, and what it is extended by before it is its own: extents
// come with what they held before, whoever's that was. A clone or snapshot of a linear volume is a copy of all of it; while one that is open is copied,
// LVM keeps what it held in a snapshot dp-copy-ID of its own, with the tag dewpoint.copy, which takes up to the volume's size of the group's room. Thin volumes share
// blocks with their copies, and what was never written reads as zeros; the pool must zero its chunks (lvcreate -Zy, the default).
//
// No thin pool is given away twice: volumes and snapshots count with their whole size.
//
// # Crashes
//
// A logical volume carries the tag dewpoint.new until all of it is there; LVM changes tags in one transaction of its own. What was
// cut short is made anew, or removed, by the next call for its id. An extension leaves a tag with the old size until its zeros are
// written, and is gone on with by the next call.
package lvm
