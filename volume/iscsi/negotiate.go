package iscsi

import (
	"strconv"
	"strings"

	"github.com/dewpoint-cloud/dewpoint/volume/iscsi/internal/pdu"
)

// What the target wants of a session.
const (
	maxReceive    = 256 << 10 // the longest data segment that is accepted
	maxBurst      = 1 << 20
	firstBurst    = 128 << 10
	window        = 128 // commands that are begun at once
	longestText   = 16 << 10
	mostTextBytes = 8 << 10 // in one unit before login
)

// params is what a session has agreed on, RFC 7143 section 13, at first with the values of who negotiates nothing.
type params struct {
	headerDigest, dataDigest bool
	initialR2T, immediate    bool
	maxSend                  int // the longest data segment that the initiator takes
	maxBurst, firstBurst     int
}

func defaultParams() params {
	return params{initialR2T: true, immediate: true, maxSend: 8192, maxBurst: 256 << 10, firstBurst: 64 << 10}
}

// agree answers one operational key. An answer of "" is none: the key was declared.
func (p *params) agree(key, value string) (answer string) {
	number := func(low, high int) (int, bool) {
		n, err := strconv.ParseUint(value, 0, 32)
		if err != nil || int(n) < low || int(n) > high {
			return 0, false
		}
		return int(n), true
	}
	boolean := func() (yes, ok bool) { return value == "Yes", value == "Yes" || value == "No" }
	format := func(yes bool) string {
		if yes {
			return "Yes"
		}
		return "No"
	}
	digest := func(on *bool) string {
		for _, v := range strings.Split(value, ",") {
			if v == "CRC32C" || v == "None" {
				*on = v == "CRC32C"
				return v
			}
		}
		return "Reject"
	}
	const most = 1<<24 - 1
	switch key {
	case "HeaderDigest":
		return digest(&p.headerDigest)
	case "DataDigest":
		return digest(&p.dataDigest)
	case "MaxRecvDataSegmentLength":
		n, ok := number(512, most)
		if !ok {
			return "Reject"
		}
		p.maxSend = n
		return ""
	case "MaxBurstLength":
		n, ok := number(512, most)
		if !ok {
			return "Reject"
		}
		p.maxBurst = min(n, maxBurst)
		p.firstBurst = min(p.firstBurst, p.maxBurst)
		return strconv.Itoa(p.maxBurst)
	case "FirstBurstLength":
		n, ok := number(512, most)
		if !ok {
			return "Reject"
		}
		p.firstBurst = min(n, firstBurst, p.maxBurst)
		return strconv.Itoa(p.firstBurst)
	case "InitialR2T", "ImmediateData", "DataPDUInOrder", "DataSequenceInOrder":
		yes, ok := boolean()
		switch {
		case !ok:
			return "Reject"
		case key == "InitialR2T":
			p.initialR2T = yes
			return format(yes)
		case key == "ImmediateData":
			p.immediate = yes
			return format(yes)
		}
		return "Yes"
	case "MaxConnections", "MaxOutstandingR2T":
		if _, ok := number(1, 65535); !ok {
			return "Reject"
		}
		return "1"
	case "ErrorRecoveryLevel":
		if _, ok := number(0, 2); !ok {
			return "Reject"
		}
		return "0"
	case "DefaultTime2Wait":
		n, ok := number(0, 3600)
		if !ok {
			return "Reject"
		}
		return strconv.Itoa(max(n, 2))
	case "DefaultTime2Retain":
		if _, ok := number(0, 3600); !ok {
			return "Reject"
		}
		return "0"
	case "IFMarker", "OFMarker", "RDMAExtensions":
		return "No"
	case "IFMarkInt", "OFMarkInt":
		return "Reject"
	case "iSCSIProtocolLevel":
		if _, ok := number(0, 31); !ok {
			return "Reject"
		}
		return "1"
	case "TaskReporting":
		return "RFC3720"
	case "InitiatorAlias":
		return ""
	}
	return "NotUnderstood"
}

// operational answers keys in full feature phase, where only one may change.
func (p *params) operational(pairs []pdu.Pair) (answers []pdu.Pair) {
	for _, pair := range pairs {
		switch pair.Key {
		case "SendTargets":
		case "MaxRecvDataSegmentLength":
			if p.agree(pair.Key, pair.Value) != "" {
				answers = append(answers, pdu.Pair{Key: pair.Key, Value: "Reject"})
			}
		case "InitiatorAlias":
		default:
			answer := new(params).agree(pair.Key, pair.Value)
			if answer != "NotUnderstood" {
				answer = "Reject"
			}
			answers = append(answers, pdu.Pair{Key: pair.Key, Value: answer})
		}
	}
	return answers
}
