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
	indexList() []index
	values(at int, v any) []string // those of an index
	tells(at int, old, v any) bool // whether an index has to tell of a change that leaves its values alone
}

// index is what the store sees of a TableOption.
type index struct {
	name   string
	unique bool
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
	filedRows  = "/filed"  // see filed
)

// schema is the store's set of tables and sums.
type schema struct {
	tables map[string]table
	sums   map[string][]sum // by table
	first  map[string]int   // by table, the number of its first index
	db     *memdb.DBSchema
}

func newSchema(parts []Schema) (*schema, error) {
	s := &schema{tables: map[string]table{}, sums: map[string][]sum{}, first: map[string]int{}, db: &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{}}}
	for _, name := range []string{uniqueRows, sumRows} {
		s.db.Tables[name] = &memdb.TableSchema{Name: name, Indexes: byKey}
	}
	s.db.Tables[filedRows] = &memdb.TableSchema{Name: filedRows, Indexes: byFiled}
	names, indexes := map[string]bool{}, 0
	for _, p := range parts {
		switch p := p.(type) {
		case table:
			name := p.tableName()
			if s.tables[name] != nil {
				return nil, fmt.Errorf("state: table %q is given twice: %w", name, errdefs.ErrInvalidArgument)
			}
			s.tables[name] = p
			s.first[name] = indexes
			indexes += len(p.indexList())
			s.db.Tables[name] = &memdb.TableSchema{Name: name, Indexes: byKey}
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

// byKey is the only index of most tables in memory. An index of go-memdb's own would be written with every change of a record.
var byKey = map[string]*memdb.IndexSchema{"id": {Name: "id", Unique: true, Indexer: keyIndex{}}}

// keyIndex files an entry under its key. Every index value ends in a zero byte, so that none is a prefix of another.
type keyIndex struct{}

func (keyIndex) FromArgs(args ...any) ([]byte, error) {
	if key, ended := args[0].([]byte); ended {
		return key, nil
	}
	return terminated(args[0].(string)), nil
}

func (keyIndex) FromObject(obj any) (bool, []byte, error) {
	return true, terminated(obj.(*entry).key), nil
}

func terminated(s string) []byte { return append([]byte(s), 0) }
