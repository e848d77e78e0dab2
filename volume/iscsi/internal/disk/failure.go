package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

// Status codes of SAM-5.
const (
	Good                = 0x00
	CheckCondition      = 0x02
	ReservationConflict = 0x18
	TaskSetFull         = 0x28
)

// Sense keys of SPC-4.
const (
	noSense        = 0x0
	notReady       = 0x2
	mediumError    = 0x3
	hardwareError  = 0x4
	illegalRequest = 0x5
	unitAttention  = 0x6
	dataProtect    = 0x7
	abortedCommand = 0xb
	miscompare     = 0xe
)

// Additional sense codes with their qualifiers.
const (
	ascWriteError            = 0x0c00
	ascUnexpectedData        = 0x0c0c
	ascWrongAmount           = 0x0c0d
	ascInformationUnit       = 0x0e03
	ascReadError             = 0x1100
	ascParameterLength       = 0x1a00
	ascMiscompare            = 0x1d00
	ascInvalidOpcode         = 0x2000
	ascOutOfRange            = 0x2100
	ascInvalidField          = 0x2400
	ascNoUnit                = 0x2500
	ascInvalidParameter      = 0x2600
	ascInvalidRelease        = 0x2604
	ascWriteProtected        = 0x2700
	ascSpaceFailed           = 0x2707 // space allocation failed write protect
	ascReset                 = 0x2902 // bus reset occurred
	ascModeChanged           = 0x2a01
	ascReservationsPreempted = 0x2a03
	ascReservationsReleased  = 0x2a04
	ascRegistrationsGone     = 0x2a05
	ascCapacityChanged       = 0x2a09
	ascCleared               = 0x2f00
	ascSavingUnsupported     = 0x3900
	ascInternalFailure       = 0x4400
	ascRegistrationResources = 0x5504
)

// Failure is why a command did not end with GOOD: another status, and the sense data of a CHECK CONDITION.
type Failure struct {
	Status byte
	key    byte
	asc    uint16
	info   uint32
	valid  bool // info says something
}

func (f *Failure) Error() string {
	return fmt.Sprintf("status %#x, sense key %#x, additional %#04x", f.Status, f.key, f.asc)
}

func check(key byte, asc uint16) *Failure {
	return &Failure{Status: CheckCondition, key: key, asc: asc}
}

func invalidField() *Failure { return check(illegalRequest, ascInvalidField) }

func conflict() *Failure { return &Failure{Status: ReservationConflict} }

// UnexpectedData and WrongAmount are what a transport says of data that it did not ask for, or got too much or too little of,
// RFC 7143 section 11.4.7.2.
func UnexpectedData() *Failure { return check(abortedCommand, ascUnexpectedData) }

// WrongAmount: see UnexpectedData.
func WrongAmount() *Failure { return check(abortedCommand, ascWrongAmount) }

// WrongDirection is what a transport says of a command whose data goes the other way, or is no whole number of blocks.
func WrongDirection() *Failure { return check(illegalRequest, ascInformationUnit) }

// InvalidField is the failure of a command whose descriptor block can't be.
func InvalidField() *Failure { return invalidField() }

// NoUnit is the failure of commands for a unit that is not there.
func NoUnit() *Failure { return check(illegalRequest, ascNoUnit) }

// Full is the failure of a command that there is no memory for.
func Full() *Failure { return &Failure{Status: TaskSetFull} }

// storeFailed translates an error of the store, once.
func storeFailed(err error, write bool) *Failure {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return check(dataProtect, ascSpaceFailed)
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EPERM):
		return check(dataProtect, ascWriteProtected)
	case write:
		return check(mediumError, ascWriteError)
	}
	return check(mediumError, ascReadError)
}

// Sense is the sense data, in the descriptor format if asked for, else in the fixed one; nil if the status has none.
func (f *Failure) Sense(descriptors bool) []byte {
	if f.Status != CheckCondition {
		return nil
	}
	if descriptors {
		b := []byte{0x72, f.key, byte(f.asc >> 8), byte(f.asc), 0, 0, 0, 0}
		if f.valid {
			b[7] = 12
			b = append(b, 0, 10, 0x80, 0, 0, 0, 0, 0)
			b = binary.BigEndian.AppendUint32(b, f.info)
		}
		return b
	}
	b := make([]byte, 18)
	b[0], b[2], b[7] = 0x70, f.key, 10
	b[12], b[13] = byte(f.asc>>8), byte(f.asc)
	if f.valid {
		b[0] |= 0x80
		binary.BigEndian.PutUint32(b[3:], f.info)
	}
	return b
}
