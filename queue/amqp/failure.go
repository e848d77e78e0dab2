package amqp

import (
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// errLost is what becomes of a message whose connection ends before its fate is known.
var errLost = fmt.Errorf("amqp: the connection to the broker ended, the message may have been handled: %w", errdefs.ErrUnavailable)

// translate gives a foreign error its class, once. The broker's texts about users are left out: they name them.
func translate(what string, err error) error {
	if err == nil {
		return nil
	}
	var wire *amqp091.Error
	if !errors.As(err, &wire) {
		return fmt.Errorf("amqp: %s: %w: %w", what, err, errdefs.ErrUnavailable)
	}
	var class error = errdefs.ErrUnavailable
	text := wire.Reason
	switch wire.Code {
	case amqp091.AccessRefused:
		class, text = errdefs.ErrPermissionDenied, "the broker does not allow the user to do that"
	case amqp091.NotAllowed:
		class, text = errdefs.ErrPermissionDenied, "the broker does not allow that"
	case amqp091.PreconditionFailed:
		class = errdefs.ErrFailedPrecondition
	case amqp091.NotFound:
		class = errdefs.ErrNotFound
	case amqp091.ResourceLocked:
		class = errdefs.ErrConflict
	case amqp091.ResourceError, amqp091.ContentTooLarge:
		class = errdefs.ErrResourceExhausted
	case amqp091.NotImplemented:
		class = errdefs.ErrNotImplemented
	case amqp091.InternalError:
		class = errdefs.ErrInternal
	}
	return fmt.Errorf("amqp: %s: %s (code %d): %w", what, text, wire.Code, class)
}

// refused translates an error of the handshake, where some codes mean something else.
func (at broker) refused(err error) error {
	var (
		wire   *amqp091.Error
		cert   *tls.CertificateVerificationError
		record tls.RecordHeaderError
		alert  tls.AlertError
	)
	switch {
	case errors.As(err, &cert):
		return fmt.Errorf("amqp: the certificate of the broker at %s: %w: %w", at.address, cert.Err, errdefs.ErrUnauthenticated)
	case errors.As(err, &record):
		return fmt.Errorf("amqp: the broker at %s does not speak TLS there: %w", at.address, errdefs.ErrFailedPrecondition)
	case errors.As(err, &alert):
		return fmt.Errorf("amqp: the broker at %s refuses TLS: %w: %w", at.address, alert, errdefs.ErrUnauthenticated)
	case errors.As(err, &wire) && wire.Code == amqp091.AccessRefused:
		return fmt.Errorf("amqp: the broker at %s refuses the user and password of Config.URL: %w", at.address, errdefs.ErrUnauthenticated)
	case errors.As(err, &wire) && wire.Code == amqp091.NotAllowed:
		return fmt.Errorf("amqp: the broker at %s refuses the virtual host %q to the user: %w", at.address, at.vhost, errdefs.ErrPermissionDenied)
	}
	return translate("connecting to "+at.address, err)
}

// lasting tells whether trying again would be of no use.
func lasting(err error) bool {
	return errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) || errdefs.IsFailedPrecondition(err) || errdefs.IsInvalidArgument(err)
}
