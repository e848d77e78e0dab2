// Package libvirtd runs a libvirtd of one's own beside, and apart from, whatever libvirt the machine has: for tests and for
// a cloud on one machine. It needs root and Linux, and neither systemd, D-Bus, polkit nor a network.
//
// All files of the daemon, its configuration, its state, its sockets and its logs, are in one directory: it runs in a
// mount namespace of its own, in which this directory lies over libvirt's usual ones. With it runs a virtlogd, which
// bounds what guests may write to their consoles.
//
// The daemons and their guests outlive the process that started them, also when it is killed: [Start] with the same
// directory then finds them running and adopts them. [Daemon.Stop] ends the daemons, [Daemon.KillGuests] the guests.
package libvirtd
