// Package inspect decides whether the content of an image is what it was declared to be, and harmless.
//
// It is the only thing that looks at an image before its format is trusted: no program of QEMU is run on content that
// has not passed [Check], and none is ever asked to guess a format. A disk image that names another file (a backing
// file, an external data file, an extent of a VMDK) would make the hypervisor read that file of the host for the guest;
// a raw disk that starts with the header of a container would be read as that container by whoever probes it. Both are
// refused here.
//
// The package reads a few kilobytes at bounded places, allocates little, runs nothing, and never follows what the
// content says further than the file itself. What it accepts:
//
//   - "qcow2": version 2 or 3 as the QEMU document docs/interop/qcow2.txt describes it, self-contained, not encrypted, closed
//     cleanly, without internal snapshots and bitmaps, tables inside the file and no larger than QEMU's own limits.
//   - "raw": anything but a known container. Partition tables (MBR, GPT), file systems and ISO 9660 images are plain
//     content of a disk and pass; LUKS, disk formats of other hypervisors, archives and compressed files do not.
//   - "aki", "ari": a kernel or a ramdisk: any content of a bounded size that is not a disk format. They may be compressed.
package inspect
