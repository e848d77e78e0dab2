// Package ext4 writes small files into an ext2, ext3 or ext4 file system that strangers made, without the host's kernel ever looking at
// it: the program debugfs of e2fsprogs does it, under resource limits, with an empty environment, and dies with its caller.
//
// It is for raw disks that nothing else has open, with the file system on the whole of it or on a partition.
package ext4
