//go:build !linux

package iscsi

import "errors"

// Sync has all that was written reach stable storage.
func (s *File) Sync() error { return s.f.Sync() }

func (s *File) punch(offset, length int64) error { return errors.ErrUnsupported }
