// Package initramfs makes what a virtual machine starts with, out of what is installed on this one: it finds a kernel with its modules and
// a busybox that needs no library, and writes the initial ramdisk. It is shared by the node VM of tests (internal/nodevm) and the guest of
// examples/minicloud.
//
// What is not installed is FailedPrecondition, with the name of the package in the error.
package initramfs
