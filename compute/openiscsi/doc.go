// Package openiscsi is a compute.Connector over the initiator of the Linux kernel, which open-iscsi's programs, iscsiadm and iscsid, drive: volumes
// become block devices of the host, and machines get those. With QEMU's own initiator, the usual one, nothing is on the host; the
// kernel's takes less of a processor for large transfers, and serves hypervisors that have no initiator.
//
// A host needs iscsid running, the kernel's module iscsi_tcp, and root. Each attachment has one session, and an interface record of
// open-iscsi for itself, dewpoint-VOLUME-EPOCH, which names the host as initiator. The kernel shows that name with the session: what there is, and
// of which epoch, is read from /sys and kept nowhere else. Sessions without such a name are left alone. Records are for no
// automatic login: what a host that was restarted may have is the cloud's to say.
//
// The device is found under its session in /sys, and not by a link in /dev/disk/by-path, which udev makes a little later and may leave
// behind. A device that device mapper, or a RAID, has taken is refused: multipathd and LVM on the host are to be told to leave volumes alone
// (blacklist in multipath.conf; devices/filter in lvm.conf).
//
// The CHAP secret is in open-iscsi's record, which root alone can read, and in no command line.
package openiscsi
