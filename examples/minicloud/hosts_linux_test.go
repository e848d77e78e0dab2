package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dewpoint-cloud/dewpoint/auth/ca"
	"github.com/dewpoint-cloud/dewpoint/internal/rabbittest"
	"github.com/dewpoint-cloud/dewpoint/internal/testneed"
)

// on returns what runs functions on a thread in the network of one of the hosts; what they start is there too. The thread ends with
// the test, and not earlier: what it has started may be made to end with it.
func (l *lab) on(host string) func(f func() error) error {
	work, done := make(chan func() error), make(chan error)
	l.t.Cleanup(func() { close(work) })
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := os.Open("/run/netns/" + l.prefix + host)
		if err == nil {
			err = errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), ns.Close())
		}
		for f := range work {
			if err != nil {
				done <- err
				continue
			}
			done <- f()
		}
	}()
	return func(f func() error) error { work <- f; return <-done }
}

// certify has the controller's authority, before there is a controller, give a server a certificate; the files are those of
// the authority, the certificate and the key.
func (l *lab) certify(name, address string) (authority, cert, key string) {
	require.NoError(l.t, os.MkdirAll(filepath.Join(l.dir, "c"), 0o711))
	a, err := ca.Open(ca.Config{Dir: filepath.Join(l.dir, "c", "ca")})
	require.NoError(l.t, err)
	pair, err := a.Issue(ca.Request{Name: name, Hosts: []string{address, "127.0.0.1", "localhost"}})
	require.NoError(l.t, err)
	cert, key = filepath.Join(l.dir, name+".crt"), filepath.Join(l.dir, name+".key")
	require.NoError(l.t, ca.WriteFile(cert, pair.Cert))
	require.NoError(l.t, ca.WriteFile(key, pair.Key))
	return filepath.Join(l.dir, "c", "ca", "ca.crt"), cert, key
}

// etcd starts a member on each node, and returns their endpoints.
func (l *lab) etcd() (endpoints []string) {
	var cluster []string
	for n, host := range labHosts[1:] {
		cluster = append(cluster, fmt.Sprintf("%s=https://10.90.0.%d:2380", host, n+2))
	}
	for n, host := range labHosts[1:] {
		address := fmt.Sprintf("10.90.0.%d", n+2)
		authority, cert, key := l.certify("etcd-"+host, address)
		client, peer := "https://"+address+":2379", "https://"+address+":2380"
		l.start("etcd-"+host, host, "etcd", "--name", host, "--data-dir", filepath.Join(l.dir, "etcd-"+host),
			"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(cluster, ","), "--logger", "zap",
			"--trusted-ca-file", authority, "--cert-file", cert, "--key-file", key, "--client-cert-auth",
			"--peer-trusted-ca-file", authority, "--peer-cert-file", cert, "--peer-key-file", key, "--peer-client-cert-auth")
		endpoints = append(endpoints, client)
	}
	return endpoints
}

// rabbit starts a broker on the controller's host, and returns how it is reached, and what kills it and starts it again.
func (l *lab) rabbit() (address string, again func() error) {
	dir := filepath.Join(l.dir, "rabbit")
	require.NoError(l.t, os.Mkdir(dir, 0o755))
	authority, cert, key := l.certify("rabbit", "10.90.0.1")
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	var b *rabbittest.Broker
	here := l.on("c")
	require.NoError(l.t, here(func() (err error) {
		b, err = rabbittest.Start(ctx, rabbittest.Config{Dir: dir, CAFile: authority, CertFile: cert, KeyFile: key,
			Lines: []string{"listeners.ssl.2 = 10.90.0.1:5671"}})
		return err
	}))
	l.t.Cleanup(b.Stop)
	u, err := url.Parse(b.TLSURL())
	require.NoError(l.t, err)
	u.Host = "10.90.0.1:5671"
	return u.String(), func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		return here(func() error { b.Kill(); return b.Restart(ctx) })
	}
}

// RabbitMQ and an etcd of three members, of which each node runs one.
func TestThreeHostsWithRabbitMQAndEtcd(t *testing.T) {
	rabbittest.Need(t)
	testneed.Tools(t, "etcd")
	l := newLab(t)
	l.calm = promised
	endpoints := l.etcd()
	address, again := l.rabbit()
	config := filepath.Join(l.dir, "minicloud.yaml")
	require.NoError(t, os.WriteFile(config, []byte(fmt.Sprintf("listen: 10.90.0.1:7443\nmemory: 96\nbus: %q\netcd: [%s]\n", address,
		strings.Join(endpoints, ", "))), 0o600))
	l.start("controller", "c", l.program, "controller", "-dir", filepath.Join(l.dir, "c"), "-config", config)
	l.join()

	var left []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		left = l.work(50)
	}()
	kill := func(name string) func() {
		return func() { l.end(name, syscall.SIGKILL); l.again(name) }
	}
	brokers := func() {
		for range 4 {
			if err := again(); err != nil {
				t.Errorf("the broker does not come back: %v", err)
				return
			}
			time.Sleep(time.Second)
		}
	}
	l.faults(brokers, kill("h1"), brokers, kill("controller"), brokers, func() { l.cut("h2", 60*time.Second) }, brokers,
		func() { l.end("etcd-h3", syscall.SIGKILL); time.Sleep(5 * time.Second); l.again("etcd-h3") }, brokers)
	<-done
	l.finish(left)
}
