package hcm

import (
	"context"
	"io"
	"net/http"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
)

// tunnel joins client and upstream after 101 Switching Protocols.
func (s *Stream) tunnel(resp *http.Response) {
	up, ok := resp.Body.(io.ReadWriteCloser)
	// Whoever carries the rest of the request's body reads the client, who has one reader at a time.
	if !ok || s.upgrade == "" || s.received.ended.Load() == nil {
		s.answer(&reply{status: http.StatusBadGateway, details: "upgrade_failed", flags: accesslog.UpstreamProtocolError})
		return
	}
	s.join(up, resp.StatusCode, resp.Header)
}

// join sends the head of a response that begins a byte stream and copies both ways until it ends.
func (s *Stream) join(up io.ReadWriteCloser, status int, h http.Header) {
	s.status, s.respHeader = status, h
	s.responseOps(h)
	s.respond(status, h)
	down, err := s.raw(status, h)
	if err != nil {
		s.flags |= accesslog.DownstreamConnectionTermination
		_ = up.Close()
		return
	}
	stop := context.AfterFunc(s.ctx, func() { _ = down.Close(); _ = up.Close() })
	defer stop()
	done := make(chan uint64, 1)
	go func() {
		n, _ := io.Copy(movedWriter{up, s}, down)
		closeWrite(up)
		done <- uint64(n)
	}()
	n, _ := io.Copy(movedWriter{down, s}, up)
	s.sent += uint64(n)
	closeWrite(down)
	_ = down.Close()
	_ = up.Close()
	n2 := <-done
	if s.req.ProtoMajor == 1 {
		s.received.n.Add(n2) // HTTP/2 counts them as a body
	}
}

// movedWriter keeps the idle timeout of its stream from firing.
type movedWriter struct {
	io.Writer
	s *Stream
}

func (w movedWriter) Write(p []byte) (int, error) {
	w.s.moved()
	return w.Writer.Write(p)
}

// raw sends the head and gives the client's byte stream.
func (s *Stream) raw(status int, h http.Header) (io.ReadWriteCloser, error) {
	if hj, ok := s.w.(interface {
		hijack(status int, h http.Header) (io.ReadWriteCloser, error)
	}); ok {
		return hj.hijack(status, h)
	}
	flusher, ok := s.w.(http.Flusher)
	if !ok {
		return nil, http.ErrNotSupported
	}
	dst := s.w.Header()
	for k, v := range h {
		dst[k] = v
	}
	s.w.WriteHeader(status)
	flusher.Flush()
	return &h2Client{s.req.Body, s.w, flusher}, nil
}

// h2Client is the client's side of a CONNECT stream over HTTP/2.
type h2Client struct {
	io.ReadCloser
	w io.Writer
	f http.Flusher
}

func (c *h2Client) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.f.Flush()
	return n, err
}
