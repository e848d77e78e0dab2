package libvirt

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"
)

// fakeDaemon is a libvirtd behind the wire: it answers as libvirt does, with its states and its error codes, and runs
// nothing. Guests "boot" by writing to their console logs.
type fakeDaemon struct {
	mu      sync.Mutex
	domains map[golibvirt.UUID]*fakeDomain
	conns   map[*fakeConn]bool
	down    bool
	fault   func(method string) error // asked before each call, if set; nil: the call goes on
	after   func(method string) error // asked after each call that succeeded
	calls   map[string]int
	secrets map[golibvirt.UUID]string
	usages  []golibvirt.Secret     // of all secrets that were defined
	peers   map[string]*fakeDaemon // that it can migrate to, by URI
	job     int32                  // of all its domains
}

type fakeDomain struct {
	golibvirt.Domain
	xml           string
	state, reason int32
	transient     bool
	plugged       []string // the disks' XML besides those of xml
	sizes         map[string]*uint64
}

func newFakeDaemon() *fakeDaemon {
	return &fakeDaemon{domains: map[golibvirt.UUID]*fakeDomain{}, conns: map[*fakeConn]bool{}, calls: map[string]int{}, secrets: map[golibvirt.UUID]string{}}
}

func (f *fakeDaemon) dial(ctx context.Context) (*conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if f.down {
		return nil, os.ErrNotExist
	}
	c := &fakeConn{d: f, lost: make(chan struct{})}
	f.conns[c] = true
	return &conn{wire: c, lost: c.lost, hangUp: c.hangUp}, nil
}

// restart loses all connections.
func (f *fakeDaemon) restart() {
	f.mu.Lock()
	conns := f.conns
	f.conns = map[*fakeConn]bool{}
	f.mu.Unlock()
	for c := range conns {
		c.hangUp()
	}
}

type fakeConn struct {
	d      *fakeDaemon
	once   sync.Once
	lost   chan struct{}
	events chan golibvirt.DomainEventLifecycleMsg
}

func (c *fakeConn) hangUp() { c.once.Do(func() { close(c.lost) }) }

func failure(code golibvirt.ErrorNumber, format string, args ...any) error {
	return golibvirt.Error{Code: uint32(code), Message: fmt.Sprintf(format, args...)}
}

// call runs f with the lock held, as one call on the connection.
func (c *fakeConn) call(method string, f func() error) error {
	d := c.d
	d.mu.Lock()
	d.calls[method]++
	fault, after := d.fault, d.after
	d.mu.Unlock()
	if fault != nil {
		if err := fault(method); err != nil {
			return c.outcome(err)
		}
	}
	select {
	case <-c.lost:
		return golibvirt.ErrInterrupted
	default:
	}
	d.mu.Lock()
	err := f()
	d.mu.Unlock()
	if err == nil && after != nil {
		err = after(method)
	}
	return c.outcome(err)
}

// errHang makes a call hang until its connection is closed; errCut makes the connection break.
var (
	errHang = fmt.Errorf("hang")
	errCut  = fmt.Errorf("cut")
)

func (c *fakeConn) outcome(err error) error {
	switch err {
	case errHang:
		<-c.lost
		return golibvirt.ErrInterrupted
	case errCut:
		c.hangUp()
		return golibvirt.ErrInterrupted
	}
	return err
}

func (c *fakeConn) with(method string, d golibvirt.Domain, f func(*fakeDomain) error) error {
	return c.call(method, func() error {
		found := c.d.domains[d.UUID]
		if found == nil {
			return failure(golibvirt.ErrNoDomain, "Domain not found: no domain with matching uuid '%s'", uuid.UUID(d.UUID))
		}
		return f(found)
	})
}

func (d *fakeDomain) active() bool { return d.state != int32(golibvirt.DomainShutoff) }

func (c *fakeConn) tell(d *fakeDomain, event golibvirt.DomainEventType, detail int32) {
	for other := range c.d.conns {
		if other.events != nil {
			other.events <- golibvirt.DomainEventLifecycleMsg{Dom: d.Domain, Event: int32(event), Detail: detail}
		}
	}
}

func (c *fakeConn) off(d *fakeDomain, reason golibvirt.DomainShutoffReason, detail golibvirt.DomainEventStoppedDetailType) {
	d.state, d.reason, d.plugged, d.sizes = int32(golibvirt.DomainShutoff), int32(reason), nil, map[string]*uint64{}
	c.tell(d, golibvirt.DomainEventStopped, int32(detail))
	if d.transient {
		delete(c.d.domains, d.UUID)
	}
}

func (d *fakeDomain) boot() {
	var x libvirtxml.Domain
	if err := x.Unmarshal(d.xml); err != nil || x.Devices == nil {
		return
	}
	for _, s := range x.Devices.Serials {
		if s.Log != nil {
			if f, err := os.OpenFile(s.Log.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
				_, _ = f.WriteString("fake: boots\n")
				_ = f.Close()
			}
		}
	}
}

func notRunning() error { return failure(golibvirt.ErrOperationInvalid, "domain is not running") }

func (c *fakeConn) NodeGetInfo() (model [32]int8, kib uint64, cpus, mhz, nodes, sockets, cores, threads int32, err error) {
	err = c.call("NodeGetInfo", func() error { kib, cpus = 8<<20, 4; return nil })
	return
}

func (c *fakeConn) ConnectGetVersion() (v uint64, err error) {
	return 7002022, c.call("ConnectGetVersion", func() error { return nil })
}

func (c *fakeConn) ConnectGetAllDomainStats([]golibvirt.Domain, uint32, uint32) (all []golibvirt.DomainStatsRecord, err error) {
	err = c.call("ConnectGetAllDomainStats", func() error {
		for _, d := range c.d.domains {
			all = append(all, golibvirt.DomainStatsRecord{Dom: d.Domain, Params: []golibvirt.TypedParam{
				{Field: "state.state", Value: *golibvirt.NewTypedParamValueInt(d.state)},
				{Field: "state.reason", Value: *golibvirt.NewTypedParamValueInt(d.reason)},
			}})
		}
		return nil
	})
	return all, err
}

func (c *fakeConn) DomainLookupByUUID(u golibvirt.UUID) (found golibvirt.Domain, err error) {
	err = c.with("DomainLookupByUUID", golibvirt.Domain{UUID: u}, func(d *fakeDomain) error { found = d.Domain; return nil })
	return found, err
}

func (c *fakeConn) DomainGetMetadata(d golibvirt.Domain, _ int32, _ golibvirt.OptString, _ golibvirt.DomainModificationImpact) (text string, err error) {
	err = c.with("DomainGetMetadata", d, func(d *fakeDomain) error {
		var x libvirtxml.Domain
		if err := x.Unmarshal(d.xml); err != nil || x.Metadata == nil {
			return failure(golibvirt.ErrNoDomainMetadata, "metadata not found: Requested metadata element is not present")
		}
		text = x.Metadata.XML
		return nil
	})
	return text, err
}

func (c *fakeConn) DomainGetXMLDesc(d golibvirt.Domain, _ golibvirt.DomainXMLFlags) (text string, err error) {
	err = c.with("DomainGetXMLDesc", d, func(d *fakeDomain) error { text = d.withPlugged(); return nil })
	return text, err
}

func (c *fakeConn) DomainGetState(d golibvirt.Domain, _ uint32) (state, reason int32, err error) {
	err = c.with("DomainGetState", d, func(d *fakeDomain) error { state, reason = d.state, d.reason; return nil })
	return state, reason, err
}

func (c *fakeConn) DomainDefineXMLFlags(text string, _ golibvirt.DomainDefineFlags) (made golibvirt.Domain, err error) {
	err = c.call("DomainDefineXMLFlags", func() error {
		var x libvirtxml.Domain
		if err := x.Unmarshal(text); err != nil {
			return failure(golibvirt.ErrXMLError, "XML error: %v", err)
		}
		made = golibvirt.Domain{Name: x.Name, UUID: golibvirt.UUID(uuid.MustParse(x.UUID))}
		d := c.d.domains[made.UUID]
		if d == nil {
			d = &fakeDomain{Domain: made, state: int32(golibvirt.DomainShutoff), sizes: map[string]*uint64{}}
			c.d.domains[made.UUID] = d
		}
		d.xml = text
		c.tell(d, golibvirt.DomainEventDefined, 0)
		return nil
	})
	return made, err
}

func (c *fakeConn) DomainUndefineFlags(d golibvirt.Domain, _ golibvirt.DomainUndefineFlagsValues) error {
	return c.with("DomainUndefineFlags", d, func(d *fakeDomain) error {
		if d.active() {
			d.transient = true
			return nil
		}
		delete(c.d.domains, d.UUID)
		c.tell(d, golibvirt.DomainEventUndefined, 0)
		return nil
	})
}

func (c *fakeConn) DomainCreateWithFlags(d golibvirt.Domain, _ uint32) (golibvirt.Domain, error) {
	return d, c.with("DomainCreateWithFlags", d, func(d *fakeDomain) error {
		if d.active() {
			return failure(golibvirt.ErrOperationInvalid, "domain is already running")
		}
		d.state, d.reason = int32(golibvirt.DomainRunning), 1
		d.boot()
		c.tell(d, golibvirt.DomainEventStarted, 0)
		return nil
	})
}

func (c *fakeConn) DomainDestroyFlags(d golibvirt.Domain, _ golibvirt.DomainDestroyFlagsValues) error {
	return c.with("DomainDestroyFlags", d, func(d *fakeDomain) error {
		if !d.active() {
			return notRunning()
		}
		c.off(d, golibvirt.DomainShutoffDestroyed, golibvirt.DomainEventStoppedDestroyed)
		return nil
	})
}

func (c *fakeConn) DomainShutdownFlags(d golibvirt.Domain, _ golibvirt.DomainShutdownFlagValues) error {
	return c.with("DomainShutdownFlags", d, func(d *fakeDomain) error {
		if !d.active() {
			return notRunning()
		}
		if d.state == int32(golibvirt.DomainRunning) {
			c.off(d, golibvirt.DomainShutoffShutdown, golibvirt.DomainEventStoppedShutdown)
		}
		return nil
	})
}

func (c *fakeConn) DomainReboot(d golibvirt.Domain, _ golibvirt.DomainRebootFlagValues) error {
	return c.DomainReset(d, 0)
}

func (c *fakeConn) DomainReset(d golibvirt.Domain, _ uint32) error {
	return c.with("DomainReset", d, func(d *fakeDomain) error {
		if !d.active() {
			return notRunning()
		}
		d.boot()
		return nil
	})
}

func (c *fakeConn) DomainSuspend(d golibvirt.Domain) error {
	return c.with("DomainSuspend", d, func(d *fakeDomain) error {
		if !d.active() {
			return notRunning()
		}
		if d.state != int32(golibvirt.DomainPaused) {
			d.state = int32(golibvirt.DomainPaused)
			c.tell(d, golibvirt.DomainEventSuspended, 0)
		}
		return nil
	})
}

func (c *fakeConn) DomainResume(d golibvirt.Domain) error {
	return c.with("DomainResume", d, func(d *fakeDomain) error {
		switch {
		case !d.active():
			return notRunning()
		case d.state == int32(golibvirt.DomainRunning):
			return failure(golibvirt.ErrOperationInvalid, "domain is already running")
		}
		d.state = int32(golibvirt.DomainRunning)
		c.tell(d, golibvirt.DomainEventResumed, 0)
		return nil
	})
}

// withPlugged is the XML of the domain with the disks that were plugged in.
func (d *fakeDomain) withPlugged() string {
	return strings.Replace(d.xml, "</devices>", strings.Join(d.plugged, "")+"</devices>", 1)
}

func (c *fakeConn) DomainAttachDeviceFlags(d golibvirt.Domain, text string, _ uint32) error {
	return c.with("DomainAttachDeviceFlags", d, func(d *fakeDomain) error {
		if !d.active() {
			return notRunning()
		}
		var disk, other libvirtxml.DomainDisk
		if err := disk.Unmarshal(text); err != nil {
			return failure(golibvirt.ErrXMLError, "XML error: %v", err)
		}
		for _, p := range d.plugged {
			if err := other.Unmarshal(p); err == nil && other.Target.Dev == disk.Target.Dev {
				return failure(golibvirt.ErrOperationFailed, "operation failed: target %s already exists", disk.Target.Dev)
			}
		}
		d.plugged = append(d.plugged, text)
		return nil
	})
}

// DomainDetachDeviceFlags implements wire. A guest that is paused lets nothing go.
func (c *fakeConn) DomainDetachDeviceFlags(d golibvirt.Domain, text string, _ uint32) error {
	return c.with("DomainDetachDeviceFlags", d, func(d *fakeDomain) error {
		switch {
		case !d.active():
			return notRunning()
		case d.state == int32(golibvirt.DomainPaused):
			return nil
		}
		var disk, other libvirtxml.DomainDisk
		if err := disk.Unmarshal(text); err != nil {
			return failure(golibvirt.ErrXMLError, "XML error: %v", err)
		}
		for i, p := range d.plugged {
			if err := other.Unmarshal(p); err == nil && other.Target.Dev == disk.Target.Dev {
				d.plugged = slices.Delete(d.plugged, i, i+1)
				return nil
			}
		}
		return failure(golibvirt.ErrDeviceMissing, "device not found: no device %s", disk.Target.Dev)
	})
}

// size returns that of a disk, 0 before it was changed.
func (d *fakeDomain) size(disk string) (*uint64, error) {
	if !d.active() {
		return nil, notRunning()
	}
	var x libvirtxml.Domain
	if err := x.Unmarshal(d.withPlugged()); err != nil {
		return nil, failure(golibvirt.ErrXMLError, "XML error: %v", err)
	}
	for _, has := range x.Devices.Disks {
		if has.Target.Dev != disk {
			continue
		}
		if d.sizes[disk] == nil {
			d.sizes[disk] = new(uint64)
		}
		return d.sizes[disk], nil
	}
	return nil, failure(golibvirt.ErrInvalidArg, "invalid argument: invalid path %s not assigned to domain", disk)
}

func (c *fakeConn) DomainGetBlockInfo(d golibvirt.Domain, disk string, _ uint32) (allocation, capacity, physical uint64, err error) {
	err = c.with("DomainGetBlockInfo", d, func(d *fakeDomain) error {
		size, err := d.size(disk)
		if err == nil {
			capacity = *size
		}
		return err
	})
	return 0, capacity, capacity, err
}

func (c *fakeConn) DomainBlockResize(d golibvirt.Domain, disk string, to uint64, _ golibvirt.DomainBlockResizeFlags) error {
	return c.with("DomainBlockResize", d, func(d *fakeDomain) error {
		size, err := d.size(disk)
		if err == nil {
			*size = to
		}
		return err
	})
}

func (c *fakeConn) SecretDefineXML(text string, _ uint32) (s golibvirt.Secret, err error) {
	err = c.call("SecretDefineXML", func() error {
		var x libvirtxml.Secret
		if err := x.Unmarshal(text); err != nil || x.Ephemeral != "yes" || x.Private != "yes" {
			return failure(golibvirt.ErrXMLError, "XML error: %v", err)
		}
		s = golibvirt.Secret{UUID: golibvirt.UUID(uuid.MustParse(x.UUID))}
		c.d.secrets[s.UUID] = ""
		if x.Usage != nil {
			s.UsageID = x.Usage.Target
		}
		c.d.usages = append(c.d.usages, s)
		return nil
	})
	return s, err
}

func (c *fakeConn) SecretSetValue(s golibvirt.Secret, value []byte, _ uint32) error {
	return c.call("SecretSetValue", func() error { c.d.secrets[s.UUID] = string(value); return nil })
}

func (c *fakeConn) SecretUndefine(s golibvirt.Secret) error {
	return c.call("SecretUndefine", func() error { delete(c.d.secrets, s.UUID); return nil })
}

func (c *fakeConn) ConnectListAllSecrets(int32, golibvirt.ConnectListAllSecretsFlags) (all []golibvirt.Secret, n uint32, err error) {
	err = c.call("ConnectListAllSecrets", func() error {
		for _, s := range c.d.usages {
			if _, there := c.d.secrets[s.UUID]; there {
				all = append(all, s)
			}
		}
		return nil
	})
	return all, uint32(len(all)), err
}

// DomainMigratePerform3Params implements wire, between the daemons of one peers.
func (c *fakeConn) DomainMigratePerform3Params(d golibvirt.Domain, to golibvirt.OptString, params []golibvirt.TypedParam, _ []byte, flags golibvirt.DomainMigrateFlags) ([]byte, error) {
	return nil, c.with("DomainMigratePerform3Params", d, func(d *fakeDomain) error {
		other := c.d.peers[to[0]]
		there := ""
		for _, p := range params {
			if p.Field == "destination_xml" {
				there, _ = p.Value.I.(string)
			}
		}
		var x libvirtxml.Domain
		switch {
		case !d.active():
			return notRunning()
		case other == nil:
			return failure(golibvirt.ErrSystemError, "unable to connect to server at '%s'", to[0])
		case flags&golibvirt.MigratePeer2peer == 0 || flags&golibvirt.MigratePaused == 0 || x.Unmarshal(there) != nil:
			return failure(golibvirt.ErrInvalidArg, "flags %x, description %q", flags, there)
		}
		c.d.mu.Unlock() // nobody locks two at once
		other.mu.Lock()
		_, taken := other.domains[d.UUID]
		if !taken {
			other.domains[d.UUID] = &fakeDomain{Domain: d.Domain, xml: there, state: int32(golibvirt.DomainPaused), reason: 1}
		}
		other.mu.Unlock()
		c.d.mu.Lock()
		if taken {
			return failure(golibvirt.ErrDomExist, "domain is there already")
		}
		c.off(d, golibvirt.DomainShutoffMigrated, golibvirt.DomainEventStoppedMigrated)
		return nil
	})
}

func (c *fakeConn) DomainGetJobInfo(d golibvirt.Domain) (kind int32, a, b, e, f, g, h, i, j, k, l, m uint64, err error) {
	err = c.with("DomainGetJobInfo", d, func(*fakeDomain) error { kind = c.d.job; return nil })
	return
}

func (c *fakeConn) DomainAbortJob(d golibvirt.Domain) error {
	return c.with("DomainAbortJob", d, func(*fakeDomain) error { c.d.job = 0; return nil })
}

// LifecycleEvents implements wire. Like the real one's, its channel must be drained, and ends with the connection, but for one that
// was lost just before the channel was made: it then ends with ctx alone.
func (c *fakeConn) LifecycleEvents(ctx context.Context) (<-chan golibvirt.DomainEventLifecycleMsg, error) {
	out := make(chan golibvirt.DomainEventLifecycleMsg)
	err := c.call("LifecycleEvents", func() error {
		c.events = make(chan golibvirt.DomainEventLifecycleMsg, 1000)
		return nil
	})
	if err != nil {
		return nil, err
	}
	lost := (<-chan struct{})(c.lost)
	select {
	case <-lost:
		lost = nil
	default:
	}
	go func() {
		defer close(out)
		for {
			select {
			case <-lost:
				return
			case <-ctx.Done():
				return
			case m := <-c.events:
				out <- m
			}
		}
	}()
	return out, nil
}
