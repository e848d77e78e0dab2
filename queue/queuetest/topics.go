package queuetest

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/dewpoint-cloud/dewpoint/queue"
)

func topicRows() []row {
	return []row{
		{
			name: "topics",
			rule: `It has 1 to [MaxTopic] bytes: words of ASCII letters, digits, "-" and "_", joined by dots.`,
			check: func(ctx context.Context, e *rig) error {
				longest := e.topic("")
				longest += strings.Repeat("x", queue.MaxTopic-len(longest))
				for _, topic := range []string{e.prefix, e.topic("Az-_09"), e.topic("-.-._._.0"), longest} {
					if _, err := serve(e.far(), topic, func(context.Context, queue.Message) ([]byte, error) { return []byte("ok"), nil }); err != nil {
						return err
					}
					if answer, err := e.call(ctx, topic, ""); err != nil || answer != "ok" {
						return fmt.Errorf("Call(%q) = %q, %v", topic, answer, err)
					}
				}
				return nil
			},
		},
		{
			name: "what is no topic",
			rule: "InvalidArgument for a topic or body outside the limits",
			check: func(ctx context.Context, e *rig) error {
				for _, topic := range []string{"", ".", "a.", ".a", "a..b", "a b", "a*", "*", "a.>", ">", "a.#", "a/b", "a\n", "a\x00", "ä",
					"$a", "\xff", strings.Repeat("x", queue.MaxTopic+1)} {
					for _, try := range sends(e.near(), topic, nil) {
						if err := is(fmt.Sprintf("%s to %q", try.method, topic), try.send(ctx), errdefs.ErrInvalidArgument); err != nil {
							return err
						}
					}
					_, err := e.near().Serve(topic, (&tally{}).handle)
					if err := is(fmt.Sprintf("Serve(%q)", topic), err, errdefs.ErrInvalidArgument); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			name: "topics are apart",
			rule: `"compute.<host>" by one node, and a suffix tells a node's services apart`,
			check: func(ctx context.Context, e *rig) error {
				topics := []string{"a", "a.b", "a.b.c", "b", "A", "a-b", "a_b", "fanout", "a.fanout", "reply", "call"}
				seen := &tally{}
				for _, name := range topics {
					if _, err := serve(e.far(), e.topic(name), func(_ context.Context, m queue.Message) ([]byte, error) {
						seen.add(name)
						return []byte(name), nil
					}); err != nil {
						return err
					}
				}
				for i, name := range topics {
					if answer, err := e.call(ctx, e.topic(name), ""); err != nil || answer != name {
						return fmt.Errorf("the server of %q answered %q (error %v) to a call to %q", answer, answer, err, name)
					}
					if err := e.near().Fanout(ctx, queue.Message{Topic: e.topic(name)}); err != nil {
						return fmt.Errorf("Fanout(): %w", err)
					}
					if err := e.until("the fanout arrives", func() bool { return seen.total() >= 2*(i+1) }); err != nil {
						return err
					}
				}
				e.quiet()
				if err := seen.each(2, topics...); err != nil {
					return err
				}
				_, err := e.call(ctx, e.topic("a.x"), "")
				return is("Call to the suffix that nobody serves", err, queue.ErrNoListener)
			},
		},
		{
			name: "topics are not declared",
			rule: "Topics come to be when they are served and need not be declared.",
			check: func(ctx context.Context, e *rig) error {
				topic := e.topic("new")
				for range 3 {
					if _, err := e.call(ctx, topic, ""); err != nil {
						if err := is("Call where nobody serves", err, queue.ErrNoListener); err != nil {
							return err
						}
					}
					stop, err := serve(e.far(), topic, (&tally{}).handle)
					if err != nil {
						return err
					}
					if answer, err := e.call(ctx, topic, "x"); err != nil || answer != "x" {
						return fmt.Errorf("Call() of the new topic = %q, %v", answer, err)
					}
					stop()
				}
				return nil
			},
		},
	}
}

// try is one way to send a message.
type try struct {
	method string
	send   func(context.Context) error
}

// sends are all ways to send a message, each until it is refused or taken.
func sends(bus queue.Bus, topic string, body []byte) []try {
	m := queue.Message{Topic: topic, Body: body}
	return []try{
		{"Cast", func(ctx context.Context) error { return bus.Cast(ctx, m) }},
		{"Call", func(ctx context.Context) error {
			_, err := bus.Call(ctx, m)
			return err
		}},
		{"CallAsync", func(ctx context.Context) error { return bus.CallAsync(ctx, m, func([]byte, error) {}) }},
		{"Fanout", func(ctx context.Context) error { return bus.Fanout(ctx, m) }},
	}
}
