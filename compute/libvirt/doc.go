// Package libvirt is a [compute.Hypervisor] that runs machines with QEMU, by way of a libvirtd on the same host.
//
// # How a machine becomes a domain
//
// The domain's UUID is the machine's id, its name is "instance-" and the id, its title the machine's name. Its metadata
// carries the id and the epoch in a namespace of this library: a domain without them, or with another id than its UUID, is not
// this library's and is left alone. Disks are virtio-blk or virtio-scsi devices with their format and their whole backing chain given, so
// that neither libvirt nor QEMU ever guesses from what a tenant wrote. Cards are virtio, on taps that exist already and stay.
// The first serial port is a pty whose output is appended to a file. There is no USB, no sound, no screen and no balloon.
//
// # Connections
//
// libvirt's remote protocol knows neither deadlines nor cancellation, and libvirtd goes on with a call whose client is gone.
// So each call has a connection of its own while it lasts, out of a small pool. When the context of a call that only looks
// ends, that connection is closed. When the context of a call that changes a machine ends, the caller has its answer at once
// and the connection stays until libvirtd has answered, or [Config].Timeout is over; the next change of the same machine
// waits for that. Every stream of events has a connection apart, as a slow consumer would hold up all else.
//
// # Machines that move
//
// The source's libvirtd speaks with the destination's, at its [Config].Peer, and QEMU with QEMU; a program need not stay between them. The description of the
// machine is changed on the way to what the destination has: its files, its taps, its initiator. What is written into a disk's overlay is copied, what is
// below it is not. The domain stays defined at the source, shut off for the reason "migrated", until Destroy: that is how a later process knows
// that it has left. Its memory, and the blocks of its disks, are encrypted only with a Peer of TLS, for which libvirt's certificates have to be set up
// on both hosts (libvirt's remote.html and tlscerts.html, and migrate_tls_x509_cert_dir of its qemu.conf); otherwise they have to go by a network that
// guests and strangers can't reach. The two hosts' libvirtds trust each other entirely.
//
// # What stays open
//
// A process that is killed while it defines a domain leaves that call to libvirtd, and another process's Destroy may find
// nothing a few milliseconds before the domain appears. What appears is shut off, never running; List names it, and Destroy
// repeated removes it.
//
// A libvirtd that is itself killed in the few milliseconds between noting that a domain starts and knowing its QEMU keeps
// that domain "paused" and locked for good, across its restarts too (seen with libvirt 9.0): calls for it fail as Unavailable
// after 30 s, and no call of libvirt's mends it. Removing /run/libvirt/qemu/NAME.xml while libvirtd is down does.
package libvirt
