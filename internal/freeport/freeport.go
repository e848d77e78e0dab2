// Package freeport finds ports for servers in tests that must be told which one to listen on before they can.
//
// A port that the kernel has chosen, and that was closed for the server, may be given to somebody else in the meantime. These are of a range
// from which the kernel gives none by itself.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// The kernel gives ports from 32768 on (ip_local_port_range, ip(7)).
const first, end = 10000, 32768

// Find returns n different ports of host, an address of this machine, on which nobody listens now.
func Find(host string, n int) ([]int, error) {
	var ports []int
	for range 1000 {
		if len(ports) == n {
			return ports, nil
		}
		port := first + rand.IntN(end-first)
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			continue
		}
		defer l.Close() // so long that none is found twice
		ports = append(ports, port)
	}
	return nil, fmt.Errorf("freeport: %s has not %d free ports between %d and %d", host, n, first, end)
}
