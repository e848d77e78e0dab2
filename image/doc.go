// Package image keeps the images that instances are made of: their records, their content, and on each node a cache
// of what its instances use.
//
//	owner ──► Service ──► state      the record: name, format, status, whose it is
//	              └─────► Blobs      the content, whole or not there
//	                        │
//	                      Source     one method: open the content of an image
//	                        │
//	node:                 Cache ───► disk.qcow2, kernel and ramdisk of each instance
//
// Content is looked at by package inspect before an image becomes active, and again before a node uses it. Its format
// is declared and proven, never guessed. What is active never changes; a node's base files are copies under their
// checksum, so an image can be deleted while instances of it run.
package image
