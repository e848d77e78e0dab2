package metadata

import (
	"net"
	"sync"
)

// connections counts the connections of each port. Those of no port are counted together.
type connections struct {
	mu  sync.Mutex
	has map[string]int
}

func (c *connections) add(port string, most int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.has[port] >= most {
		return false
	}
	if c.has == nil {
		c.has = map[string]int{}
	}
	c.has[port]++
	return true
}

func (c *connections) remove(port string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.has[port]--; c.has[port] == 0 {
		delete(c.has, port)
	}
}

// limit closes connections of a port that has enough of them.
func (s *Server) limit(l net.Listener) net.Listener { return &limited{l, s} }

type limited struct {
	net.Listener
	s *Server
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		port, err := l.s.cfg.Resolve(c)
		if err != nil {
			port = "" // is told 404
		}
		if l.s.count.add(port, l.s.cfg.PerPort) {
			return &countedConn{Conn: c, end: sync.OnceFunc(func() { l.s.count.remove(port) })}, nil
		}
		_ = c.Close()
	}
}

type countedConn struct {
	net.Conn
	end func()
}

func (c *countedConn) Close() error {
	c.end()
	return c.Conn.Close()
}
