package netfilter

import (
	"net"
	"sync"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
)

// gated is a connection that runs checks when the first bytes or the end of the client's stream arrive, before anybody
// sees them. A check that fails ends the connection.
type gated interface {
	net.Conn
	Then(check func() error)
}

// atFirstByte has check decide over c when the client has sent something: what a server says first reaches the client,
// as from Envoy. Where the peers exchange metadata, that is the client's first word.
func atFirstByte(c *network.Conn, check func() error) {
	g, ok := c.Conn.(gated)
	if !ok {
		g = &gate{Conn: c.Conn}
		c.Conn = g
	}
	g.Then(func() error {
		err := check()
		if err != nil {
			c.Terminate(err.Error())
		}
		return err
	})
}

// gate is a gated connection.
type gate struct {
	net.Conn
	checks []func() error
	once   sync.Once
	err    error
}

// Then implements gated.
func (g *gate) Then(check func() error) { g.checks = append(g.checks, check) }

// Read implements net.Conn.
func (g *gate) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	g.once.Do(func() {
		for _, check := range g.checks {
			if g.err = check(); g.err != nil {
				_ = g.Close()
				return
			}
		}
	})
	if g.err != nil {
		return 0, g.err
	}
	return n, err
}

// NetConn gives the connection beneath.
func (g *gate) NetConn() net.Conn { return g.Conn }

// CloseWrite passes on the end of a stream.
func (g *gate) CloseWrite() error {
	if cw, ok := g.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}
