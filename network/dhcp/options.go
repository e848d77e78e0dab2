package dhcp

// The options that the server reads or writes (RFC 2132; RFC 3442 for the routes).
const (
	optPad         = 0
	optMask        = 1
	optRouter      = 3
	optDNS         = 6
	optHostname    = 12
	optDomain      = 15
	optMTU         = 26
	optBroadcast   = 28
	optRequested   = 50
	optLease       = 51
	optOverload    = 52
	optKind        = 53
	optServerID    = 54
	optParameters  = 55
	optMessage     = 56
	optMaxSize     = 57
	optT1          = 58
	optT2          = 59
	optClientID    = 61
	optRelay       = 82
	optRoutes      = 121
	optEnd         = 255
	maxOption      = 255 // bytes in one option
	fileOffset     = 108 // in a message
	fileLength     = 128
	nameOffset     = 44
	nameLength     = 64
	overloadLength = 3
)

// option appends an option; one that is too long for one is split (RFC 3396).
func option(to []byte, code int, value []byte) []byte {
	for len(value) > maxOption {
		to = append(append(to, byte(code), maxOption), value[:maxOption]...)
		value = value[maxOption:]
	}
	return append(append(to, byte(code), byte(len(value))), value...)
}

// options writes the options of a reply: into the options field while it has room, then into the fields for a boot file
// and a server's name, which no reply of ours needs (RFC 2132 §9.3).
type options struct {
	message    []byte // from the BOOTP header on
	at, limit  int
	file, name int // bytes used of each field
}

// add writes options that belong together, or leaves them out if there is no room.
func (o *options) add(encoded ...[]byte) {
	n := 0
	for _, part := range encoded {
		n += len(part)
	}
	var at *int
	field := 0
	switch {
	case o.at+n+overloadLength+1 <= o.limit:
		at = &o.at
	case o.file+n+1 <= fileLength:
		at, field = &o.file, fileOffset
	case o.name+n+1 <= nameLength:
		at, field = &o.name, nameOffset
	default:
		return
	}
	for _, part := range encoded {
		*at += copy(o.message[field+*at:], part)
	}
}

// end closes the fields and returns the length of the message.
func (o *options) end() int {
	var overload byte
	if o.file > 0 {
		o.message[fileOffset+o.file] = optEnd
		overload |= 1
	}
	if o.name > 0 {
		o.message[nameOffset+o.name] = optEnd
		overload |= 2
	}
	if overload != 0 {
		o.at += copy(o.message[o.at:], []byte{optOverload, 1, overload})
	}
	o.message[o.at] = optEnd
	o.at++
	for o.at < minBOOTP {
		o.message[o.at] = optPad
		o.at++
	}
	return o.at
}
