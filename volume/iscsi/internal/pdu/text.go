package pdu

import (
	"bytes"
	"fmt"
)

// Pair is a key with its value.
type Pair struct{ Key, Value string }

// MaxPairs is how many keys one request may have.
const MaxPairs = 128

// ParseText takes the keys out of the data of a login or text request, RFC 7143 section 6.1.
func ParseText(b []byte) ([]Pair, error) {
	var pairs []Pair
	for len(b) > 0 {
		end := bytes.IndexByte(b, 0)
		if end < 0 {
			return nil, fmt.Errorf("%w: text without its end", ErrMalformed)
		}
		text := b[:end]
		b = b[end+1:]
		if len(text) == 0 {
			continue // padding of those who count it as data
		}
		key, value, ok := bytes.Cut(text, []byte{'='})
		if !ok || len(key) == 0 || len(key) > 63 {
			return nil, fmt.Errorf("%w: text without a key", ErrMalformed)
		}
		for _, c := range key {
			if !(c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '+' || c == '@' || c == '_') {
				return nil, fmt.Errorf("%w: a key has the byte %#x", ErrMalformed, c)
			}
		}
		if len(pairs) == MaxPairs {
			return nil, fmt.Errorf("%w: more than %d keys", ErrMalformed, MaxPairs)
		}
		pairs = append(pairs, Pair{string(key), string(value)})
	}
	return pairs, nil
}

// AppendText writes keys as they are on the wire.
func AppendText(b []byte, pairs ...Pair) []byte {
	for _, p := range pairs {
		b = append(b, p.Key...)
		b = append(b, '=')
		b = append(b, p.Value...)
		b = append(b, 0)
	}
	return b
}
