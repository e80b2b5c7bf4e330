package hcm

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sort"
	"strings"

	webv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// newGRPCWeb lets browsers call gRPC services: the protocol's trailers travel as the last frame of the body, and where
// the client asks for text, the body as base64.
func newGRPCWeb(_ *Manager, name string, body *anypb.Any) (filter, error) {
	if body != nil {
		if err := body.UnmarshalTo(&webv3.GrpcWeb{}); err != nil {
			return filter{}, err
		}
	}
	return filter{
		name: name,
		request: func(s *Stream) *reply {
			h := s.req.Header
			kind, text, ok := webType(first(h, "Content-Type"))
			if !ok {
				return nil
			}
			accept := first(h, "Accept")
			s.web = &webCall{text: strings.HasPrefix(accept, "application/grpc-web-text")}
			if text && s.req.Body != nil && s.req.Body != http.NoBody {
				s.req.Body = &textBody{src: s.req.Body, bad: func() { s.stop(errBase64) }}
			}
			s.req.ContentLength = -1 // gRPC over HTTP/2 goes without, and decoded text is shorter
			delete(h, "Content-Length")
			h["Content-Type"] = []string{"application/grpc" + kind}
			h["Te"] = []string{"trailers"}
			h["Grpc-Accept-Encoding"] = []string{"identity,deflate,gzip"}
			return nil
		},
		response: func(s *Stream, _ int, h http.Header) {
			if s.web == nil {
				return
			}
			kind, ok := strings.CutPrefix(first(h, "Content-Type"), "application/grpc")
			if !ok {
				return // not an answer of a gRPC service
			}
			if kind == "" {
				kind = "+proto"
			}
			if s.web.text {
				kind = "-text" + kind
			}
			h["Content-Type"] = []string{"application/grpc-web" + kind}
			delete(h, "Content-Length")
			s.web.answered = true
		},
	}, nil
}

// webType tells what is behind a content type of gRPC-Web: the kind of message ("+proto") and whether the body is text.
func webType(ct string) (kind string, text, ok bool) {
	rest, ok := strings.CutPrefix(ct, "application/grpc-web")
	if !ok {
		return "", false, false
	}
	if r, is := strings.CutPrefix(rest, "-text"); is {
		rest, text = r, true
	}
	switch rest {
	case "":
		return "", text, true
	case "+proto":
		return rest, text, true
	}
	return "", false, false
}

// webCall is what the filter knows of a request.
type webCall struct{ text, answered bool }

// body translates the body of a response and its trailers.
func (c *webCall) body(resp *http.Response) {
	if !c.answered {
		return
	}
	resp.ContentLength = -1
	resp.Body = &webBody{ReadCloser: resp.Body, resp: resp}
	if c.text {
		resp.Body = &encodedBody{ReadCloser: resp.Body}
	}
}

// webBody puts the trailers of a response after its body.
type webBody struct {
	io.ReadCloser
	resp *http.Response
	tail []byte
	over bool
}

// Read implements io.Reader.
func (b *webBody) Read(p []byte) (int, error) {
	if !b.over {
		n, err := b.ReadCloser.Read(p)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		b.over = true
		b.tail = trailerFrame(b.resp.Trailer)
		b.resp.Trailer = nil
		if n > 0 {
			return n, nil
		}
	}
	if len(b.tail) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.tail)
	b.tail = b.tail[n:]
	return n, nil
}

// trailerFrame writes trailers as gRPC-Web's frame for them; without trailers, as in a trailers-only response, it is
// empty.
func trailerFrame(t http.Header) []byte {
	if len(t) == 0 {
		return nil
	}
	names := make([]string, 0, len(t))
	for n := range t {
		names = append(names, n)
	}
	sort.Strings(names)
	out := []byte{0x80, 0, 0, 0, 0}
	for _, n := range names {
		for _, v := range t[n] {
			out = append(out, strings.ToLower(n)+":"+v+"\r\n"...)
		}
	}
	binary.BigEndian.PutUint32(out[1:5], uint32(len(out)-5))
	return out
}

// encodedBody gives a body as base64. What is read at once is encoded at once, with padding, so that streams flow.
type encodedBody struct {
	io.ReadCloser
	out []byte
	err error
}

// Read implements io.Reader.
func (b *encodedBody) Read(p []byte) (int, error) {
	for len(b.out) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		var buf [3 << 10]byte
		var n int
		n, b.err = b.ReadCloser.Read(buf[:])
		b.out = base64.StdEncoding.AppendEncode(b.out[:0], buf[:n])
	}
	n := copy(p, b.out)
	b.out = b.out[n:]
	return n, nil
}

// textBody decodes base64 that may consist of several padded pieces, one after the other.
type textBody struct {
	src  io.ReadCloser
	left []byte // not yet a group of four
	out  []byte
	err  error
	bad  func() // called where it is none
}

// Read implements io.Reader.
func (b *textBody) Read(p []byte) (int, error) {
	for len(b.out) == 0 {
		if b.err != nil {
			if errors.Is(b.err, io.EOF) && len(b.left) > 0 {
				b.err = fmt.Errorf("%w: it ends in the middle of a group", errBase64)
			}
			if errors.Is(b.err, errBase64) && b.bad != nil {
				b.bad()
			}
			return 0, b.err
		}
		var buf [4 << 10]byte
		n, err := b.src.Read(buf[:])
		b.err = err
		b.left = append(b.left, buf[:n]...)
		if err := b.decode(); err != nil {
			b.err = err
		}
	}
	n := copy(p, b.out)
	b.out = b.out[n:]
	return n, nil
}

func (b *textBody) decode() error {
	b.out = nil
	whole := len(b.left) / 4 * 4
	for i := 0; i < whole; i += 4 {
		var err error
		if b.out, err = base64.StdEncoding.AppendDecode(b.out, b.left[i:i+4]); err != nil {
			return errBase64
		}
	}
	b.left = append([]byte(nil), b.left[whole:]...)
	return nil
}

// Close implements io.Closer.
func (b *textBody) Close() error { return b.src.Close() }
