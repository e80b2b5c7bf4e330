package hcm

import (
	"context"
	"net/http"
	"strings"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/network"
)

// limitAge makes a connection drain when it gets too old (max_connection_duration): it finishes what is running and takes
// nothing new. The result ends that.
func (m *Manager) limitAge(ctx context.Context, c *network.Conn) func() {
	if m.maxAge <= 0 {
		return nothing
	}
	ctx, cancel := context.WithTimeout(ctx, m.maxAge)
	old := c.Draining
	go func() {
		select {
		case <-ctx.Done():
		case <-old:
			cancel()
		}
	}()
	c.Draining = ctx.Done()
	return cancel
}

// appendVia adds this proxy to the via header, where it is to be there.
func appendVia(h http.Header, via string) {
	if via == "" {
		return
	}
	if prior := h["Via"]; len(prior) > 0 {
		via = strings.Join(prior, ", ") + ", " + via
	}
	h["Via"] = []string{via}
}
