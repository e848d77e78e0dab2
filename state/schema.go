package state

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	memdb "github.com/hashicorp/go-memdb"
)

// Schema is a [Table] or a [Sum], as a store takes them.
type Schema interface{ encode(v any) ([]byte, error) }

// table is what the store sees of a Table[T].
type table interface {
	Schema
	tableName() string
	decode([]byte) (any, error)
	indexNames() []string
	indexValues(index int, v any) []string
	// uniques returns the log keys of v's unique values, each with words for an error.
	uniques(v any) map[string]string
}

// sum is what the store sees of a Sum[T, V].
type sum interface {
	Schema
	sumName() string
	over() string
	amount(rec any) (group string, amount any)
	add(a, plus, minus any) any
}

// entry is a row of any table in memory: immutable once it is in.
type entry struct {
	key string
	rev Revision // pending while its update is not committed
	val any
}

// pending is the revision of what an earlier update of the same group wrote.
const pending = ^Revision(0)

// Keys in the log: r/<table>/<key> a record, u/<table>/<index>/<value> a unique value (its value is the record's key),
// s/<sum>/<group> a sum.
func recordKey(table, key string) string          { return "r/" + table + "/" + key }
func uniqueKey(table, index, value string) string { return "u/" + table + "/" + index + "/" + value }
func sumKey(sum, group string) string             { return "s/" + sum + "/" + group }
func splitKey(key string) (kind, name, rest string) {
	kind, rest, _ = strings.Cut(key, "/")
	name, rest, whole := strings.Cut(rest, "/")
	if !whole {
		return "", "", ""
	}
	return kind, name, rest
}

// Names of the tables in memory besides one for each Table.
const (
	uniqueRows = "/unique" // keyed by the log key
	sumRows    = "/sum"    // keyed by the log key
)

// schema is the store's set of tables and sums.
type schema struct {
	tables map[string]table
	sums   map[string][]sum // by table
	db     *memdb.DBSchema
}

func newSchema(parts []Schema) (*schema, error) {
	s := &schema{tables: map[string]table{}, sums: map[string][]sum{}, db: &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{}}}
	for _, name := range []string{uniqueRows, sumRows} {
		s.db.Tables[name] = &memdb.TableSchema{Name: name, Indexes: map[string]*memdb.IndexSchema{"id": byKey}}
	}
	names := map[string]bool{}
	for _, p := range parts {
		switch p := p.(type) {
		case table:
			name := p.tableName()
			if s.tables[name] != nil {
				return nil, fmt.Errorf("state: table %q is given twice: %w", name, errdefs.ErrInvalidArgument)
			}
			s.tables[name] = p
			indexes := map[string]*memdb.IndexSchema{"id": byKey}
			for i, index := range p.indexNames() {
				indexes[index] = &memdb.IndexSchema{Name: index, AllowMissing: true, Indexer: valueIndex{p, i}}
			}
			s.db.Tables[name] = &memdb.TableSchema{Name: name, Indexes: indexes}
		case sum:
			if names[p.sumName()] {
				return nil, fmt.Errorf("state: sum %q is given twice: %w", p.sumName(), errdefs.ErrInvalidArgument)
			}
			names[p.sumName()] = true
			s.sums[p.over()] = append(s.sums[p.over()], p)
		}
	}
	for of, sums := range s.sums {
		if s.tables[of] == nil {
			return nil, fmt.Errorf("state: sum %q is over table %q, which is not given: %w", sums[0].sumName(), of, errdefs.ErrInvalidArgument)
		}
	}
	return s, nil
}

var byKey = &memdb.IndexSchema{Name: "id", Unique: true, Indexer: keyIndex{}}

// keyIndex files an entry under its key. Every index value ends in a zero byte, so that none is a prefix of another.
type keyIndex struct{}

func (keyIndex) FromArgs(args ...any) ([]byte, error) { return terminated(args[0].(string)), nil }
func (keyIndex) FromObject(obj any) (bool, []byte, error) {
	return true, terminated(obj.(*entry).key), nil
}

type valueIndex struct {
	table table
	index int
}

func (valueIndex) FromArgs(args ...any) ([]byte, error) { return terminated(args[0].(string)), nil }
func (x valueIndex) FromObject(obj any) (bool, [][]byte, error) {
	values := x.table.indexValues(x.index, obj.(*entry).val)
	if len(values) == 0 {
		return false, nil, nil
	}
	all := make([][]byte, len(values))
	for i, v := range values {
		all[i] = terminated(v)
	}
	return true, all, nil
}

func terminated(s string) []byte { return append([]byte(s), 0) }
