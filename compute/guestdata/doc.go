// Package guestdata is what a machine may know about itself, and the documents that tell it: those of OpenStack and NoCloud,
// that cloud-init and its like read, and /etc/network/interfaces for images that have none.
//
// It has no records and no rules of its own. Package compute fills in a [Guest] from the records; the metadata service
// shows it over HTTP, and a config drive carries the same documents on a disk.
package guestdata
