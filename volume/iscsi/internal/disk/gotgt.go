package disk

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/gostor/gotgt/pkg/api"
	"github.com/gostor/gotgt/pkg/scsi"
)

// answerSize is the length of the buffers that gotgt's commands write into: more than any of them has to say.
const answerSize = 4096

// build makes the logical unit of gotgt's SCSI layer. id has 60 bits.
func (u *Unit) build(target string, id uint64) {
	lu := &api.SCSILu{
		DeviceProtocol: scsi.NewSBCDevice(api.TYPE_DISK),
		BlockShift:     9,
		UUID:           id,
	}
	// Nothing can fail in it: it fills in what is below.
	_ = lu.DeviceProtocol.InitLu(lu)
	lu.PerformCommand = guarded
	lu.Attrs.VendorID = "DEWPOINT"
	lu.Attrs.ProductID = "VOLUME"
	lu.Attrs.ProductRev = "1"
	lu.Attrs.VersionDesction = [8]uint16{0x0060, 0x0300, 0x04c0, 0x0960} // SAM-3, SPC-3, SBC-3, iSCSI
	lu.Attrs.Online = true
	lu.Attrs.ThinProvisioning = true
	lu.Attrs.Readonly = u.readOnly
	u.lu = lu
	u.target = &api.SCSITarget{
		Name: target,
		TargetPortGroups: []*api.TargetPortGroup{{GroupID: 1, TargetPortGroup: []*api.SCSITargetPort{
			{RelativeTargetPortID: 1, TargetPortName: target + ",t,0x0001"},
		}}},
	}
}

// guarded is the PerformCommand of our units: it lets gotgt do what is on the list, and nothing that it does ends more than the
// command. None of these commands touches the store, the registries or the logger of gotgt.
func guarded(host int, cmd *api.SCSICommand) (status api.SAMStat) {
	switch cmd.SCB[0] {
	case opTestUnitReady, opInquiry, opModeSense6, opModeSense10, opReadCapacity10:
	case opServiceIn16:
		if cmd.SCB[1]&0x1f != 0x10 { // READ CAPACITY(16)
			return api.SAMStatCheckCondition
		}
	default:
		return api.SAMStatCheckCondition
	}
	defer func() {
		if r := recover(); r != nil {
			status = api.SAMStat{Stat: api.SAMStatCommandTerminated.Stat, Err: fmt.Errorf("gotgt: %v", r)}
		}
	}()
	op, ok := cmd.Device.DeviceProtocol.PerformCommand(int(cmd.SCB[0])).(scsi.SCSIDeviceOperation)
	if !ok {
		return api.SAMStatCheckCondition
	}
	return op.CommandPerformFunc(host, cmd)
}

// ask has gotgt do a command and returns the buffer it wrote into.
func (u *Unit) ask(cdb []byte) ([]byte, *Failure) {
	lu := *u.lu // the size and what MODE SELECT changed are of this moment
	lu.Size = uint64(u.size.Load())
	lu.Attrs.SWP = u.protected.Load()
	lu.ModePages = u.modePages()
	cmd := &api.SCSICommand{
		OpCode: cdb[0], SCB: cdb, SCBLength: len(cdb),
		Target: u.target, Device: &lu, RelTargetPortID: 1,
		InSDBBuffer:  &api.SCSIDataBuffer{Buffer: make([]byte, answerSize), Length: answerSize},
		OutSDBBuffer: &api.SCSIDataBuffer{Buffer: make([]byte, 256), Length: 256},
		SenseBuffer:  &api.SenseBuffer{},
		ITNexus:      &api.ITNexus{}, ITNexusLuInfo: &api.ITNexusLuInfo{Lu: &lu},
	}
	switch lu.PerformCommand(0, cmd).Stat {
	case Good:
		return cmd.InSDBBuffer.Buffer, nil
	case api.SAMStatCommandTerminated.Stat:
		return nil, check(hardwareError, ascInternalFailure)
	}
	// Its sense data may be cut short; all that these commands refuse is a field.
	return nil, invalidField()
}

// capacity answers READ CAPACITY(10) and (16).
func (u *Unit) capacity(cdb []byte) ([]byte, *Failure) {
	own := append([]byte(nil), cdb...)
	size := 8
	if cdb[0] == opServiceIn16 {
		size = 32
		binary.BigEndian.PutUint32(own[10:], answerSize)
	} else if cdb[8]&1 == 0 && binary.BigEndian.Uint32(cdb[2:]) != 0 {
		return nil, invalidField()
	}
	b, f := u.ask(own)
	if f != nil {
		return nil, f
	}
	if size == 32 {
		b[14] |= 0xc0 // provisioned as needed, and what is not reads as zeros
	}
	return b[:size], nil
}

// perform does what is not reading or writing.
func (u *Unit) perform(ctx context.Context, n *Nexus, cdb, out []byte) ([]byte, *Failure) {
	switch cdb[0] {
	case opTestUnitReady:
		_, f := u.ask(cdb)
		return nil, f
	case opRequestSense:
		f := n.due()
		if f == nil {
			f = check(noSense, 0)
		}
		return f.Sense(cdb[1]&1 != 0), nil
	case opInquiry:
		return u.inquiry(cdb)
	case opModeSense6, opModeSense10:
		return u.modeSense(cdb)
	case opModeSelect6, opModeSelect10:
		return nil, u.modeSelect(n, cdb, out)
	case opReadCapacity10:
		return u.capacity(cdb)
	case opServiceIn16:
		if cdb[1]&0x1f == 0x12 {
			return u.blockStatus(cdb)
		}
		return u.capacity(cdb)
	case opReserve6, opReserve10:
		return nil, u.reserveSimple(n, cdb)
	case opRelease6, opRelease10:
		return nil, u.releaseSimple(n)
	case opReserveIn:
		return u.reserveIn(cdb)
	case opReserveOut:
		return nil, u.reserveOut(n, cdb, out)
	case opMaintenanceIn:
		return supported(cdb)
	case opReportLUNs:
		return nil, check(hardwareError, ascInternalFailure) // the transport knows which units there are
	case opStartStop, opPrefetch10, opPrefetch16:
		return nil, nil
	case opSendDiagnostic:
		if cdb[1]&0x04 == 0 { // nothing but the default self test
			return nil, invalidField()
		}
		return nil, nil
	case opSync10, opSync16:
		return nil, u.flush()
	case opVerify10, opVerify12, opVerify16:
		return nil, u.verify(cdb, out)
	case opWriteSame10, opWriteSame16:
		return nil, u.writeSame(ctx, n, cdb, out)
	case opUnmap:
		return nil, u.unmap(ctx, n, cdb, out)
	case opCompareAndWrite:
		return nil, u.compareAndWrite(n, cdb, out)
	case opOrWrite16:
		return nil, u.orWrite(n, cdb, out)
	}
	return nil, check(illegalRequest, ascInvalidOpcode)
}

// planOther checks what can be known of a command before its data is there, and says how much that is.
func (u *Unit) planOther(c *command, cdb []byte) (p Plan, f *Failure) {
	if c.access == writes && (u.readOnly || u.protected.Load()) {
		switch c.op {
		case opWriteSame10, opWriteSame16, opUnmap, opCompareAndWrite, opOrWrite16:
			return p, check(dataProtect, ascWriteProtected)
		}
	}
	switch c.op {
	case opModeSelect6:
		p.Length = int64(cdb[4])
	case opModeSelect10, opUnmap:
		p.Length = int64(binary.BigEndian.Uint16(cdb[7:]))
		p.Slow = c.op == opUnmap
	case opReserveOut:
		p.Length = min(int64(binary.BigEndian.Uint32(cdb[5:])), 1<<16)
	case opSync10, opSync16:
		_, _, f = u.bounds(cdb)
		p.Slow = true
	case opPrefetch10, opPrefetch16:
		_, _, f = u.bounds(cdb)
	case opVerify10, opVerify12, opVerify16:
		if cdb[1]&0xe0 != 0 || cdb[1]&0x04 != 0 {
			return p, invalidField()
		}
		p.Slow = true
		_, p.Length, f = u.bounds(cdb)
		if cdb[1]&0x06 == 0 {
			p.Length = 0
		}
	case opWriteSame10, opWriteSame16:
		return u.planWriteSame(cdb)
	case opCompareAndWrite, opOrWrite16:
		if cdb[1]&0xe0 != 0 {
			return p, invalidField()
		}
		p.Slow = true
		_, p.Length, f = u.bounds(cdb)
		if c.op == opCompareAndWrite {
			if cdb[13] > maxCompare {
				return p, invalidField()
			}
			p.Length *= 2
		}
	}
	if f == nil && p.Length > MaxTransfer {
		return p, invalidField()
	}
	return p, f
}
