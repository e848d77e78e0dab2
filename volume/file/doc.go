// Package file is a volume.Driver that keeps volumes as sparse files in one directory.
//
//	driver, err := file.Open(file.Config{Dir: "/var/lib/cloud/volumes"})
//	defer driver.Close()
//
// A volume is the file volume-ID, a snapshot the file snapshot-ID-of-VOLUME; anything else in the directory is somebody
// else's and is neither listed nor touched, nor is what has such a name and is no regular file. No path is followed out of the
// directory, whatever symbolic links are put into it.
//
// # Copies
//
// A clone and a snapshot share their blocks with their source where the file system can do that (ioctl FICLONE: Btrfs, XFS with
// reflink, and others), in a moment and whatever is written meanwhile. Elsewhere what is not a hole is copied; such a copy
// of a volume that is being written is of no one moment.
//
// # Crashes
//
// A file is made under another name, filled, flushed, and then linked under its own, so a volume is there whole or not at all,
// also after a loss of power. What was cut short is removed by the next call for its id and by the next Open.
//
// # Deleted data
//
// A file system shows only zeros where a file was not written, so what a deleted volume held can't be read through another
// one. It may stay on the medium until it is overwritten.
package file
