package disk

import (
	"bytes"
	"context"
	"encoding/binary"
)

// verify does VERIFY: with data it is compared, without any the range has been checked already.
func (u *Unit) verify(cdb, out []byte) *Failure {
	if cdb[1]&0x02 == 0 {
		return nil
	}
	offset, length, f := u.bounds(cdb)
	if f != nil {
		return f
	}
	if int64(len(out)) < length {
		return check(illegalRequest, ascInformationUnit)
	}
	b := make([]byte, length)
	if f := u.Read(b, offset); f != nil {
		return f
	}
	return same(b, out)
}

// compareAndWrite does COMPARE AND WRITE: nobody writes between the two.
func (u *Unit) compareAndWrite(nexus *Nexus, cdb, out []byte) *Failure {
	offset, length, f := u.bounds(cdb)
	if f != nil {
		return f
	}
	if int64(len(out)) < 2*length {
		return check(illegalRequest, ascInformationUnit)
	}
	u.data.Lock()
	defer u.data.Unlock()
	if f := u.Allowed(nexus, cdb); f != nil {
		return f
	}
	b := make([]byte, length)
	if f := u.Read(b, offset); f != nil {
		return f
	}
	if f := same(b, out[:length]); f != nil {
		return f
	}
	if f := u.put(out[length:2*length], offset); f != nil {
		return f
	}
	if cdb[1]&0x08 != 0 {
		return u.flush()
	}
	return nil
}

// orWrite does ORWRITE(16): nobody writes between reading and writing.
func (u *Unit) orWrite(nexus *Nexus, cdb, out []byte) *Failure {
	offset, length, f := u.bounds(cdb)
	if f != nil {
		return f
	}
	if int64(len(out)) < length {
		return check(illegalRequest, ascInformationUnit)
	}
	u.data.Lock()
	defer u.data.Unlock()
	if f := u.Allowed(nexus, cdb); f != nil {
		return f
	}
	b := make([]byte, length)
	if f := u.Read(b, offset); f != nil {
		return f
	}
	for i := range b {
		b[i] |= out[i]
	}
	if f := u.put(b, offset); f != nil {
		return f
	}
	if cdb[1]&0x08 != 0 {
		return u.flush()
	}
	return nil
}

// planWriteSame checks a WRITE SAME.
func (u *Unit) planWriteSame(cdb []byte) (p Plan, f *Failure) {
	flags := cdb[1]
	if flags&0xf6 != 0 || flags&0x01 != 0 && cdb[0] == opWriteSame10 { // protection, anchors, numbers as data
		return p, invalidField()
	}
	p.Slow, p.Length = true, BlockSize
	if flags&0x01 != 0 { // without data: zeros
		p.Length = 0
	}
	_, length, f := u.sameRange(cdb)
	if f == nil && length > maxWriteSame*BlockSize {
		f = invalidField()
	}
	return p, f
}

// sameRange is the range of a WRITE SAME: no number of blocks means the rest of the unit.
func (u *Unit) sameRange(cdb []byte) (offset, length int64, f *Failure) {
	offset, length, f = u.bounds(cdb)
	if f == nil && length == 0 {
		length = u.size.Load() - offset
	}
	return offset, length, f
}

// writeSame does WRITE SAME. Zeros are holes, whether that was asked for or not; anything else is written, one MiB at a time.
func (u *Unit) writeSame(ctx context.Context, nexus *Nexus, cdb, out []byte) *Failure {
	offset, length, f := u.sameRange(cdb)
	if f != nil {
		return f
	}
	zeros := make([]byte, BlockSize)
	block := zeros
	if cdb[1]&0x01 == 0 {
		if len(out) < BlockSize {
			return check(illegalRequest, ascInformationUnit)
		}
		block = out[:BlockSize]
	}
	u.data.RLock()
	defer u.data.RUnlock()
	if f := u.Allowed(nexus, cdb); f != nil {
		return f
	}
	// With UNMAP the data does not matter: so do tgt and Linux, and initiators that ask for it send zeros.
	if cdb[1]&0x08 != 0 || bytes.Equal(block, zeros) {
		return u.discard(ctx, offset, length)
	}
	many := bytes.Repeat(block, int(min(length, 1<<20)/BlockSize))
	for length > 0 {
		if ctx.Err() != nil {
			return check(abortedCommand, 0)
		}
		n := min(length, int64(len(many)))
		if f := u.put(many[:n], offset); f != nil {
			return f
		}
		offset, length = offset+n, length-n
	}
	return nil
}

// discard makes zeros, at most one GiB at a time, so that a command that is aborted ends soon.
func (u *Unit) discard(ctx context.Context, offset, length int64) *Failure {
	for length > 0 {
		if ctx.Err() != nil {
			return check(abortedCommand, 0)
		}
		n := min(length, 1<<30)
		if err := u.store.Discard(offset, n); err != nil {
			return storeFailed(err, true)
		}
		offset, length = offset+n, length-n
	}
	return nil
}

// unmap does UNMAP. Nothing is unmapped if any of the ranges is not there.
func (u *Unit) unmap(ctx context.Context, nexus *Nexus, cdb, out []byte) *Failure {
	if cdb[1]&0x01 != 0 { // anchors
		return invalidField()
	}
	if len(out) == 0 {
		return nil
	}
	if len(out) < 8 {
		return check(illegalRequest, ascParameterLength)
	}
	ranges := out[8:]
	if n := int(binary.BigEndian.Uint16(out[2:])); n < len(ranges) {
		ranges = ranges[:n]
	}
	ranges = ranges[:len(ranges)&^15]
	if len(ranges)/16 > maxUnmap {
		return check(illegalRequest, ascInvalidParameter)
	}
	all := uint64(u.size.Load() / BlockSize)
	for r := ranges; len(r) > 0; r = r[16:] {
		lba, blocks := binary.BigEndian.Uint64(r), uint64(binary.BigEndian.Uint32(r[8:]))
		if lba > all || blocks > all-lba {
			return check(illegalRequest, ascOutOfRange)
		}
	}
	u.data.RLock()
	defer u.data.RUnlock()
	if f := u.Allowed(nexus, cdb); f != nil {
		return f
	}
	for r := ranges; len(r) > 0; r = r[16:] {
		lba, blocks := binary.BigEndian.Uint64(r), int64(binary.BigEndian.Uint32(r[8:]))
		if f := u.discard(ctx, int64(lba)*BlockSize, blocks*BlockSize); f != nil {
			return f
		}
	}
	return nil
}

// blockStatus answers GET LBA STATUS with what the store knows of one range.
func (u *Unit) blockStatus(cdb []byte) ([]byte, *Failure) {
	lba := binary.BigEndian.Uint64(cdb[2:])
	size := u.size.Load()
	if lba >= uint64(size/BlockSize) {
		return nil, check(illegalRequest, ascOutOfRange)
	}
	if allocation(cdb) < 24 {
		return nil, invalidField()
	}
	offset := int64(lba) * BlockSize
	mapped, length := true, size-offset
	if m, ok := u.store.(Mapper); ok {
		var err error
		if mapped, length, err = m.Mapped(offset); err != nil {
			return nil, storeFailed(err, false)
		}
		length = max(min(length, size-offset), BlockSize)
	}
	b := make([]byte, 24)
	binary.BigEndian.PutUint32(b, 20)
	binary.BigEndian.PutUint64(b[8:], lba)
	binary.BigEndian.PutUint32(b[16:], uint32(min(length/BlockSize, 1<<32-1)))
	if !mapped {
		b[20] = 1
	}
	return b, nil
}
