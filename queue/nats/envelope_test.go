package nats

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

func TestEnvelope(t *testing.T) {
	now := time.Now()
	m := queue.Message{Topic: "a", ID: "id-1", Trace: "trace 1/ü\x00\xff\n", Caller: []byte("{\x00}\n"), Deadline: now.Add(time.Hour), Body: []byte("x\ny")}
	data := encode(nil, &m)
	require.Regexp(t, `^dw1 id-1 trace%201%2F%C3%BC%00%FF%0A ewB9Cg== \d{19} \d{19}\nx\ny$`, string(data))
	got, skew, err := decode("a", &natsgo.Msg{Data: data, Reply: "r"}, now)
	require.NoError(t, err)
	require.Zero(t, skew)
	require.True(t, m.Deadline.Equal(got.Deadline))
	m.ReplyTo, m.Deadline, got.Deadline = "r", time.Time{}, time.Time{}
	require.Equal(t, m, got)

	require.Equal(t, "dw1 a    \n", string(encode(nil, &queue.Message{ID: "a"})))
}

// TestClocks takes messages of senders whose clock is wrong.
func TestClocks(t *testing.T) {
	data := encode(nil, &queue.Message{ID: "a", Deadline: time.Now().Add(time.Minute)})
	for off, skewed := range map[time.Duration]bool{
		0: false, time.Second: false, -time.Second: false, time.Hour: true, -time.Hour: true, 24000 * time.Hour: true,
	} {
		arrived := time.Now().Add(off)
		m, skew, err := decode("a", &natsgo.Msg{Data: data}, arrived)
		require.NoError(t, err)
		if !skewed {
			require.Zero(t, skew)
			require.InDelta(t, time.Minute-off, m.Deadline.Sub(arrived), float64(900*time.Millisecond))
			continue
		}
		require.InDelta(t, off, skew, float64(time.Second))
		require.InDelta(t, time.Minute, m.Deadline.Sub(arrived), float64(time.Second))
	}
	late := encode(nil, &queue.Message{ID: "a", Deadline: time.Now().Add(-time.Minute)})
	m, _, err := decode("a", &natsgo.Msg{Data: late}, time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.True(t, m.Deadline.Before(time.Now().Add(time.Hour)), "it was late already when it was sent")
}

func TestNoEnvelope(t *testing.T) {
	for text, what := range map[string]string{
		"":                                  "no envelope",
		"{}":                                "no envelope",
		"\n":                                "6 fields",
		"dw1 id   \n":                       "6 fields",
		"dw1 id     \n":                     "6 fields",
		"dw2 id    \n":                      "does not begin",
		"dw1     \n":                        "ID",
		"dw1 %zz    \n":                     "ID",
		"dw1 id %    \n":                    "6 fields",
		"dw1 id %   \n":                     "trace",
		"dw1 id  !  \n":                     "base64",
		"dw1 id   1 \n":                     "times",
		"dw1 id   x 1\n":                    "times",
		"dw1 id   99999999999999999999 1\n": "times",
		"dw1 " + strings.Repeat("i", 300) + "    \n":          "ID",
		"dw1 id    \n" + strings.Repeat("x", queue.MaxBody+1): "Body",
	} {
		_, _, err := decode("a", &natsgo.Msg{Data: []byte(text)}, time.Now())
		require.True(t, errdefs.IsInvalidArgument(err), "%.50q: %v", text, err)
		require.ErrorContains(t, err, what, "%.50q", text)
	}
}

// FuzzDecode decodes whatever somebody sends. What is a message is the same after encoding it again.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("dw1 id trace Y2FsbGVy 1 1\nbody"))
	f.Add([]byte("dw1 %00    \n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, _, err := decode("a", &natsgo.Msg{Data: data}, time.Unix(0, 1))
		if err != nil {
			require.True(t, errdefs.IsInvalidArgument(err), err)
			return
		}
		again, _, err := decode("a", &natsgo.Msg{Data: encode(nil, &m)}, time.Now())
		require.NoError(t, err)
		require.Equal(t, m.ID, again.ID)
		require.Equal(t, m.Trace, again.Trace)
		require.Equal(t, string(m.Caller), string(again.Caller))
		require.Equal(t, string(m.Body), string(again.Body))
		require.Equal(t, m.Deadline.IsZero(), again.Deadline.IsZero())
	})
}
