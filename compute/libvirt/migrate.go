package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	golibvirt "github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/dewpoint-cloud/dewpoint/compute"
)

var _ compute.Migrator = (*Hypervisor)(nil)

// peer is where a machine is sent: what the address of [compute.Migrator] holds, as JSON.
type peer struct {
	Libvirtd string // URI
	Memory   string // URI that QEMU sends the machine to; "": libvirt finds it
	Disks    string // the same for local disks
}

// abortLook is how often is looked whether a migration has ended.
const abortLook = 50 * time.Millisecond

// Prepare implements [compute.Migrator]. The secrets of disks are in libvirtd's memory until the machine has arrived.
func (h *Hypervisor) Prepare(ctx context.Context, m compute.Machine) (address string, err error) {
	if err := m.Validate(); err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if h.cfg.Peer == "" {
		return "", fmt.Errorf("libvirt: the host takes no machines from others: it has no URI at which they reach its libvirtd (Config.Peer): %w",
			errdefs.ErrFailedPrecondition)
	}
	to := peer{Libvirtd: h.cfg.Peer}
	switch u, _ := url.Parse(h.cfg.Peer); { // New has looked at it
	case strings.HasSuffix(u.Scheme, "+unix"): // both are on one machine
		to.Memory, to.Disks = h.socket(m.ID, "m"), h.socket(m.ID, "d")
	case h.cfg.HostAddress != "":
		to.Memory = (&url.URL{Scheme: "tcp", Host: hostOf(h.cfg.HostAddress)}).String()
	}
	text, err := json.Marshal(to)
	if err != nil {
		return "", err
	}
	return string(text), h.change(ctx, m.ID, func(_ context.Context, w wire) error {
		_, err := secrets(w, m.ID, m.Disks...)
		return err
	})
}

// socket is where a machine comes in that is sent from the same machine, beside libvirtd's own.
func (h *Hypervisor) socket(id, kind string) string {
	return "unix://" + filepath.Join(filepath.Dir(h.cfg.Socket), kind+"-"+id[:13])
}

// hostOf puts an IPv6 address into brackets.
func hostOf(address string) string {
	if strings.Contains(address, ":") {
		return "[" + address + "]"
	}
	return address
}

// Migrate implements [compute.Migrator]: this host's libvirtd speaks with the other's. A guest that writes faster than it can be sent is
// slowed down. Memory and disks are encrypted if the other's libvirtd is reached by TLS.
func (h *Hypervisor) Migrate(ctx context.Context, m compute.Machine, address string) error {
	left, err := h.Abort(ctx, m.ID)
	if left || err != nil {
		return err
	}
	var to peer
	if err := json.Unmarshal([]byte(address), &to); err != nil {
		return fmt.Errorf("libvirt: address %.80q is not one that Prepare returns: %w", address, errdefs.ErrInvalidArgument)
	}
	persistent, err := h.domainXML(m)
	if err != nil {
		return fmt.Errorf("libvirt: describing machine %s: %w: %w", m.ID, err, errdefs.ErrInvalidArgument)
	}
	c, err := h.pool.acquire(ctx)
	if err != nil {
		return err
	}
	result, ended := make(chan error, 1), make(chan struct{})
	go func() {
		err := h.pool.use(context.WithoutCancel(ctx), c, func(w wire) error { return h.send(ctx, w, m, to, persistent) })
		result <- err
		close(ended)
		h.late.forget(m.ID)
	}()
	select {
	case err := <-result:
		if errors.Is(err, errStopped) {
			return ctx.Err()
		}
		return translate(err)
	case <-ctx.Done():
		h.late.add(m.ID, ended)
		return ctx.Err()
	}
}

// send migrates a machine that runs. It takes as long as it takes.
func (h *Hypervisor) send(ctx context.Context, w wire, m compute.Machine, to peer, persistent string) error {
	d, err := find(w, m.ID)
	if err != nil {
		return err
	}
	p, err := powerOf(w, d)
	if err != nil {
		return err
	}
	if p != compute.PowerRunning {
		return wrongState(m.ID, p)
	}
	text, err := w.DomainGetXMLDesc(d, golibvirt.DomainXMLSecure|golibvirt.DomainXMLMigratable)
	if err != nil {
		return err
	}
	there, err := h.elsewhere(text, m)
	if err != nil {
		return fmt.Errorf("libvirt: the description of domain %s: %w: %w", m.ID, err, errdefs.ErrInternal)
	}
	flags := golibvirt.MigrateLive | golibvirt.MigratePeer2peer | golibvirt.MigratePaused | golibvirt.MigratePersistDest |
		golibvirt.MigrateAbortOnError | golibvirt.MigrateAutoConverge
	if u, err := url.Parse(to.Libvirtd); err == nil && strings.HasSuffix(u.Scheme, "+tls") {
		flags |= golibvirt.MigrateTLS
	}
	var params []golibvirt.TypedParam
	give := func(name, value string) {
		if value != "" {
			params = append(params, golibvirt.TypedParam{Field: name, Value: *golibvirt.NewTypedParamValueString(value)})
		}
	}
	give("destination_xml", there)
	give("persistent_xml", persistent)
	give("migrate_uri", to.Memory)
	copies := false
	for i, disk := range m.Disks {
		if disk.ISCSI == nil && !disk.ReadOnly {
			give("migrate_disks", m.Device(i))
			copies = true
		}
	}
	if copies { // what is below a disk, the other host has
		flags |= golibvirt.MigrateNonSharedInc
		give("disks_uri", to.Disks)
	}
	if ctx.Err() != nil {
		return errStopped
	}
	_, err = w.DomainMigratePerform3Params(d, golibvirt.OptString{to.Libvirtd}, params, nil, flags)
	return err
}

// elsewhere is the description of a domain that runs, with what m has otherwise on another host: paths, taps and initiators.
func (h *Hypervisor) elsewhere(text string, m compute.Machine) (string, error) {
	var x libvirtxml.Domain
	if err := x.Unmarshal(text); err != nil {
		return "", err
	}
	if x.OS == nil || x.Devices == nil {
		return "", errors.New("it has no devices")
	}
	x.OS.Kernel, x.OS.Initrd, x.OS.Cmdline = m.Kernel, m.Ramdisk, m.Cmdline
	for i, d := range m.Disks {
		d.Device = m.Device(i)
		want := diskXML(m.ID, d, h.cfg.Cache)
		for n := range x.Devices.Disks {
			if have := &x.Devices.Disks[n]; have.Target != nil && have.Target.Dev == d.Device {
				have.Source, have.BackingStore = want.Source, want.BackingStore
			}
		}
	}
	for _, nic := range m.NICs {
		for n := range x.Devices.Interfaces {
			if have := &x.Devices.Interfaces[n]; have.MAC != nil && have.MAC.Address == nic.MAC.String() {
				have.Target = &libvirtxml.DomainInterfaceTarget{Dev: nic.Tap, Managed: "no"}
			}
		}
	}
	var log *libvirtxml.DomainChardevLog
	if m.ConsoleLog != "" {
		log = &libvirtxml.DomainChardevLog{File: m.ConsoleLog, Append: "on"}
	}
	for n := range x.Devices.Serials {
		x.Devices.Serials[n].Log = log
	}
	for n := range x.Devices.Consoles {
		x.Devices.Consoles[n].Log = log
	}
	return x.Marshal()
}

// Abort implements [compute.Migrator].
func (h *Hypervisor) Abort(ctx context.Context, id string) (left bool, err error) {
	for {
		over := false
		err := h.do(ctx, func(w wire) error {
			d, err := find(w, id)
			if errdefs.IsNotFound(err) {
				over = true
				return nil
			}
			if err != nil {
				return err
			}
			state, reason, err := w.DomainGetState(d, 0)
			if err != nil {
				return err
			}
			if !on(power(state, reason)) {
				left, over = golibvirt.DomainShutoffReason(reason) == golibvirt.DomainShutoffMigrated, true
				return nil
			}
			job, _, _, _, _, _, _, _, _, _, _, _, err := w.DomainGetJobInfo(d)
			if err != nil {
				return err
			}
			if kind := golibvirt.DomainJobType(job); kind == golibvirt.DomainJobBounded || kind == golibvirt.DomainJobUnbounded {
				if err := w.DomainAbortJob(d); err != nil && !changed(err) {
					return err
				}
				return nil
			}
			over = true
			if golibvirt.DomainState(state) == golibvirt.DomainPaused && golibvirt.DomainPausedReason(reason) == golibvirt.DomainPausedMigration {
				// A libvirtd that ended in the last moment of a migration leaves it so.
				return w.DomainResume(d)
			}
			return nil
		})
		switch {
		case err != nil && !changed(err) && !errdefs.IsNotFound(err):
			return false, err
		case over && err == nil && !h.late.busy(id):
			return left, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(abortLook):
		}
	}
}

// forgetSecrets removes what Prepare has left of a machine.
func forgetSecrets(w wire, id string) error {
	all, _, err := w.ConnectListAllSecrets(1, golibvirt.ConnectListSecretsEphemeral)
	for _, s := range all {
		if strings.HasPrefix(s.UsageID, id+"/") {
			_ = w.SecretUndefine(s)
		}
	}
	return err
}
