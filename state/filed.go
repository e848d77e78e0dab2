package state

import (
	"bytes"
	"encoding/binary"
	"iter"
	"slices"

	memdb "github.com/hashicorp/go-memdb"
)

// filed is a row that files a record under a value of an index that is not unique: the number of the index, the value and the record's key,
// the last two with a zero byte behind. It stays as it is while its record changes, unless the index has to tell of that.
type filed struct{ key []byte }

// record returns the key of the record, with its zero byte.
func (f *filed) record() []byte {
	return f.key[bytes.LastIndexByte(f.key[:len(f.key)-1], 0)+1:]
}

// prepare puts a row for each index itself into filedRows: below it are those of the index, so that who waits for a value that no record has
// is not woken by other indexes.
func (s *schema) prepare(db *memdb.MemDB) error {
	rows := db.Txn(true)
	defer rows.Abort()
	for name, t := range s.tables {
		for at := range t.indexList() {
			if err := rows.Insert(filedRows, &filed{s.indexKey(name, at, 0)}); err != nil {
				return err
			}
		}
	}
	rows.Commit()
	return nil
}

// indexKey returns what all rows of an index begin with, with room for more bytes.
func (s *schema) indexKey(table string, at, more int) []byte {
	return binary.BigEndian.AppendUint16(make([]byte, 0, 2+more), uint16(s.first[table]+at))
}

// filedUnder returns what the rows begin with that are filed under a value.
func (s *schema) filedUnder(table string, at int, value string) []byte {
	return append(append(s.indexKey(table, at, len(value)+1), value...), 0)
}

func (s *schema) filed(table string, at int, value, key string) *filed {
	row := append(append(s.indexKey(table, at, len(value)+len(key)+2), value...), 0)
	return &filed{append(append(row, key...), 0)}
}

var byFiled = map[string]*memdb.IndexSchema{"id": {Name: "id", Unique: true, Indexer: filedIndex{}}}

type filedIndex struct{}

func (filedIndex) FromArgs(args ...any) ([]byte, error)       { return args[0].([]byte), nil }
func (filedIndex) PrefixFromArgs(args ...any) ([]byte, error) { return args[0].([]byte), nil }
func (filedIndex) FromObject(obj any) (bool, []byte, error)   { return true, obj.(*filed).key, nil }

// refiling is a row of filedRows that comes or goes.
type refiling struct {
	row  *filed
	goes bool
}

func (r refiling) in(rows *memdb.Txn) error {
	if r.goes {
		return rows.Delete(filedRows, r.row)
	}
	return rows.Insert(filedRows, r.row)
}

// moved returns which values an index no longer has of a record that changes from old to val, and which it has anew; nil stands for no record.
func moved(t table, at int, old, val any) (gone, come []string) {
	var before, after []string
	if old != nil {
		before = t.values(at, old)
	}
	if val != nil {
		after = t.values(at, val)
	}
	if slices.Equal(before, after) {
		return nil, nil
	}
	return without(before, after), without(after, before)
}

// without returns those of all that are not among others, each once.
func without(all, others []string) (left []string) {
	for _, v := range all {
		if !slices.Contains(others, v) && !slices.Contains(left, v) {
			left = append(left, v)
		}
	}
	return left
}

// refile yields what a record's change from old to val does to filedRows; nil stands for no record.
func (s *schema) refile(t table, key string, old, val any) iter.Seq[refiling] {
	return func(yield func(refiling) bool) {
		for at, x := range t.indexList() {
			if x.unique {
				continue
			}
			gone, come := moved(t, at, old, val)
			for _, v := range gone {
				if !yield(refiling{s.filed(t.tableName(), at, v, key), true}) {
					return
				}
			}
			for _, v := range come {
				if !yield(refiling{s.filed(t.tableName(), at, v, key), false}) {
					return
				}
			}
		}
	}
}

// tell yields the rows that are written again because their indexes have to tell of a record's change from old to val.
func (s *schema) tell(t table, key string, old, val any) iter.Seq[refiling] {
	return func(yield func(refiling) bool) {
		for at, x := range t.indexList() {
			if x.unique || old == nil || val == nil || !t.tells(at, old, val) {
				continue
			}
			for _, v := range t.values(at, val) {
				if !yield(refiling{s.filed(t.tableName(), at, v, key), false}) {
					return
				}
			}
		}
	}
}

// under yields the keys of the records, with a zero byte behind, that are filed under what row keys begin with.
func under(rows *memdb.Txn, begin []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		found, err := rows.Get(filedRows, "id_prefix", begin)
		if err != nil {
			panic(err) // the table is always there
		}
		for obj := found.Next(); obj != nil; obj = found.Next() {
			if !yield(obj.(*filed).record()) {
				return
			}
		}
	}
}
