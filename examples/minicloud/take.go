package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dewpoint-cloud/dewpoint"
)

// A minicloud that is a cloud by itself keeps its records in a file, which no other process can have. It does what commands ask in its own process: they
// send their words over a socket that root alone can reach, and get what there is to print.

// socket is where it takes commands.
func socket(o options) string { return filepath.Join(o.dir, "commands", "socket") }

// errorTrailer is the trailer of an answer that says why the command failed, quoted; without it, it did not.
const errorTrailer = "Minicloud-Error"

// stopWait is how long a command that is told to end may take.
const stopWait = 5 * time.Second

// take takes commands while f runs. Those that are under way then end.
func take(ctx context.Context, o options, s *dewpoint.Services, f func() error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	path := socket(o)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a process that was killed: this one has the records
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: commandHandler(o, s), ReadHeaderTimeout: 10 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	err = f()
	stop()
	soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWait)
	defer cancel()
	if server.Shutdown(soon) != nil {
		err = errors.Join(err, server.Close())
	}
	<-ended
	return err
}

// commandHandler does the command whose words a request has.
func commandHandler(o options, s *dewpoint.Services) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var words []string
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&words); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		c, asked, err := parseWords(words, io.Discard)
		if err != nil || c.ask == nil {
			http.Error(w, fmt.Sprintf("not a command to ask with: %q: %v", words, err), http.StatusBadRequest)
			return
		}
		asked.dir, asked.netns = o.dir, o.netns
		if err := c.answer(r.Context(), asked, s, &flushed{w}); err != nil {
			w.Header().Set(http.TrailerPrefix+errorTrailer, strconv.QuoteToASCII(err.Error()))
		}
	})
}

// flushed has what is written seen at once.
type flushed struct{ http.ResponseWriter }

func (w *flushed) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	return n, errors.Join(err, http.NewResponseController(w.ResponseWriter).Flush())
}

// errNobody means that there is no minicloud to send commands to.
var errNobody = errors.New("no minicloud takes commands")

// send has the minicloud that is a cloud by itself do a command, and prints what it says. If there is none, it is errNobody.
func send(ctx context.Context, c command, o options, w io.Writer) error {
	line, err := json.Marshal(append(append(strings.Fields(c.name), o.set...), o.args...))
	if err != nil {
		return err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket(o))
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://minicloud/", strings.NewReader(string(line)))
	if err != nil {
		return err
	}
	answer, err := client.Do(req)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return errNobody
	}
	if wrapped := new(url.Error); errors.As(err, &wrapped) {
		err = wrapped.Err // without a URL that nobody has seen
	}
	gone := func(err error) error {
		return fmt.Errorf("the minicloud in %s has ended, or can't be reached any more: %w", o.dir, err)
	}
	if err != nil {
		return gone(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		return fmt.Errorf("the minicloud in %s, which may be of another version, says: %s", o.dir, text)
	}
	if _, err := io.Copy(w, answer.Body); err != nil {
		return gone(err)
	}
	if quoted := answer.Trailer.Get(errorTrailer); quoted != "" {
		text, err := strconv.Unquote(quoted)
		return errors.Join(errors.New(text), err)
	}
	return nil
}
