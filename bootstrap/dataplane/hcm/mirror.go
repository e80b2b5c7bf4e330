package hcm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// mirror is one cluster that gets a copy of the requests. Nobody waits for its answers.
type mirror struct {
	cluster string
	header  string // names the cluster
	coin    func() bool
	suffix  bool   // "-shadow" after the host
	host    string // in place of the request's
	changes []headerChange
}

func compileMirrors(list []*routev3.RouteAction_RequestMirrorPolicy) ([]mirror, error) {
	var out []mirror
	for _, p := range list {
		// trace_sampled says what becomes of the copy's span; see the package doc of dataplane.
		const known = "cluster cluster_header runtime_fraction trace_sampled disable_shadow_host_suffix_append " +
			"request_headers_mutations host_rewrite_literal"
		if err := fields.Check(p, known); err != nil {
			return nil, err
		}
		m := mirror{
			cluster: p.GetCluster(), header: http.CanonicalHeaderKey(p.GetClusterHeader()), host: p.GetHostRewriteLiteral(),
			suffix: !p.GetDisableShadowHostSuffixAppend(),
		}
		if (m.cluster == "") == (m.header == "") {
			return nil, errors.New("request_mirror_policies: one of cluster and cluster_header has to be set")
		}
		if f := p.GetRuntimeFraction(); f != nil {
			m.coin = fraction(f.GetDefaultValue())
		}
		var err error
		if m.changes, err = compileChanges(p.GetRequestHeadersMutations()); err != nil {
			return nil, fmt.Errorf("request_mirror_policies: %w", err)
		}
		out = append(out, m)
	}
	return out, nil
}

// maxMirrorTime bounds a copy that no timeout of the route bounds, so that none outlives its use.
const maxMirrorTime = 5 * time.Minute

// mirror sends copies of the request where the route says so, and makes its body reach them.
func (s *Stream) mirror(f *forwardAction, limit time.Duration) {
	if limit <= 0 {
		limit = maxMirrorTime
	}
	var tee *teeBody
	for i := range f.mirrors {
		m := &f.mirrors[i]
		if m.coin != nil && !m.coin() {
			continue
		}
		name := m.cluster
		if name == "" {
			name = s.req.Header.Get(m.header)
		}
		c := s.m.env.Clusters.Get(name)
		if c == nil {
			continue
		}
		req := s.mirrored(m)
		if s.hasBody() {
			if tee == nil {
				tee = &teeBody{ReadCloser: s.req.Body}
				s.req.Body = tee
			}
			sink := newSink()
			tee.sinks = append(tee.sinks, sink)
			req.Body = sink
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), limit)
		var alpn []string
		if s.m.alpn != nil {
			alpn = s.m.alpn(c, s.req.ProtoMajor)
		}
		major, choice := s.req.ProtoMajor, cluster.Choice{Original: s.conn.Local}
		go func() {
			defer cancel()
			send(c, choice, req.WithContext(ctx), major, alpn)
			if b, ok := req.Body.(*sink); ok {
				_ = b.Close()
			}
		}()
	}
}

func (s *Stream) hasBody() bool {
	return s.req.Body != nil && s.req.Body != http.NoBody && s.req.ContentLength != 0
}

// mirrored makes the copy of the request, without body.
func (s *Stream) mirrored(m *mirror) *http.Request {
	h := maps.Clone(s.req.Header)
	h["X-Envoy-Internal"] = []string{"true"}
	if s.route.vhost.attemptCount {
		h["X-Envoy-Attempt-Count"] = []string{"1"}
	}
	for i := range m.changes {
		m.changes[i].apply(s, h)
	}
	host := s.authority
	switch {
	case m.host != "":
		host = m.host
	case m.suffix:
		bare := stripPort(host)
		host = bare + "-shadow" + host[len(bare):]
	}
	return s.newRequest(h, host)
}

// send carries out one round trip whose answer nobody wants.
func send(c *cluster.Cluster, choice cluster.Choice, req *http.Request, major int, alpn []string) {
	if c.BeginRequest(cluster.Default) != nil {
		return
	}
	defer c.EndRequest(cluster.Default)
	c.Stats.Requests.Inc()
	host, err := c.Pick(choice)
	if err != nil {
		return
	}
	host.Active.Add(1)
	host.Requests.Add(1)
	defer host.Active.Add(-1)
	body := req.Body // the round trip wraps it
	req = req.WithContext(upstream.WithTrace(req.Context(), &upstream.Trace{}))
	resp, err := c.RoundTrip(host, req, major, cluster.ConnectOptions{ALPN: alpn, SNI: stripPort(req.Host)})
	if err != nil {
		host.Errors.Add(1)
		if b, ok := body.(*sink); !ok || !b.broken() {
			c.Unanswered(host, http.StatusServiceUnavailable)
		}
		return
	}
	c.Reached(host, false)
	c.Answered(host, resp.StatusCode)
	if k := resp.StatusCode / 100; k >= 1 && k <= 5 {
		c.Stats.Status[k].Inc()
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	c.Stats.Success.Inc()
}

// teeBody hands what is read of a body to all sinks too.
type teeBody struct {
	io.ReadCloser
	sinks []*sink
}

// Read implements io.Reader.
func (t *teeBody) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if n > 0 || err != nil {
		var chunk []byte
		if n > 0 {
			chunk = append(chunk, p[:n]...)
		}
		for _, s := range t.sinks {
			s.push(chunk, err)
		}
	}
	return n, err
}

// end tells the sinks that nobody will read on.
func (t *teeBody) end() {
	for _, s := range t.sinks {
		s.push(nil, io.ErrUnexpectedEOF)
	}
}

// sink is the body of one copy. A copy that falls behind by more than maxReplay bytes is given up.
type sink struct {
	mu     sync.Mutex
	wake   *sync.Cond
	chunks [][]byte
	queued int
	err    error // what comes after the chunks
}

func newSink() *sink {
	s := &sink{}
	s.wake = sync.NewCond(&s.mu)
	return s
}

func (s *sink) push(chunk []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	if len(chunk) > 0 {
		s.chunks = append(s.chunks, chunk)
		s.queued += len(chunk)
	}
	if s.err = err; s.queued > maxReplay {
		s.err, s.chunks = io.ErrShortBuffer, nil
	}
	s.wake.Broadcast()
}

// Read implements io.Reader.
func (s *sink) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.chunks) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		s.wake.Wait()
	}
	n := copy(p, s.chunks[0])
	s.queued -= n
	if s.chunks[0] = s.chunks[0][n:]; len(s.chunks[0]) == 0 {
		s.chunks = s.chunks[1:]
	}
	return n, nil
}

// broken reports whether the body ends before its end.
func (s *sink) broken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil && !errors.Is(s.err, io.EOF)
}

// Close implements io.Closer.
func (s *sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.chunks = http.ErrBodyReadAfterClose, nil
	s.wake.Broadcast()
	return nil
}
