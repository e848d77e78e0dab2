package disk

import (
	"bytes"
	"encoding/binary"

	"github.com/gostor/gotgt/pkg/api"
)

// modePages are the mode pages as gotgt wants them: the values of this moment, then which of them can be changed.
func (u *Unit) modePages() []api.ModePage {
	caching := make([]byte, 36)
	caching[0] = 0x04 // written data may be in a cache until it is flushed
	control := make([]byte, 20)
	control[0], control[10] = 0x02, 0x04
	control[1] = 0x10 // commands may be reordered
	if u.descriptors.Load() {
		control[0] |= 0x04
	}
	if u.protected.Load() {
		control[2] |= 0x08
	}
	control[12] = 0x08
	control[8], control[9] = 0, 0
	return []api.ModePage{
		{PageCode: 0x08, Size: 18, Data: caching},
		{PageCode: 0x0a, Size: 10, Data: control},
		{PageCode: 0x1c, Size: 10, Data: make([]byte, 20)},
	}
}

// modeSense answers MODE SENSE(6) and (10). gotgt is asked for everything, because it counts only what it was asked for.
func (u *Unit) modeSense(cdb []byte) ([]byte, *Failure) {
	if cdb[2]>>6 == 3 {
		return nil, check(illegalRequest, ascSavingUnsupported)
	}
	own := append([]byte(nil), cdb...)
	if cdb[0] == opModeSense6 {
		own[4] = 0xff
		b, f := u.ask(own)
		if f != nil {
			return nil, f
		}
		return b[:1+int(b[0])], nil
	}
	binary.BigEndian.PutUint16(own[7:], answerSize)
	b, f := u.ask(own)
	if f != nil {
		return nil, f
	}
	return b[:2+int(binary.BigEndian.Uint16(b))], nil
}

// modeSelect does MODE SELECT(6) and (10): the format of sense data and the write protection can be changed, until the unit is
// reset.
func (u *Unit) modeSelect(n *Nexus, cdb, out []byte) *Failure {
	if cdb[1]&0x11 != 0x10 { // pages in their format, and none saved
		return invalidField()
	}
	if len(out) == 0 {
		return nil
	}
	header, blocks := 4, 0
	if cdb[0] == opModeSelect10 {
		header = 8
	}
	if len(out) < header {
		return check(illegalRequest, ascParameterLength)
	}
	if header == 4 {
		blocks = int(out[3])
	} else {
		blocks = int(binary.BigEndian.Uint16(out[6:]))
	}
	if blocks > len(out)-header {
		return check(illegalRequest, ascParameterLength)
	}
	if blocks != 0 {
		if blocks != 8 || binary.BigEndian.Uint32(out[header+4:])&0xffffff != BlockSize {
			return check(illegalRequest, ascInvalidParameter)
		}
	}
	protect, descriptors := u.protected.Load(), u.descriptors.Load()
	for rest := out[header+blocks:]; len(rest) > 0; {
		if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
			return check(illegalRequest, ascParameterLength)
		}
		code, data := rest[0], rest[2:2+int(rest[1])]
		rest = rest[2+int(rest[1]):]
		known := false
		for _, page := range u.modePages() {
			if page.PageCode != code&0x7f { // the bit of those that can be saved is of no use here
				continue
			}
			now, may := page.Data[:page.Size], page.Data[page.Size:]
			if len(data) != len(now) {
				return check(illegalRequest, ascParameterLength)
			}
			for i := range data {
				if (data[i]^now[i])&^may[i] != 0 {
					return check(illegalRequest, ascInvalidParameter)
				}
			}
			if page.PageCode == 0x0a {
				descriptors, protect = data[0]&0x04 != 0, data[2]&0x08 != 0
			}
			known = true
		}
		if !known {
			return check(illegalRequest, ascInvalidParameter)
		}
	}
	changed := u.protected.Swap(protect) != protect
	if u.descriptors.Swap(descriptors) != descriptors || changed {
		u.attend(n, ascModeChanged)
	}
	return nil
}

// same says where two blocks of data differ first.
func same(a, b []byte) *Failure {
	if bytes.Equal(a, b) {
		return nil
	}
	f := check(miscompare, ascMiscompare)
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			f.info, f.valid = uint32(i), true
			break
		}
	}
	return f
}
