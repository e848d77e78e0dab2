package metadata

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net"
	"net/http"
	"strconv"
	"time"
)

// The headers of session tokens, as EC2 has them.
const (
	tokenHeader = "X-aws-ec2-metadata-token"
	ttlHeader   = "X-aws-ec2-metadata-token-ttl-seconds"
	maxTTL      = 21600 // s
)

// A token is when it ends, in seconds since 1970, a nonce, and their authentication code. It is on record nowhere, and ends with
// the Server that made it: a client that is refused asks for another.
const (
	claimBytes = 8 + 16
	tokenBytes = claimBytes + sha256.Size
)

// token answers PUT /latest/api/token.
func (s *Server) token(w http.ResponseWriter, r *http.Request, conn net.Conn, port string) {
	switch {
	case r.Method != http.MethodPut:
		w.Header().Set("Allow", "PUT")
		refuse(w, http.StatusMethodNotAllowed)
		return
	case len(r.Header["X-Forwarded-For"]) > 0: // through a proxy in the guest, for somebody who could not ask by himself
		refuse(w, http.StatusForbidden)
		return
	}
	ttl, err := strconv.Atoi(r.Header.Get(ttlHeader))
	if err != nil || ttl < 1 || ttl > maxTTL {
		refuse(w, http.StatusBadRequest)
		return
	}
	if c, ok := conn.(interface{ SetHopLimit(int) error }); ok {
		if err := c.SetHopLimit(s.cfg.HopLimit); err != nil {
			s.cfg.Logger.Warn("metadata: the hop limit of a token can't be set", "port", port, "error", err)
			refuse(w, http.StatusInternalServerError)
			return
		}
		w.Header().Set("Connection", "close") // the limit is for this answer
	}
	w.Header().Set(ttlHeader, strconv.Itoa(ttl))
	say(w, plainText, []byte(s.newToken(port, time.Now().Add(time.Duration(ttl)*time.Second))))
}

func (s *Server) newToken(port string, ends time.Time) string {
	b := make([]byte, claimBytes, tokenBytes)
	binary.BigEndian.PutUint64(b, uint64(ends.Unix()))
	_, _ = rand.Read(b[8:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(append(b, s.code(port, b)...))
}

// code authenticates what a token says, for one port.
func (s *Server) code(port string, claims []byte) []byte {
	h := hmac.New(sha256.New, s.secret[:])
	h.Write(claims)
	h.Write([]byte(port))
	return h.Sum(nil)
}

// authentic tells whether a request may be answered: it has a token of this port that has not ended, or none where none is
// required.
func (s *Server) authentic(r *http.Request, port string) bool {
	all := r.Header.Values(tokenHeader)
	if len(all) == 0 {
		return !s.cfg.RequireToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(all[0])
	if err != nil || len(all) > 1 || len(b) != tokenBytes {
		return false
	}
	if !hmac.Equal(b[claimBytes:], s.code(port, b[:claimBytes])) { // in constant time
		return false
	}
	return time.Now().Unix() < int64(binary.BigEndian.Uint64(b))
}
