package linux

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// failed says what could not be done, and of which class the kernel's reason is. The context's error stays as it is.
func failed(what string, err error) error {
	class := error(errdefs.ErrInternal)
	var errno unix.Errno
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case !errors.As(err, &errno):
	case errno == unix.EPERM || errno == unix.EACCES:
		class = errdefs.ErrPermissionDenied
	case errno == unix.EBUSY || errno == unix.EAGAIN || errno == unix.EINTR || errno == unix.ENOBUFS || errno == unix.ENOMEM:
		class = errdefs.ErrUnavailable
	case errno == unix.ENFILE: // of a set: see maxTaps
		class = errdefs.ErrResourceExhausted
	case errno == unix.EOPNOTSUPP:
		class = errdefs.ErrNotImplemented
	}
	return fmt.Errorf("network: %s: %w: %w", what, err, class)
}

func foreign(what, name string) error {
	return fmt.Errorf("network: %s %s: a link of this name is there, and not of this library's making: %w", what, name, errdefs.ErrAlreadyExists)
}
