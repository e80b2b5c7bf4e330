package netfilter

import (
	"context"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/peer"
)

// Exchange is istio.metadata_exchange on the client's side: where the peer negotiated it, both tell who they are before
// the first byte of the stream.
type Exchange struct{ Self *peer.Info }

var _ network.Filter = (*Exchange)(nil)

// OnConnection implements network.Filter.
func (e *Exchange) OnConnection(_ context.Context, c *network.Conn) error {
	if c.TLS == nil || c.TLS.NegotiatedProtocol != peer.ALPN {
		return nil
	}
	x, err := peer.Exchange(c.Conn, e.Self, func(i *peer.Info) {
		if i != nil {
			c.SetPeer(i)
		}
	})
	if err != nil {
		return err
	}
	c.Conn = x
	return nil
}
