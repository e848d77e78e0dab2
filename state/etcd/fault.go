package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// kind is what an error of the client says of a request.
type kind int

const (
	unsure  kind = iota // it may have been done; asking again may help
	unsent              // it has not been done; asking again may help
	refused             // it has not been done, and asking again won't help
	expired             // it has not been done: the lease is gone
)

// kindOf classifies an error. What is not known is unsure.
func kindOf(err error) kind {
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return expired
	case class(err) != nil:
		return refused
	case errors.Is(err, rpctypes.ErrTooManyRequests):
		return unsent
	case unconnected(err):
		return unsent
	}
	return unsure
}

// unconnected tells that the client had no connection to send a request on, and why. A connection that breaks under a request is
// "error reading from server", and not among these.
func unconnected(err error) bool {
	text := err.Error()
	return code(err) == codes.Unavailable && !strings.Contains(text, "error reading from server") && (strings.Contains(text, "Error while dialing") ||
		strings.Contains(text, "error reading server preface") || strings.Contains(text, "authentication handshake failed"))
}

// class returns the class of an error that waiting won't help, or nil.
func class(err error) error {
	text := err.Error()
	switch {
	case errdefs.IsInvalidArgument(err): // our own
		return errdefs.ErrInvalidArgument
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return errdefs.ErrPermissionDenied
	case errors.Is(err, rpctypes.ErrAuthFailed), errors.Is(err, rpctypes.ErrUserEmpty), errors.Is(err, rpctypes.ErrInvalidAuthToken),
		errors.Is(err, rpctypes.ErrUserNotFound):
		return errdefs.ErrUnauthenticated
	case errors.Is(err, rpctypes.ErrTooManyOps), errors.Is(err, rpctypes.ErrRequestTooLarge),
		code(err) == codes.ResourceExhausted && strings.Contains(text, "larger than max"):
		return errdefs.ErrInvalidArgument
	case errors.Is(err, rpctypes.ErrNoSpace):
		return errdefs.ErrResourceExhausted
	case unconnected(err) && (strings.Contains(text, "tls: ") || strings.Contains(text, "x509: ")):
		return errdefs.ErrUnauthenticated
	case code(err) == codes.Unimplemented, strings.Contains(text, "unsupported operations in txn request"): // the latter is kine's
		return errdefs.ErrNotImplemented
	}
	return nil
}

// code is the gRPC code of an error, which the client gives in two ways.
func code(err error) codes.Code {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code()
	}
	return status.Code(err)
}

// foreign is an error of the client in our words.
func foreign(err error) error {
	c := class(err)
	switch {
	case errdefs.IsInvalidArgument(err):
		return err // our own
	case errors.Is(err, rpctypes.ErrTooManyOps):
		return fmt.Errorf("state/etcd: etcd's --max-txn-ops is below Config.MaxOps: %w: %w", err, c)
	case errors.Is(err, rpctypes.ErrRequestTooLarge), c == errdefs.ErrInvalidArgument:
		return fmt.Errorf("state/etcd: etcd's --max-request-bytes, or the client's MaxCallSendMsgSize, is below what Config.MaxBytes needs: %w: %w", err, c)
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("state/etcd: etcd is full, see its --quota-backend-bytes and its alarms: %w: %w", err, c)
	case c == errdefs.ErrNotImplemented:
		return fmt.Errorf("state/etcd: the server is no complete etcd, so Config.SingleKey may be needed: %w: %w", err, c)
	case c != nil:
		return fmt.Errorf("state/etcd: %w: %w", err, c)
	}
	return fmt.Errorf("state/etcd: %w: %w", err, errdefs.ErrUnavailable)
}

// unknown is the error of a batch that may be in the log.
func unknown(err error) error {
	return fmt.Errorf("state/etcd: etcd could not be asked what became of it after %v: %w", err, state.ErrUnknown)
}

// nothingWritten is the error of a commit that was tried for too long.
func nothingWritten(within time.Duration, cause error) error {
	return fmt.Errorf("state/etcd: nothing was written within %v: %w: %w", within, cause, errdefs.ErrUnavailable)
}

// pause grows from try to try, up to five seconds, and is never quite the same for two that wait.
type pause struct{ now time.Duration }

// next is how long wait will wait.
func (p *pause) next() time.Duration {
	if p.now == 0 {
		p.now = 50*time.Millisecond + rand.N(50*time.Millisecond)
	}
	return p.now.Round(time.Millisecond)
}

// wait returns false if one of the two ended the wait.
func (p *pause) wait(ctx context.Context, closing <-chan struct{}) bool {
	timer := time.NewTimer(p.next())
	defer timer.Stop()
	p.now = min(p.now+rand.N(2*p.now), 4*time.Second+rand.N(time.Second))
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-closing:
	}
	return false
}
