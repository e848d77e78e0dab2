package state

import (
	"fmt"
	"iter"
	"strings"

	"github.com/containerd/errdefs"
	memdb "github.com/hashicorp/go-memdb"
)

// Reader is what records are read from: a [View], a [Tx], or [Tx.Unguarded].
type Reader interface {
	get(table, key string) *entry
	look(table, key string) *entry // as get, and is no reason for what an Update does
	filed(table string, at int, value string) iter.Seq[*entry]
	from(table, key string) iter.Seq[*entry]
	sum(name, group string) *entry
}

// View is the state at one revision. It may be used by several goroutines, and stays what it is while the store
// goes on; keeping it keeps the memory of what has changed since.
type View struct {
	schema *schema
	rows   *memdb.Txn
	rev    Revision
}

// Revision returns the revision of the view.
func (v *View) Revision() Revision { return v.rev }

func (v *View) get(table, key string) *entry { return first(v.rows, table, key) }

func (v *View) look(table, key string) *entry { return first(v.rows, table, key) }

func (v *View) filed(table string, at int, value string) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for key := range under(v.rows, v.schema.filedUnder(table, at, value)) {
			if !yield(first(v.rows, table, key)) {
				return
			}
		}
	}
}

func (v *View) from(table, key string) iter.Seq[*entry] { return from(v.rows, table, key) }

func (v *View) sum(name, group string) *entry { return first(v.rows, sumRows, sumKey(name, group)) }

// Tx is the state within an Update: what it changes, it sees. It belongs to the goroutine that runs the function and
// ends with it.
type Tx struct {
	schema *schema
	group  *batch
	guards map[string]Revision
	ops    map[string]Op
	undo   []former   // to take back what it changed, should it fail
	moves  []refiling // likewise
}

// former is what a group had of a row before a change.
type former struct {
	row   rowID
	entry *entry
	noted bool // that the group had changed it before
}

// Unguarded returns a reader of the same data whose reads don't count as a reason for what the Update does: a
// change of them by another writer doesn't make it run again.
func (tx *Tx) Unguarded() Reader { return unguarded{tx} }

type unguarded struct{ tx *Tx }

func (u unguarded) get(table, key string) *entry { return u.tx.look(table, key) }

func (u unguarded) look(table, key string) *entry { return u.tx.look(table, key) }

func (u unguarded) filed(table string, at int, value string) iter.Seq[*entry] {
	return u.tx.filedBy(table, at, value, u.get)
}

func (u unguarded) from(table, key string) iter.Seq[*entry] { return u.tx.group.from(table, key) }

func (u unguarded) sum(name, group string) *entry { return u.tx.look(sumRows, sumKey(name, group)) }

func (tx *Tx) get(table, key string) *entry {
	e := tx.look(table, key)
	tx.guard(recordKey(table, key), e)
	return e
}

func (tx *Tx) filed(table string, at int, value string) iter.Seq[*entry] {
	return tx.filedBy(table, at, value, tx.get)
}

// filedBy yields what get returns of the records that are filed under a value.
func (tx *Tx) filedBy(table string, at int, value string, get func(table, key string) *entry) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for key := range under(tx.group.filed(), tx.schema.filedUnder(table, at, value)) {
			if e := get(table, string(key[:len(key)-1])); e != nil && !yield(e) { // nil: whoever ranges has deleted it
				return
			}
		}
	}
}

func (tx *Tx) from(table, key string) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for e := range tx.group.from(table, key) {
			tx.guard(recordKey(table, e.key), e)
			if !yield(e) {
				return
			}
		}
	}
}

func (tx *Tx) sum(name, group string) *entry {
	key := sumKey(name, group)
	e := tx.look(sumRows, key)
	tx.guard(key, e)
	return e
}

// look returns a row as the group has it so far.
func (tx *Tx) look(table, key string) *entry { return tx.group.look(rowID{table, key}) }

// set puts, or with nil removes, a row.
func (tx *Tx) set(table, key string, e *entry) {
	id := rowID{table, key}
	was, noted := tx.group.changed[id]
	tx.undo = append(tx.undo, former{id, was, noted})
	tx.group.changed[id] = e
	tx.group.leave(id)
}

// refile files a record that changes from old to val.
func (tx *Tx) refile(t table, key string, old, val any) {
	for r := range tx.schema.refile(t, key, old, val) {
		tx.moves = append(tx.moves, r)
		tx.group.refile(r)
	}
	for range tx.schema.tell(t, key, old, val) { // nobody waits within a group; but if it panics, then here, where it is the caller's
		continue
	}
}

// takeBack undoes what the update changed.
func (tx *Tx) takeBack() {
	for i := len(tx.undo) - 1; i >= 0; i-- {
		u := tx.undo[i]
		if u.noted {
			tx.group.changed[u.row] = u.entry
		} else {
			delete(tx.group.changed, u.row)
		}
		tx.group.leave(u.row)
	}
	for i := len(tx.moves) - 1; i >= 0; i-- {
		r := tx.moves[i]
		r.goes = !r.goes
		tx.group.refile(r)
	}
}

func setRow(rows *memdb.Txn, table string, old, e *entry) error {
	switch {
	case e != nil:
		return rows.Insert(table, e)
	case old != nil:
		return rows.Delete(table, old)
	}
	return nil
}

// guard notes the revision that a decision rests on. What this group of updates wrote itself needs no guard: the guard of
// its first write stands for it.
func (tx *Tx) guard(key string, e *entry) {
	if _, mine := tx.ops[key]; mine {
		return
	}
	if _, theirs := tx.group.ops[key]; theirs {
		return
	}
	if _, noted := tx.guards[key]; noted || (e != nil && e.rev == pending) {
		return
	}
	rev := Revision(0)
	if e != nil {
		rev = e.rev
	}
	tx.guards[key] = rev
}

func (tx *Tx) put(t table, key string, val any) error {
	if err := checkKey(key); err != nil {
		return fmt.Errorf("%s key: %w", t.tableName(), err)
	}
	old := tx.get(t.tableName(), key)
	b, err := t.encode(val)
	if err != nil {
		return fmt.Errorf("%s %q: %w: %w", t.tableName(), key, err, errdefs.ErrInvalidArgument)
	}
	if err := tx.claim(t, key, old, val); err != nil {
		return err
	}
	tx.set(t.tableName(), key, &entry{key, pending, val})
	tx.refile(t, key, oldValue(old), val)
	logKey := recordKey(t.tableName(), key)
	tx.ops[logKey] = Op{Key: logKey, Value: b}
	return tx.addUp(t, old, val)
}

func (tx *Tx) remove(t table, key string) error {
	old := tx.get(t.tableName(), key)
	if err := tx.claim(t, key, old, nil); err != nil {
		return err
	}
	tx.set(t.tableName(), key, nil)
	tx.refile(t, key, oldValue(old), nil)
	logKey := recordKey(t.tableName(), key)
	tx.ops[logKey] = Op{Key: logKey, Delete: true}
	return tx.addUp(t, old, nil)
}

// claim takes the unique values that val has and old had not, and gives up those that only old had.
func (tx *Tx) claim(t table, key string, old *entry, val any) error {
	var gone, come []string // their log keys
	for at, x := range t.indexList() {
		if !x.unique {
			continue
		}
		left, taken := moved(t, at, oldValue(old), val)
		for _, value := range left {
			gone = append(gone, uniqueKey(t.tableName(), x.name, value))
		}
		for _, value := range taken {
			logKey := uniqueKey(t.tableName(), x.name, value)
			if err := checkKey(logKey); err != nil {
				return fmt.Errorf("%s %s %q: %w", t.tableName(), x.name, value, err)
			}
			owner := tx.look(uniqueRows, logKey)
			tx.guard(logKey, owner)
			if owner != nil {
				return fmt.Errorf("%s with %s %q: %w", t.tableName(), x.name, value, errdefs.ErrAlreadyExists)
			}
			come = append(come, logKey)
		}
	}
	for _, logKey := range gone {
		if owner := tx.look(uniqueRows, logKey); owner != nil {
			tx.guard(logKey, owner)
			tx.set(uniqueRows, logKey, nil)
		}
		tx.ops[logKey] = Op{Key: logKey, Delete: true}
	}
	for _, logKey := range come {
		tx.set(uniqueRows, logKey, &entry{logKey, pending, key})
		tx.ops[logKey] = Op{Key: logKey, Value: []byte(key)}
	}
	return nil
}

// addUp brings the sums over t up to date with a change from old to val.
func (tx *Tx) addUp(t table, old *entry, val any) error {
	return changeSums(tx.schema, t, oldValue(old), val, func(s sum, group string, plus, minus any) error {
		key := sumKey(s.sumName(), group)
		e := tx.look(sumRows, key)
		tx.guard(key, e)
		total := s.add(oldValue(e), plus, minus)
		if total == nil {
			tx.ops[key] = Op{Key: key, Delete: true}
			tx.set(sumRows, key, nil)
			return nil
		}
		b, err := s.encode(total)
		if err != nil {
			return err
		}
		tx.ops[key] = Op{Key: key, Value: b}
		tx.set(sumRows, key, &entry{key, pending, total})
		return nil
	})
}

// changeSums calls change for every group of every sum that a record's change from old to val touches.
func changeSums(sc *schema, t table, old, val any, change func(s sum, group string, plus, minus any) error) error {
	for _, s := range sc.sums[t.tableName()] {
		var from, to string
		var minus, plus any
		if old != nil {
			from, minus = s.amount(old)
		}
		if val != nil {
			to, plus = s.amount(val)
		}
		if from == to && minus == plus {
			continue
		}
		if from == to && minus != nil && plus != nil {
			if err := change(s, to, plus, minus); err != nil {
				return err
			}
			continue
		}
		if minus != nil {
			if err := change(s, from, nil, minus); err != nil {
				return err
			}
		}
		if plus != nil {
			if err := change(s, to, plus, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

func oldValue(e *entry) any {
	if e == nil {
		return nil
	}
	return e.val
}

func checkKey(key string) error {
	if key == "" || len(key) > MaxKey || strings.ContainsRune(key, 0) {
		return fmt.Errorf("must have 1 to %d bytes, none of them zero, but has %d: %w", MaxKey, len(key), errdefs.ErrInvalidArgument)
	}
	return nil
}

// first returns a row by its key, a string, or a []byte with a zero byte behind.
func first[K string | []byte](rows *memdb.Txn, table string, key K) *entry {
	obj, err := rows.First(table, "id", key)
	if err != nil {
		panic(fmt.Sprintf("state: %v: the store was opened without this table", err))
	}
	if obj == nil {
		return nil
	}
	return obj.(*entry)
}

func from(rows *memdb.Txn, table, key string) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		found, err := rows.LowerBound(table, "id", key)
		if err != nil {
			panic(fmt.Sprintf("state: %v: the store was opened without this table", err))
		}
		for obj := found.Next(); obj != nil; obj = found.Next() {
			if !yield(obj.(*entry)) {
				return
			}
		}
	}
}
