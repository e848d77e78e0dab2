package iscsi

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/pdu"
)

// Status classes and details of login responses, RFC 7143 section 11.13.5.
const (
	statusSuccess        = 0x0000
	statusInitiatorError = 0x0200
	statusAuthentication = 0x0201
	statusNotFound       = 0x0203
	statusVersion        = 0x0205
	statusMissing        = 0x0207
	statusSessionType    = 0x0209
	statusNoSession      = 0x020a
	statusDuringLogin    = 0x020b
	statusUnavailable    = 0x0301
	statusOutOfResources = 0x0302
)

// Stages of a login.
const (
	stageSecurity    = 0
	stageOperational = 1
	stageFull        = 3
)

// directory is what a login asks of the server.
type directory interface {
	find(target, initiator string) (*exported, *Initiator)
	offered(initiator string) map[string]Initiator
}

// login is the target's side of a login, one request after another. It knows nothing of connections.
type login struct {
	dir directory

	begun     bool
	stage     int
	isid      uint64
	text      []byte // of requests that are continued
	seen      map[string]bool
	discovery bool
	initiator string
	target    string
	export    *exported
	entry     *Initiator           // of a normal session
	offers    map[string]Initiator // of discovery
	method    string               // what was agreed on for authentication; "": nothing yet
	challenge *challenge
	proven    bool
	params    params
	declared  bool // our own values have been told
	tagged    bool // the group of the portal has been told
	reason    string
}

// loginReply is the answer to one request.
type loginReply struct {
	flags  byte
	status uint16
	pairs  []pdu.Pair
	done   bool // the next phase is full feature, if the server admits it
}

func newLogin(dir directory) *login {
	return &login{dir: dir, seen: map[string]bool{}, params: defaultParams()}
}

// refuse is the answer that ends a login. Why is for the log alone.
func (l *login) refuse(status uint16, reason string) loginReply {
	l.reason = reason
	return loginReply{status: status}
}

// step takes a request.
func (l *login) step(h *pdu.Header, data []byte) loginReply {
	flags := h.Flags()
	csg, nsg := int(flags>>2&3), int(flags&3)
	transit, more := flags&pdu.Final != 0, flags&pdu.Continue != 0
	isid := binary.BigEndian.Uint64(h[6:]) & (1<<48 - 1)
	switch {
	case h[3] > 0:
		return l.refuse(statusVersion, "an unknown version")
	case transit && more, csg != stageSecurity && csg != stageOperational:
		return l.refuse(statusInitiatorError, "flags that contradict each other")
	case !l.begun && h.Half(14) != 0:
		return l.refuse(statusNoSession, "a connection for a session that is not there")
	case l.begun && (csg != l.stage || isid != l.isid || h.Half(14) != 0):
		return l.refuse(statusInitiatorError, "another stage or session than before")
	case transit && (nsg <= csg || nsg == 2):
		return l.refuse(statusInitiatorError, "a stage that can't be next")
	}
	l.begun, l.stage, l.isid = true, csg, isid
	if len(l.text)+len(data) > longestText {
		return l.refuse(statusInitiatorError, "too much text")
	}
	l.text = append(l.text, data...)
	if more {
		return loginReply{flags: byte(csg << 2)}
	}
	pairs, err := pdu.ParseText(l.text)
	l.text = nil
	if err != nil {
		return l.refuse(statusInitiatorError, err.Error())
	}
	values := map[string]string{}
	for _, pair := range pairs {
		if l.seen[pair.Key] {
			return l.refuse(statusInitiatorError, pair.Key+" twice")
		}
		l.seen[pair.Key] = true
		values[pair.Key] = pair.Value
	}
	if l.initiator == "" {
		if reply, ok := l.identify(values); !ok {
			return reply
		}
	}

	var answers []pdu.Pair
	if csg == stageSecurity {
		var status uint16
		if answers, status = l.authenticate(values); status != statusSuccess {
			return l.refuse(status, l.reason)
		}
	}
	if !l.tagged && !l.discovery {
		l.tagged = true
		answers = append(answers, pdu.Pair{Key: "TargetPortalGroupTag", Value: "1"})
	}
	for _, pair := range pairs {
		switch pair.Key {
		case "InitiatorName", "TargetName", "SessionType", "AuthMethod", "CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R":
			continue
		}
		if answer := l.params.agree(pair.Key, pair.Value); answer != "" {
			answers = append(answers, pdu.Pair{Key: pair.Key, Value: answer})
		}
	}
	if csg == stageOperational {
		if !l.proven && l.secret() {
			return l.refuse(statusAuthentication, "no authentication")
		}
		if !l.declared {
			l.declared = true
			answers = append(answers, pdu.Pair{Key: "MaxRecvDataSegmentLength", Value: "262144"})
		}
	}

	reply := loginReply{flags: byte(csg << 2), pairs: answers}
	if !transit {
		return reply
	}
	if !l.proven && l.secret() {
		if l.challenge == nil && l.method == "" {
			return l.refuse(statusAuthentication, "no authentication")
		}
		return reply // in the middle of it
	}
	reply.flags |= pdu.Final | byte(nsg)
	l.stage = nsg
	reply.done = nsg == stageFull
	return reply
}

// identify takes who the initiator is and what it wants from its first request.
func (l *login) identify(values map[string]string) (loginReply, bool) {
	l.initiator = values["InitiatorName"]
	if l.initiator == "" {
		return l.refuse(statusMissing, "no InitiatorName"), false
	}
	l.initiator = strings.ToLower(l.initiator)
	if err := validName("InitiatorName", l.initiator); err != nil {
		l.initiator = ""
		return l.refuse(statusInitiatorError, err.Error()), false
	}
	switch values["SessionType"] {
	case "Discovery":
		l.discovery = true
		l.offers = l.dir.offered(l.initiator)
		return loginReply{}, true
	case "", "Normal":
	default:
		return l.refuse(statusSessionType, "an unknown SessionType"), false
	}
	l.target = strings.ToLower(values["TargetName"])
	if l.target == "" {
		return l.refuse(statusMissing, "no TargetName"), false
	}
	// What is there for others does not differ from what is not there.
	if l.export, l.entry = l.dir.find(l.target, l.initiator); l.export == nil {
		return l.refuse(statusNotFound, "no such target for this initiator"), false
	}
	return loginReply{}, true
}

// secret tells whether the initiator must prove who it is. In discovery it may find what needs no proof without one.
func (l *login) secret() bool {
	if l.discovery {
		return l.method == "CHAP"
	}
	return l.entry != nil && l.entry.Secret != ""
}

// authenticate takes the keys of the security stage.
func (l *login) authenticate(values map[string]string) (answers []pdu.Pair, status uint16) {
	fail := func(reason string) ([]pdu.Pair, uint16) {
		l.reason = reason
		return nil, statusAuthentication
	}
	if list, ok := values["AuthMethod"]; ok {
		offered := map[string]bool{}
		for _, method := range strings.Split(list, ",") {
			offered[method] = true
		}
		wants := l.secret()
		for _, offer := range l.offers {
			wants = wants || offer.Secret != "" && offered["CHAP"]
		}
		switch {
		case wants && offered["CHAP"]:
			l.method = "CHAP"
		case !wants && offered["None"]:
			l.method = "None"
		default:
			return fail("no method of authentication in common")
		}
		answers = append(answers, pdu.Pair{Key: "AuthMethod", Value: l.method})
	}
	if list, ok := values["CHAP_A"]; ok {
		if l.method != "CHAP" || l.challenge != nil {
			return fail("CHAP_A where it does not belong")
		}
		if l.challenge, ok = newChallenge(list); !ok {
			return fail("no algorithm of CHAP in common")
		}
		return append(answers, pdu.Pair{Key: "CHAP_A", Value: l.challenge.algorithm},
			pdu.Pair{Key: "CHAP_I", Value: itoa(l.challenge.id)}, pdu.Pair{Key: "CHAP_C", Value: formatBinary(l.challenge.bytes)}), statusSuccess
	}
	name, named := values["CHAP_N"]
	text, responded := values["CHAP_R"]
	if !named && !responded {
		if l.challenge != nil && !l.proven {
			return fail("no answer to the challenge")
		}
		return answers, statusSuccess
	}
	if l.challenge == nil || l.proven || !named || !responded {
		return fail("CHAP_N or CHAP_R where they do not belong")
	}
	response, err := parseBinary(text, 64)
	if err != nil {
		return fail("CHAP_R is malformed")
	}
	who := l.entry
	if l.discovery {
		// It may find what it could log in to with what it has proven.
		for iqn, offer := range l.offers {
			if offer.Secret == "" {
				continue
			}
			if !l.challenge.verify(offer, name, response) {
				delete(l.offers, iqn)
			} else if who == nil {
				who = &offer
			}
		}
	} else if !l.challenge.verify(*who, name, response) {
		who = nil
	}
	if who == nil {
		return fail("the wrong user or secret")
	}
	id, mutual := values["CHAP_I"]
	theirs := values["CHAP_C"]
	if mutual != (theirs != "") {
		return fail("CHAP_I without CHAP_C")
	}
	if mutual {
		b, err := parseBinary(theirs, 1024)
		n, ok := atob(id)
		switch {
		case err != nil || !ok:
			return fail("CHAP_C or CHAP_I is malformed")
		case bytes.Equal(b, l.challenge.bytes):
			return fail("our own challenge came back")
		case who.MutualSecret == "":
			return fail("there is no secret to prove the target with")
		}
		answers = append(answers, pdu.Pair{Key: "CHAP_N", Value: who.MutualUser},
			pdu.Pair{Key: "CHAP_R", Value: formatBinary(respond(l.challenge.algorithm, n, who.MutualSecret, b))})
	}
	l.proven = true
	return answers, statusSuccess
}

// targets is what discovery tells: the targets that the initiator can log in to with what it has proven.
func (l *login) targets() (iqns []string) {
	for iqn, offer := range l.offers {
		if offer.Secret == "" || l.proven {
			iqns = append(iqns, iqn)
		}
	}
	return iqns
}
