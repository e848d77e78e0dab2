package disk

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"

	"github.com/gostor/gotgt/pkg/api"
)

// BlockSize is the size of a logical block.
const BlockSize = 512

// MaxTransfer is how many bytes one command reads or writes at most.
const MaxTransfer = 4 << 20

const (
	maxCompare   = 128       // blocks of one COMPARE AND WRITE
	maxWriteSame = 1<<16 - 1 // blocks of one WRITE SAME
	maxUnmap     = 256       // descriptors of one UNMAP
)

// Store is where the data is. All methods are called concurrently.
type Store interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns when all that was written is on stable storage.
	Sync() error
	// Discard has a range read as zeros, and gives its space back where it can.
	Discard(offset, length int64) error
	// Size is how long the store is.
	Size() (int64, error)
}

// Mapper is a store that knows what of it holds data.
type Mapper interface {
	// Mapped tells whether there is data at offset, and for how many bytes from there that is so.
	Mapped(offset int64) (mapped bool, length int64, err error)
}

// Config describes a unit.
type Config struct {
	Store    Store  // required
	Target   string // the name of the target device it is in; required
	ID       string // names the volume in the world, as its serial number; required
	ReadOnly bool   // refuses what writes
}

// Unit is a logical unit. Its methods are safe for concurrent use.
type Unit struct {
	store    Store
	id       string
	readOnly bool
	size     atomic.Int64 // in bytes, whole blocks

	lu     *api.SCSILu
	target *api.SCSITarget

	// Writers of any kind hold it shared; what reads and then writes holds it alone.
	data sync.RWMutex
	held atomic.Int32 // how many have writers wait, or are about to

	protected   atomic.Bool // by MODE SELECT
	descriptors atomic.Bool // sense data is in descriptors, by MODE SELECT
	guarded     atomic.Bool // there is a reservation of either kind

	mu      sync.Mutex
	nexuses map[*Nexus]struct{}
	reserve reservations
}

// New makes a unit over a store.
func New(cfg Config) (*Unit, error) {
	u := &Unit{store: cfg.Store, id: cfg.ID, readOnly: cfg.ReadOnly, nexuses: map[*Nexus]struct{}{}}
	u.reserve.keys = map[string]uint64{}
	size, err := cfg.Store.Size()
	if err != nil {
		return nil, err
	}
	u.size.Store(size &^ (BlockSize - 1))
	sum := sha256.Sum256([]byte(cfg.ID))
	u.build(cfg.Target, binary.BigEndian.Uint64(sum[:])&(1<<60-1))
	return u, nil
}

// Size is how long the unit is, in bytes.
func (u *Unit) Size() int64 { return u.size.Load() }

// Resized looks at the store again, and tells all who use the unit if its size is another.
func (u *Unit) Resized() error {
	size, err := u.store.Size()
	if err != nil {
		return err
	}
	size &^= BlockSize - 1
	if u.size.Swap(size) != size {
		u.attend(nil, ascCapacityChanged)
	}
	return nil
}

// Descriptors tells whether sense data is in the descriptor format.
func (u *Unit) Descriptors() bool { return u.descriptors.Load() }

// Kind is what a transport does for a command.
type Kind byte

const (
	Other   Kind = iota // Perform
	ReadIn              // Read, piece by piece
	WriteIn             // Write
)

// Plan is what a command wants. For reading and writing Offset and Length are a range of the unit in bytes.
type Plan struct {
	Kind   Kind
	Offset int64
	Length int64 // of the data to transfer; of Other commands: from the initiator
	Sync   bool  // of writing: it is on stable storage when it is done
	Check  bool  // of writing: read again and compared
	Slow   bool  // it may take long whatever the store is
}

// Plan looks at a command before it is done: whether it is known, allowed now, and in range. It takes away a unit attention that is due.
func (u *Unit) Plan(n *Nexus, cdb []byte) (Plan, *Failure) {
	switch cdb[0] {
	case opRead10, opRead16, opWrite10, opWrite16:
		if n.pending.Load() || u.guarded.Load() {
			break
		}
		return u.planData(cdb)
	}
	c, op := find(cdb)
	if c == nil {
		if op {
			return Plan{}, invalidField()
		}
		return Plan{}, check(illegalRequest, ascInvalidOpcode)
	}
	switch c.op {
	case opInquiry, opReportLUNs, opRequestSense:
		return Plan{}, nil
	}
	if f := n.due(); f != nil {
		return Plan{}, f
	}
	if f := u.Allowed(n, cdb); f != nil {
		return Plan{}, f
	}
	switch c.op {
	case opRead6, opRead10, opRead12, opRead16, opWrite6, opWrite10, opWrite12, opWrite16, opWriteVerify10, opWriteVerify12, opWriteVerify16:
		return u.planData(cdb)
	}
	return u.planOther(c, cdb)
}

// planData plans reading and writing.
func (u *Unit) planData(cdb []byte) (p Plan, f *Failure) {
	six := cdb[0] == opRead6 || cdb[0] == opWrite6
	if !six && cdb[1]&0xe0 != 0 { // there is no protection information
		return p, invalidField()
	}
	switch cdb[0] {
	case opRead6, opRead10, opRead12, opRead16:
		p.Kind = ReadIn
	case opWriteVerify10, opWriteVerify12, opWriteVerify16:
		if cdb[1]&0x04 != 0 {
			return p, invalidField()
		}
		p.Kind, p.Check, p.Sync, p.Slow = WriteIn, true, true, true
	default:
		p.Kind = WriteIn
		p.Sync = !six && cdb[1]&0x08 != 0
		p.Slow = p.Sync
	}
	if p.Kind == WriteIn && (u.readOnly || u.protected.Load()) {
		return p, check(dataProtect, ascWriteProtected)
	}
	p.Offset, p.Length, f = u.bounds(cdb)
	if f == nil && p.Length > MaxTransfer {
		return p, invalidField()
	}
	return p, f
}

// bounds is the range of a command in bytes.
func (u *Unit) bounds(cdb []byte) (offset, length int64, f *Failure) {
	lba, blocks := extent(cdb)
	all := uint64(u.size.Load() / BlockSize)
	if lba > all || blocks > all-lba || lba == all && blocks == 0 {
		return 0, 0, check(illegalRequest, ascOutOfRange)
	}
	return int64(lba * BlockSize), int64(blocks * BlockSize), nil
}

// Read fills p with what is at an offset of the unit.
func (u *Unit) Read(p []byte, offset int64) *Failure {
	n, err := u.store.ReadAt(p, offset)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF { // the store is shorter than it was
		clear(p[n:])
		return nil
	}
	return storeFailed(err, false)
}

// Write does a planned write: of b, whose length is at most the plan's, from the plan's offset on. Once a reservation that forbids it
// is made, it does not happen any more.
func (u *Unit) Write(n *Nexus, cdb []byte, p Plan, b []byte) *Failure {
	u.data.RLock()
	defer u.data.RUnlock()
	if f := u.Allowed(n, cdb); f != nil {
		return f
	}
	if f := u.put(b, p.Offset); f != nil {
		return f
	}
	if p.Check {
		again := make([]byte, len(b))
		if f := u.Read(again, p.Offset); f != nil {
			return f
		}
		if f := same(again, b); f != nil {
			return f
		}
	}
	if p.Sync {
		return u.flush()
	}
	return nil
}

func (u *Unit) put(b []byte, offset int64) *Failure {
	if len(b) == 0 {
		return nil
	}
	if offset+int64(len(b)) > u.size.Load() { // it was made smaller since the command was planned
		return check(illegalRequest, ascOutOfRange)
	}
	n, err := u.store.WriteAt(b, offset)
	if err != nil || n < len(b) {
		return storeFailed(err, true)
	}
	return nil
}

func (u *Unit) flush() *Failure {
	if err := u.store.Sync(); err != nil {
		return storeFailed(err, true)
	}
	return nil
}

// Perform does any other command, with the data that the plan asked for, or less if the initiator had less. The result is at most as
// long as the command allows.
func (u *Unit) Perform(ctx context.Context, n *Nexus, cdb, out []byte) ([]byte, *Failure) {
	in, f := u.perform(ctx, n, cdb, out)
	if cdb[0] == opReserveOut || cdb[0] == opReserve6 || cdb[0] == opReserve10 {
		u.Settle()
	}
	if f != nil {
		return nil, f
	}
	return in[:min(len(in), allocation(cdb))], nil
}

// Settle returns when every write that began before has ended.
func (u *Unit) Settle() {
	u.data.Lock()
	defer u.data.Unlock()
}

// Hold returns when no write is under way, and has those to come wait until release.
func (u *Unit) Hold(ctx context.Context) (release func(), err error) {
	u.held.Add(1)
	alone := make(chan struct{})
	go func() {
		u.data.Lock()
		close(alone)
	}()
	end := func() {
		u.held.Add(-1)
		u.data.Unlock()
	}
	select {
	case <-alone:
		return sync.OnceFunc(end), nil
	case <-ctx.Done():
		go func() {
			<-alone
			end()
		}()
		return nil, ctx.Err()
	}
}

// Held tells whether writes have to wait.
func (u *Unit) Held() bool { return u.held.Load() > 0 }

// allocation is how much data a command that returns some wants at most.
func allocation(cdb []byte) int {
	switch cdb[0] {
	case opRequestSense, opModeSense6:
		return int(cdb[4])
	case opInquiry:
		return int(binary.BigEndian.Uint16(cdb[3:]))
	case opReadCapacity10:
		return 8
	case opModeSense10, opReserveIn:
		return int(binary.BigEndian.Uint16(cdb[7:]))
	case opServiceIn16:
		return int(binary.BigEndian.Uint32(cdb[10:]))
	case opReportLUNs, opMaintenanceIn:
		return int(binary.BigEndian.Uint32(cdb[6:]))
	}
	return 0
}
