package amqp_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-cloud/dewpoint/internal/benchline"
	"github.com/dewpoint-cloud/dewpoint/queue"
	"github.com/dewpoint-cloud/dewpoint/queue/amqp"
)

// caller makes calls of 64 bytes in and out.
type caller func(ctx context.Context) error

// BenchmarkPeerCall measures calls beside the bare client library, which makes the same exchange on the same broker:
// published as mandatory and confirmed, consumed with the same prefetch, acknowledged after the answer, answered to a
// queue for each connection.
func BenchmarkPeerCall(b *testing.B) {
	bus, bare := busCaller(b), bareCaller(b)
	for _, callers := range []int{1, 32} {
		var ours, theirs, cpus []float64
		for range b.N {
			for range 7 {
				rate, _ := rateOf(b, bare, callers)
				theirs = append(theirs, rate)
				rate, cpu := rateOf(b, bus, callers)
				ours, cpus = append(ours, rate), append(cpus, cpu)
			}
		}
		line := benchline.Line{Name: "queue/amqp: calls, " + strconv.Itoa(callers) + " at a time", Ours: benchline.Median(ours),
			Peer: benchline.Median(theirs), PeerName: "bare amqp091", Unit: "1/s", Goal: ">= 0.9x", CPU: benchline.Median(cpus),
			Runs: len(ours), Setup: "64 B in and out, mandatory, confirmed, acknowledged after the answer; a ctx with a deadline; RabbitMQ on this machine"}
		line.Ratio = line.Ours / line.Peer
		line.Met = line.Ratio >= 0.9
		benchline.Report(b, line)
	}
}

// rateOf returns calls per second and the processor time of one in microseconds.
func rateOf(b *testing.B, call caller, callers int) (rate, cpu float64) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	each := 1500 / min(callers, 5)
	used, start := benchline.CPU(), time.Now()
	var wg sync.WaitGroup
	failed := make(chan error, callers)
	for range callers {
		wg.Go(func() {
			for range each {
				if err := call(ctx); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		b.Fatal(err)
	default:
	}
	calls := float64(callers * each)
	return calls / time.Since(start).Seconds(), float64((benchline.CPU() - used).Microseconds()) / calls
}

func busCaller(b *testing.B) caller {
	url := shared(b).URL()
	near, far := connect(b, amqp.Config{URL: url, Prefix: "bench"}), connect(b, amqp.Config{URL: url, Prefix: "bench"})
	_, err := far.Serve("echo", echo)
	require.NoError(b, err)
	m := queue.Message{Topic: "echo", Body: make([]byte, 64)}
	return func(ctx context.Context) error {
		answer, err := near.Call(ctx, m)
		if err == nil && len(answer) != 64 {
			err = errors.New("another answer")
		}
		return err
	}
}

// bareCaller is what one would write with the client library alone for this one purpose.
func bareCaller(b *testing.B) caller {
	near, far := bare(b, shared(b)), bare(b, shared(b))
	require.NoError(b, far.ExchangeDeclare("bare", "direct", false, true, false, false, nil))
	require.NoError(b, far.Qos(64, 0, false))
	_, err := far.QueueDeclare("bare.echo", true, true, false, false, amqp091.Table{"x-max-length": int64(4096), "x-overflow": "reject-publish"})
	require.NoError(b, err)
	require.NoError(b, far.QueueBind("bare.echo", "echo", "bare", false, nil))
	work, err := far.Consume("bare.echo", "", false, false, false, false, nil)
	require.NoError(b, err)
	go func() {
		for d := range work {
			go func() {
				_ = far.PublishWithContext(context.Background(), "", d.ReplyTo, false, false, amqp091.Publishing{CorrelationId: d.CorrelationId, Body: d.Body})
				_ = d.Ack(false)
			}()
		}
	}()
	mailbox, err := near.QueueDeclare("", false, true, true, false, nil)
	require.NoError(b, err)
	answers, err := near.Consume(mailbox.Name, "", true, true, false, false, nil)
	require.NoError(b, err)
	require.NoError(b, near.Confirm(false))
	var mu sync.Mutex
	waits, ids := map[string]chan []byte{}, 0
	go func() {
		for d := range answers {
			mu.Lock()
			w := waits[d.CorrelationId]
			delete(waits, d.CorrelationId)
			mu.Unlock()
			w <- d.Body
		}
	}()
	body := make([]byte, 64)
	return func(ctx context.Context) error {
		w := make(chan []byte, 1)
		mu.Lock()
		ids++
		id := strconv.Itoa(ids)
		waits[id] = w
		mu.Unlock()
		confirmed, err := near.PublishWithDeferredConfirmWithContext(ctx, "bare", "echo", true, false, amqp091.Publishing{
			CorrelationId: id, MessageId: id, ReplyTo: mailbox.Name, Expiration: "60000", Body: body})
		if err != nil {
			return err
		}
		select {
		case answer := <-w:
			if len(answer) != 64 {
				return errors.New("another answer")
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if ok, err := confirmed.WaitContext(ctx); err != nil || !ok {
			return errors.Join(err, errors.New("not confirmed"))
		}
		return nil
	}
}
