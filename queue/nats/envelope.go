package nats

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	natsgo "github.com/nats-io/nats.go"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

const (
	mark = "dw1" // the first word of a message

	headerFailure = "Dewpoint-Failure"
	headerRefused = "Dewpoint-Refused"

	refusedBacklog  = "backlog"
	refusedStopping = "stopping"

	sameClock = 2 * time.Second // how far a message's way may seem to take before the clocks are told to differ
)

// encode appends a message without its topic as the package comment says. What it returns is a copy.
func encode(out []byte, m *queue.Message) []byte {
	out = slices.Grow(out, len(mark)+len(m.ID)+len(m.Trace)+base64.StdEncoding.EncodedLen(len(m.Caller))+48+len(m.Body))
	out = append(append(out, mark...), ' ')
	out = append(append(out, url.PathEscape(m.ID)...), ' ')
	out = append(append(out, url.PathEscape(m.Trace)...), ' ')
	out = append(base64.StdEncoding.AppendEncode(out, m.Caller), ' ')
	if m.Deadline.IsZero() {
		out = append(out, ' ')
	} else {
		out = append(strconv.AppendInt(out, m.Deadline.UnixNano(), 10), ' ')
		out = strconv.AppendInt(out, time.Now().UnixNano(), 10)
	}
	return append(append(out, '\n'), m.Body...)
}

// decode is what a message is that arrived at a time. skew is how far the sender's clock is behind, 0 if that can't be told
// from the time that the message took.
func decode(topic string, in *natsgo.Msg, arrived time.Time) (m queue.Message, skew time.Duration, err error) {
	m = queue.Message{Topic: topic, ReplyTo: in.Reply}
	wrong := func(what string) (queue.Message, time.Duration, error) {
		return m, 0, fmt.Errorf("nats: message to %q: %s: %w", topic, what, errdefs.ErrInvalidArgument)
	}
	end := bytes.IndexByte(in.Data, '\n')
	if end < 0 {
		return wrong("no envelope")
	}
	var fields [6]string
	line := string(in.Data[:end])
	m.Body = in.Data[end+1:]
	for i := range fields {
		more := false
		if fields[i], line, more = strings.Cut(line, " "); more != (i < len(fields)-1) {
			return wrong(fmt.Sprintf("the envelope must have %d fields", len(fields)))
		}
	}
	if fields[0] != mark {
		return wrong("the envelope does not begin with " + mark)
	}
	if m.ID, err = unescape(fields[1]); err != nil || m.ID == "" {
		return wrong("the ID is not one")
	}
	if m.Trace, err = unescape(fields[2]); err != nil {
		return wrong("the trace is not one")
	}
	if fields[3] != "" {
		if m.Caller, err = base64.StdEncoding.DecodeString(fields[3]); err != nil {
			return wrong("the caller is not base64")
		}
	}
	if fields[4] != "" {
		deadline, err1 := strconv.ParseInt(fields[4], 10, 64)
		sent, err2 := strconv.ParseInt(fields[5], 10, 64)
		if err1 != nil || err2 != nil {
			return wrong("the times are not numbers")
		}
		m.Deadline = time.Unix(0, deadline)
		if way := arrived.Sub(time.Unix(0, sent)); way.Abs() > sameClock {
			skew, m.Deadline = way, arrived.Add(time.Duration(deadline-sent))
		}
	}
	return m, skew, m.Check()
}

// unescape undoes url.PathEscape, which seldom has anything to do.
func unescape(s string) (string, error) {
	if strings.IndexByte(s, '%') < 0 {
		return s, nil
	}
	return url.PathUnescape(s)
}

// first returns the value of a header.
func first(h natsgo.Header, key string) string {
	if values := h[key]; len(values) > 0 {
		return values[0]
	}
	return ""
}
