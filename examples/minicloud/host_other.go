//go:build !linux

package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
)

type host struct{ netns, socket string }

func prepareHost(context.Context, options, *slog.Logger) (*host, error) {
	return nil, errors.New("runs on Linux alone")
}

func (*host) listen(context.Context, string) (net.Listener, error) {
	return nil, errors.New("runs on Linux alone")
}

func (*host) remove(context.Context, bool) error { return nil }
