package state

import (
	"encoding/json"
)

// Amount is what a [Sum] adds up: a comparable struct of numbers whose zero value is nothing.
type Amount[V any] interface {
	comparable
	Plus(V) V
	Minus(V) V
}

// Sum is a projection of a table: the amounts of its records, added up by group. It is derived from the records by
// the store, within the transaction that changes them, so it can't drift from them. Reading a sum through a [Tx] guards
// it: of two writers that both saw room for one more, one is refused by the log and looks again.
type Sum[T any, V Amount[V]] struct {
	name  string
	table *Table[T]
	of    func(T) (group string, amount V)
}

// NewSum describes a sum over table under name. of returns the group that a record counts in and its amount; a zero
// amount counts nowhere. It panics when name is empty or has a slash.
func NewSum[T any, V Amount[V]](name string, table *Table[T], of func(T) (group string, amount V)) *Sum[T, V] {
	mustName(name)
	return &Sum[T, V]{name, table, of}
}

// Get returns the sum of a group, zero if it has no records.
func (s *Sum[T, V]) Get(r Reader, group string) V {
	e := r.sum(s.name, group)
	if e == nil || e.val == nil {
		var zero V
		return zero
	}
	return e.val.(V)
}

func (s *Sum[T, V]) sumName() string { return s.name }

func (s *Sum[T, V]) over() string { return s.table.name }

func (s *Sum[T, V]) amount(rec any) (string, any) {
	group, v := s.of(rec.(T))
	var zero V
	if v == zero {
		return "", nil
	}
	return group, v
}

// add returns a + b - c; nil stands for zero, in and out.
func (s *Sum[T, V]) add(a, plus, minus any) any {
	var v, zero V
	if a != nil {
		v = a.(V)
	}
	if plus != nil {
		v = v.Plus(plus.(V))
	}
	if minus != nil {
		v = v.Minus(minus.(V))
	}
	if v == zero {
		return nil
	}
	return v
}

func (s *Sum[T, V]) encode(v any) ([]byte, error) { return json.Marshal(v) }
