// Package libvirt is a [compute.Hypervisor] that runs machines with QEMU, by way of a libvirtd on the same host.
//
// # How a machine becomes a domain
//
// The domain's UUID is the machine's id, its name is "instance-" and the id, its title the machine's name. Its metadata
// carries the id and the epoch in a namespace of this library: a domain without them, or with another id than its UUID, is not
// this library's and is left alone. Disks are virtio block devices with their format and their whole backing chain given, so
// that neither libvirt nor QEMU ever guesses from what a tenant wrote. Cards are virtio, on taps that exist already and stay.
// The first serial port is a pty whose output is appended to a file. There is no USB, no sound, no screen and no balloon.
//
// # Connections
//
// libvirt's remote protocol knows neither deadlines nor cancellation. So each call has a connection of its own while it
// lasts, out of a small pool; when its context ends, that connection is closed, which ends the call here, and libvirtd
// finishes or drops the work. Every stream of events has a connection apart, as a slow consumer would hold up all else.
package libvirt
