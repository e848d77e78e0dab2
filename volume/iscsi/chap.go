package iscsi

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
)

// Algorithms of CHAP_A: RFC 7143 section 12.1.4 and IANA's registry.
const (
	chapMD5    = "5"
	chapSHA256 = "7"
)

// challenge is one that was sent.
type challenge struct {
	algorithm string
	id        byte
	bytes     []byte
}

// newChallenge makes a challenge that nobody can foresee, for the strongest algorithm of a list, or returns false.
func newChallenge(list string) (*challenge, bool) {
	var algorithm string
	for _, a := range strings.Split(list, ",") {
		switch {
		case a == chapSHA256, a == chapMD5 && algorithm == "":
			algorithm = a
		}
	}
	if algorithm == "" {
		return nil, false
	}
	b := make([]byte, 33)
	rand.Read(b)
	return &challenge{algorithm, b[0], b[1:]}, true
}

// respond computes the response to a challenge, RFC 1994 section 4.1.
func respond(algorithm string, id byte, secret string, bytes []byte) []byte {
	text := append(append([]byte{id}, secret...), bytes...)
	if algorithm == chapSHA256 {
		sum := sha256.Sum256(text)
		return sum[:]
	}
	sum := md5.Sum(text)
	return sum[:]
}

// verify tells in constant time whether a name and a response are those of an initiator.
func (c *challenge) verify(i Initiator, name string, response []byte) bool {
	want := respond(c.algorithm, c.id, i.Secret, c.bytes)
	named := subtle.ConstantTimeCompare([]byte(name), []byte(i.User))
	return named&subtle.ConstantTimeCompare(want, response) == 1 && i.Secret != ""
}

// parseBinary reads a value as RFC 7143 section 6.1 writes large ones: hexadecimal or base 64.
func parseBinary(s string, most int) ([]byte, error) {
	if len(s) < 2 || s[0] != '0' || len(s) > 2*most+3 {
		return nil, errors.New("no binary value")
	}
	var b []byte
	var err error
	switch s[1] {
	case 'x', 'X':
		digits := s[2:]
		if len(digits)%2 == 1 {
			digits = "0" + digits
		}
		b, err = hex.DecodeString(digits)
	case 'b', 'B':
		b, err = base64.StdEncoding.DecodeString(s[2:])
	default:
		return nil, errors.New("no binary value")
	}
	if err != nil || len(b) == 0 || len(b) > most {
		return nil, errors.New("no binary value of the length")
	}
	return b, nil
}

func formatBinary(b []byte) string { return "0x" + hex.EncodeToString(b) }

// itoa and atob write and read an identifier of CHAP.
func itoa(id byte) string { return strconv.Itoa(int(id)) }

func atob(s string) (byte, bool) {
	n, err := strconv.ParseUint(s, 0, 8)
	return byte(n), err == nil
}
