package libvirt

import (
	"context"
	"net"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
)

// wire is the part of libvirt's remote protocol that this package speaks. [golibvirt.Libvirt] implements it; tests have
// another.
type wire interface {
	NodeGetInfo() (model [32]int8, kib uint64, cpus, mhz, nodes, sockets, cores, threads int32, err error)
	ConnectGetVersion() (uint64, error)
	ConnectGetAllDomainStats(of []golibvirt.Domain, stats, flags uint32) ([]golibvirt.DomainStatsRecord, error)

	DomainLookupByUUID(golibvirt.UUID) (golibvirt.Domain, error)
	DomainGetMetadata(d golibvirt.Domain, kind int32, uri golibvirt.OptString, impact golibvirt.DomainModificationImpact) (string, error)
	DomainGetXMLDesc(golibvirt.Domain, golibvirt.DomainXMLFlags) (string, error)
	DomainGetState(d golibvirt.Domain, flags uint32) (state, reason int32, err error)

	DomainDefineXMLFlags(xml string, flags golibvirt.DomainDefineFlags) (golibvirt.Domain, error)
	DomainUndefineFlags(golibvirt.Domain, golibvirt.DomainUndefineFlagsValues) error
	DomainCreateWithFlags(d golibvirt.Domain, flags uint32) (golibvirt.Domain, error)
	DomainDestroyFlags(golibvirt.Domain, golibvirt.DomainDestroyFlagsValues) error
	DomainShutdownFlags(golibvirt.Domain, golibvirt.DomainShutdownFlagValues) error
	DomainReboot(golibvirt.Domain, golibvirt.DomainRebootFlagValues) error
	DomainReset(d golibvirt.Domain, flags uint32) error
	DomainSuspend(golibvirt.Domain) error
	DomainResume(golibvirt.Domain) error

	DomainAttachDeviceFlags(d golibvirt.Domain, xml string, flags uint32) error
	DomainDetachDeviceFlags(d golibvirt.Domain, xml string, flags uint32) error
	DomainGetBlockInfo(d golibvirt.Domain, disk string, flags uint32) (allocation, capacity, physical uint64, err error)
	DomainBlockResize(d golibvirt.Domain, disk string, size uint64, flags golibvirt.DomainBlockResizeFlags) error
	SecretDefineXML(xml string, flags uint32) (golibvirt.Secret, error)
	SecretSetValue(s golibvirt.Secret, value []byte, flags uint32) error
	SecretUndefine(golibvirt.Secret) error

	ConnectListAllSecrets(needResults int32, flags golibvirt.ConnectListAllSecretsFlags) ([]golibvirt.Secret, uint32, error)

	DomainMigratePerform3Params(d golibvirt.Domain, to golibvirt.OptString, params []golibvirt.TypedParam, cookie []byte, flags golibvirt.DomainMigrateFlags) ([]byte, error)
	DomainGetJobInfo(golibvirt.Domain) (kind int32, elapsed, remaining, total, processed, left, memory, memoryProcessed, memoryLeft, file, fileProcessed, fileLeft uint64, err error)
	DomainAbortJob(golibvirt.Domain) error

	LifecycleEvents(context.Context) (<-chan golibvirt.DomainEventLifecycleMsg, error)
}

// conn is one connection to libvirtd. It is never used again after it was lost: the client library mixes up what belongs to
// which connection.
type conn struct {
	wire
	lost   <-chan struct{} // closed when the connection is
	hangUp func()          // closes it, which ends every call on it; may be called more than once
}

// open speaks the first words on raw, which it owns from then on.
func open(ctx context.Context, raw net.Conn, uri string) (*conn, error) {
	w := &watched{Conn: raw, lost: make(chan struct{}), opened: make(chan struct{})}
	client := golibvirt.NewWithDialer(w)
	c := &conn{wire: client, lost: w.lost, hangUp: func() { _ = w.Close() }}
	defer context.AfterFunc(ctx, c.hangUp)()
	err := client.ConnectToURI(golibvirt.ConnectURI(uri))
	close(w.opened)
	if err != nil {
		c.hangUp()
		return nil, err
	}
	return c, nil
}

// watched is a connection that tells when it is lost. It is its own dialer, for the one connection there is.
type watched struct {
	net.Conn
	once   sync.Once
	lost   chan struct{}
	opened chan struct{} // closed when the first words were spoken, with or without success
}

// lossWait is how long the client library learns later that a connection was lost while it was opened. The library's last
// step of opening and its first of giving up touch the same field without a lock: a loss between the last answer and that step
// has to wait for the step.
const lossWait = 100 * time.Millisecond

func (w *watched) Dial() (net.Conn, error) { return w, nil }

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err != nil {
		_ = w.Close()
		select {
		case <-w.opened:
		case <-time.After(lossWait):
		}
	}
	return n, err
}

func (w *watched) Close() error {
	w.once.Do(func() { close(w.lost) })
	return w.Conn.Close()
}
