// Package bolt is a state.Log in one file, for a cloud that is one program: durable, with no server beside it. It stores
// in a bbolt file.
//
// # Durability
//
// Commit returns when the batch is on the disk: written, and flushed by fdatasync. Batches that are committed at once by
// several goroutines share one flush, each with its own revision and its own check of its guards. A process that is
// killed, or a machine that loses its power, at any instant leaves a file with all batches whose Commit had
// returned, and of any other batch all or nothing. This rests on a disk that keeps what it said was flushed, and on a
// file system that supports fdatasync and flock: use a local one.
//
// # Damage
//
// Open reads the whole file before it uses any of it, and refuses one that is damaged with an error of the class DataLoss:
// one that is shorter than it was, has lost pages, or has any bit changed that means something. Each record has a
// checksum; the number of records, the sum of their checksums and the last revision are stored with every commit; and the
// structure that leads to them is checked link by link. A file that is damaged is never repaired and never changed: it
// is to be restored from a copy. To copy the file, close the log first.
//
// Damage that happens while the file is open ends the log: commits fail, and every follower gets an error.
//
// # Format
//
// This is format 1. The file is a bbolt database, format 2, with two buckets. "about" holds the key "format": a checksum
// of 8 bytes and the version, 4 bytes; and the key "head": a checksum, then the last revision, the number of records and the
// sum of their checksums, 8 bytes each. "rows" holds the records, each under its key: a checksum, the revision that wrote
// it, 8 bytes, and the value. All numbers are big-endian. A checksum is a CRC-64 (ECMA) of the key and what follows the
// checksum, mixed so that the sum of several tells if one is missing. A file of a newer format is refused as an
// invalid argument.
package bolt
