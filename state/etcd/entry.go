package etcd

import (
	"encoding/binary"
	"errors"
	"slices"

	"github.com/dewpoint-cloud/dewpoint/state"
)

// errEntry is a value of the journal that can't be read.
var errEntry = errors.New("state/etcd: a value is no entry of a journal")

// appendEntry appends an entry of the journal: the format, the id of its commit, and the operations.
func appendEntry(to []byte, id string, ops []state.Op) []byte {
	return appendOps(appendText(append(to, format...), id), ops)
}

// parseEntry is the inverse of appendEntry.
func parseEntry(value []byte) (id string, ops []state.Op, err error) {
	if len(value) == 0 || string(value[:1]) != format {
		return "", nil, errEntry
	}
	r := reader{rest: value[1:]}
	id = string(r.text())
	if r.failed {
		return "", nil, errEntry
	}
	ops, err = parseOps(r.rest)
	return id, ops, err
}

// appendOps appends operations: for each, twice the revision, and one more if it is a removal; the key; and the value if it is none.
func appendOps(to []byte, ops []state.Op) []byte {
	for _, op := range ops {
		head := uint64(op.Rev) << 1
		if op.Delete {
			head |= 1
		}
		to = appendText(binary.AppendUvarint(to, head), op.Key)
		if !op.Delete {
			to = appendText(to, op.Value)
		}
	}
	return to
}

// parseOps is the inverse of appendOps. What it returns shares nothing with value.
func parseOps(value []byte) (ops []state.Op, err error) {
	for r := (reader{rest: value}); len(r.rest) > 0; {
		head := r.number()
		op := state.Op{Rev: state.Revision(head >> 1), Delete: head&1 != 0, Key: string(r.text())}
		if !op.Delete {
			op.Value = slices.Clone(r.text())
		}
		if r.failed || op.Key == "" {
			return nil, errEntry
		}
		ops = append(ops, op)
	}
	return ops, nil
}

func appendText[T string | []byte](to []byte, text T) []byte {
	return append(binary.AppendUvarint(to, uint64(len(text))), text...)
}

// reader takes what appendOps has appended, piece by piece.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.rest, r.failed = nil, true
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *reader) text() []byte {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.rest, r.failed = nil, true
		return nil
	}
	text := r.rest[:n]
	r.rest = r.rest[n:]
	return text
}
