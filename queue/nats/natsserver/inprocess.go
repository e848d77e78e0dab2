package natsserver

import (
	"net"
	"sync"
)

// InProcessConn connects a client in this process, without TLS; it gives the same credentials as others do. It is for
// nats.Config.InProcess. The end of the server ends it.
func (s *Server) InProcessConn() (net.Conn, error) {
	conn, err := s.ns.InProcessConn()
	if err != nil {
		return nil, err
	}
	return &inside{Conn: conn, sent: make(chan struct{})}, nil
}

// inside is the client's end of a pipe. A pipe holds nothing: a client that still introduces itself and a server that
// already refuses would each wait for the other to read, and the client would never know why. So what the client says
// first goes on its way when the client listens for the answer, at the same time.
type inside struct {
	net.Conn
	sent chan struct{} // closed when the first words have been read, or never will be

	mu   sync.Mutex
	held []byte // the first words
	said bool   // they are on their way
}

func (c *inside) Write(p []byte) (int, error) {
	c.mu.Lock()
	if !c.said {
		defer c.mu.Unlock()
		c.held = append(c.held, p...)
		return len(p), nil
	}
	c.mu.Unlock()
	<-c.sent
	return c.Conn.Write(p)
}

func (c *inside) Read(p []byte) (int, error) {
	c.mu.Lock()
	if !c.said && len(c.held) > 0 {
		c.said = true
		held := c.held
		c.held = nil
		go func() { // until the server has read it, or one of them closes the pipe
			defer close(c.sent)
			_, _ = c.Conn.Write(held) // the client finds out when it reads
		}()
	}
	c.mu.Unlock()
	return c.Conn.Read(p)
}
