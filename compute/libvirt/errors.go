package libvirt

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	golibvirt "github.com/digitalocean/go-libvirt"
)

// classOf says what libvirt's error codes (virErrorNumber in libvirt/virterror.h) are to a caller. What is not named is
// Internal: libvirt puts most of its failures, QEMU's among them, under three codes that tell nothing.
func classOf(code golibvirt.ErrorNumber) error {
	switch code {
	case golibvirt.ErrNoDomain:
		return errdefs.ErrNotFound
	case golibvirt.ErrDomExist:
		return errdefs.ErrAlreadyExists
	case golibvirt.ErrOperationInvalid, golibvirt.ErrCPUIncompatible:
		return errdefs.ErrFailedPrecondition
	case golibvirt.ErrInvalidArg, golibvirt.ErrXMLError, golibvirt.ErrXMLDetail, golibvirt.ErrXMLInvalidSchema, golibvirt.ErrConfigUnsupported,
		golibvirt.ErrOsType, golibvirt.ErrNoName, golibvirt.ErrParseFailed:
		return errdefs.ErrInvalidArgument
	case golibvirt.ErrAuthFailed, golibvirt.ErrOperationDenied, golibvirt.ErrAccessDenied:
		return errdefs.ErrPermissionDenied
	case golibvirt.ErrNoMemory:
		return errdefs.ErrResourceExhausted
	case golibvirt.ErrNoConnect, golibvirt.ErrRPC, golibvirt.ErrOperationTimeout, golibvirt.ErrResourceBusy, golibvirt.ErrAgentUnresponsive:
		return errdefs.ErrUnavailable
	case golibvirt.ErrOperationAborted:
		return errdefs.ErrAborted
	case golibvirt.ErrNoSupport, golibvirt.ErrOperationUnsupported:
		return errdefs.ErrNotImplemented
	}
	return errdefs.ErrInternal
}

// translate gives an error of libvirt its class, once, and leaves one that has a class alone.
func translate(err error) error {
	var e golibvirt.Error
	switch {
	case err == nil || classed(err):
		return err
	case errors.As(err, &e):
		text := strings.Join(strings.Fields(e.Message), " ") // QEMU's own words come with line ends
		return fmt.Errorf("libvirt: %s (code %d): %w", text, e.Code, classOf(golibvirt.ErrorNumber(e.Code)))
	case errors.Is(err, golibvirt.ErrUnsupported):
		return fmt.Errorf("libvirt: %w: %w", err, errdefs.ErrNotImplemented)
	}
	return fmt.Errorf("libvirt: %w: %w", err, errdefs.ErrInternal)
}

// classed tells whether err has a class of errdefs.
func classed(err error) bool {
	for _, class := range []error{
		errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrFailedPrecondition, errdefs.ErrInvalidArgument, errdefs.ErrUnavailable,
		errdefs.ErrInternal, errdefs.ErrPermissionDenied, errdefs.ErrResourceExhausted, errdefs.ErrAborted, errdefs.ErrNotImplemented,
	} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// is tells whether libvirt answered with the code.
func is(err error, code golibvirt.ErrorNumber) bool {
	var e golibvirt.Error
	return errors.As(err, &e) && e.Code == uint32(code)
}
