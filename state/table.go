package state

import (
	"encoding/json"
	"fmt"
	"iter"
	"reflect"
	"strings"

	"github.com/containerd/errdefs"
)

// MaxKey is the most bytes a record key, an index value or a unique value may have.
const MaxKey = 512

// Table is a typed set of records. It is a description, without state of its own: declare it once as a package
// variable and use it with any number of stores that have it in their [Config].
type Table[T any] struct {
	name    string
	key     func(T) string
	options []TableOption[T]
	indexes []index // of options
	clone   func(T) T
}

// TableOption is an index or a unique value of a table, made by [Index] or [Unique].
type TableOption[T any] struct {
	index
	values func(T) []string
	told   func(T) string // nil: nothing
}

// Telling returns the index with a part of the record that its signals tell of: [Table.Signal].
func (o TableOption[T]) Telling(part func(T) string) TableOption[T] {
	o.told = part
	return o
}

// Index lets records be found by what values returns of them, with [Table.By]. Several values file the record under
// each, none leaves it out.
func Index[T any](name string, values func(T) []string) TableOption[T] {
	return TableOption[T]{index: index{name, false}, values: values}
}

// Unique is an index whose values belong to one record of the table at a time, across all processes that share the
// log. An empty string is a value like any other; return none to leave a record out.
func Unique[T any](name string, values func(T) []string) TableOption[T] {
	return TableOption[T]{index: index{name, true}, values: values}
}

// NewTable describes a table of records of type T under name; key returns what identifies a record and never changes in
// one. It panics when name or an option's name is empty or has a slash, when two options have one name, or when T holds
// references (a slice, map or pointer) and has no method Clone() T.
func NewTable[T any](name string, key func(T) string, options ...TableOption[T]) *Table[T] {
	mustName(name)
	seen := map[string]bool{"id": true}
	for _, o := range options {
		mustName(o.name)
		if seen[o.name] {
			panic(fmt.Sprintf("state: table %s: index %q is declared twice, or has a name that is taken", name, o.name))
		}
		seen[o.name] = true
	}
	t := &Table[T]{name: name, key: key, options: options, clone: func(v T) T { return v }}
	for _, o := range options {
		t.indexes = append(t.indexes, o.index)
	}
	var zero T
	if _, ok := any(zero).(interface{ Clone() T }); ok {
		t.clone = func(v T) T { return any(v).(interface{ Clone() T }).Clone() }
	} else if path := reference(reflect.TypeFor[T]()); path != "" {
		panic(fmt.Sprintf("state: table %s: %s holds a reference, so %T needs a method Clone() %T", name, path, zero, zero))
	}
	return t
}

func mustName(name string) {
	if name == "" || strings.Contains(name, "/") {
		panic(fmt.Sprintf("state: %q is not a name for a table, index or sum: it is empty or has a slash", name))
	}
}

// Get returns the record with this key, or NotFound.
func (t *Table[T]) Get(r Reader, key string) (T, error) {
	e := r.get(t.name, key)
	if e == nil {
		var zero T
		return zero, fmt.Errorf("%s %q: %w", t.name, key, errdefs.ErrNotFound)
	}
	return t.clone(e.val.(T)), nil
}

// Has tells whether there is a record with this key.
func (t *Table[T]) Has(r Reader, key string) bool { return r.get(t.name, key) != nil }

// All yields every record, in the order of their keys.
func (t *Table[T]) All(r Reader) iter.Seq[T] { return t.each(r.from(t.name, "")) }

// From yields the records whose keys are at or after key, in the order of their keys.
func (t *Table[T]) From(r Reader, key string) iter.Seq[T] { return t.each(r.from(t.name, key)) }

// By yields the records filed under value in an index or unique index, in the order of their keys. It panics if the
// table has no such index.
func (t *Table[T]) By(r Reader, index, value string) iter.Seq[T] {
	at := t.index(index)
	if !t.indexes[at].unique {
		return t.each(r.filed(t.name, at, value))
	}
	return func(yield func(T) bool) {
		if owner := r.look(uniqueRows, uniqueKey(t.name, index, value)); owner != nil {
			if e := r.get(t.name, owner.val.(string)); e != nil {
				yield(t.clone(e.val.(T)))
			}
		}
	}
}

// index returns which of the table's indexes has this name.
func (t *Table[T]) index(name string) int {
	for at, x := range t.indexes {
		if x.name == name {
			return at
		}
	}
	panic(fmt.Sprintf("state: table %s has no index %q", t.name, name))
}

func (t *Table[T]) each(entries iter.Seq[*entry]) iter.Seq[T] {
	return func(yield func(T) bool) {
		for e := range entries {
			if !yield(t.clone(e.val.(T))) {
				return
			}
		}
	}
}

// One returns the record filed under value in a unique index, or NotFound naming index and value.
func (t *Table[T]) One(r Reader, index, value string) (T, error) {
	for rec := range t.By(r, index, value) {
		return rec, nil
	}
	var zero T
	return zero, fmt.Errorf("%s with %s %q: %w", t.name, index, value, errdefs.ErrNotFound)
}

// Insert adds a record; one with its key, or with one of its unique values, is AlreadyExists.
func (t *Table[T]) Insert(tx *Tx, rec T) error {
	key := t.key(rec)
	if tx.get(t.name, key) != nil {
		return fmt.Errorf("%s %q: %w", t.name, key, errdefs.ErrAlreadyExists)
	}
	return tx.put(t, key, t.clone(rec))
}

// Put adds the record or replaces the one with its key; a unique value that another record has is AlreadyExists.
func (t *Table[T]) Put(tx *Tx, rec T) error { return tx.put(t, t.key(rec), t.clone(rec)) }

// Delete removes the record with this key, or is NotFound.
func (t *Table[T]) Delete(tx *Tx, key string) error {
	if tx.get(t.name, key) == nil {
		return fmt.Errorf("%s %q: %w", t.name, key, errdefs.ErrNotFound)
	}
	return tx.remove(t, key)
}

// TableChange is one record's change: Old is nil for a new record, New for a removed one.
type TableChange[T any] struct {
	Key      string
	Old, New *T
}

// Changes yields those of c's changes that are in this table.
func (t *Table[T]) Changes(c Changes) iter.Seq[TableChange[T]] {
	copied := func(e *entry) *T {
		if e == nil {
			return nil
		}
		v := t.clone(e.val.(T))
		return &v
	}
	return func(yield func(TableChange[T]) bool) {
		for _, ch := range c.list {
			if ch.table == t.name && !yield(TableChange[T]{ch.key, copied(ch.old), copied(ch.new)}) {
				return
			}
		}
	}
}

// The part of a table that the store sees.

func (t *Table[T]) tableName() string { return t.name }

func (t *Table[T]) decode(b []byte) (any, error) {
	var v T
	err := json.Unmarshal(b, &v)
	return v, err
}

func (t *Table[T]) encode(v any) ([]byte, error) { return json.Marshal(v) }

func (t *Table[T]) indexList() []index { return t.indexes }

func (t *Table[T]) values(at int, v any) []string { return t.options[at].values(v.(T)) }

func (t *Table[T]) tells(at int, old, v any) bool {
	told := t.options[at].told
	return told != nil && told(old.(T)) != told(v.(T))
}

// reference returns where in a type the first reference is, or "". Strings, times and addresses count as values.
func reference(t reflect.Type) string {
	switch t.String() {
	case "time.Time", "netip.Addr", "netip.Prefix", "netip.AddrPort":
		return ""
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Map, reflect.Pointer, reflect.Interface, reflect.Chan, reflect.Func, reflect.UnsafePointer:
		return t.String()
	case reflect.Array:
		return reference(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if path := reference(t.Field(i).Type); path != "" {
				return t.String() + "." + t.Field(i).Name
			}
		}
	}
	return ""
}
