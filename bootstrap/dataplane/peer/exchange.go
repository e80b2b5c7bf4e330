package peer

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// ALPN is the protocol that peers negotiate when both exchange metadata at the start of a TCP stream.
const ALPN = "istio-peer-exchange"

const (
	magic    = 0x3D230467
	maxFrame = 64 << 10
)

// Frame renders i as the first bytes of a stream.
func Frame(i *Info) ([]byte, error) {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{
		"x-envoy-peer-metadata":    structpb.NewStructValue(i.Struct()),
		"x-envoy-peer-metadata-id": structpb.NewStringValue(i.ID),
	}}
	a, err := anypb.New(s)
	if err != nil {
		return nil, err
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(a)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 8, 8+len(body))
	binary.BigEndian.PutUint32(out, magic)
	binary.BigEndian.PutUint32(out[4:], uint32(len(body)))
	return append(out, body...), nil
}

func parseFrame(body []byte) *Info {
	a := &anypb.Any{}
	if proto.Unmarshal(body, a) != nil {
		return nil
	}
	s := &structpb.Struct{}
	if a.UnmarshalTo(s) != nil {
		return nil
	}
	i := fromStruct(s.GetFields()["x-envoy-peer-metadata"].GetStructValue())
	i.ID = s.GetFields()["x-envoy-peer-metadata-id"].GetStringValue()
	return i
}

// Exchanging is a connection on which both sides start with a frame. Ours has been written; the peer's is taken off the
// front of what is read. Bytes that do not start with a frame pass through untouched.
type Exchanging struct {
	net.Conn
	learnt func(*Info)
	checks []func() error
	once   sync.Once
	rest   []byte
	err    error
}

// Exchange writes our frame on c and returns a connection that strips the peer's. learnt is called once, from the first
// Read, with what the peer said (nil when it said nothing).
func Exchange(c net.Conn, self *Info, learnt func(*Info)) (*Exchanging, error) {
	f, err := Frame(self)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write(f); err != nil {
		return nil, err
	}
	return &Exchanging{Conn: c, learnt: learnt}, nil
}

// Then has check run once the peer's frame, or what stands in its place, has been read; an error of it ends the stream.
// It must not be called once reading has begun.
func (e *Exchanging) Then(check func() error) { e.checks = append(e.checks, check) }

// Read implements net.Conn.
func (e *Exchanging) Read(p []byte) (int, error) {
	e.once.Do(func() {
		info, rest, err := readFrame(e.Conn)
		e.rest, e.err = rest, err
		if e.learnt != nil {
			e.learnt(info)
		}
		for _, check := range e.checks {
			if cerr := check(); cerr != nil {
				e.rest, e.err = nil, cerr
				_ = e.Close()
				return
			}
		}
	})
	if len(e.rest) > 0 {
		n := copy(p, e.rest)
		e.rest = e.rest[n:]
		return n, nil
	}
	if e.err != nil {
		return 0, e.err
	}
	return e.Conn.Read(p)
}

// NetConn gives the connection beneath.
func (e *Exchanging) NetConn() net.Conn { return e.Conn }

// CloseWrite passes on the end of a stream.
func (e *Exchanging) CloseWrite() error {
	if cw, ok := e.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}

// readFrame reads the peer's frame. rest are bytes read that belong to the stream.
func readFrame(r io.Reader) (info *Info, rest []byte, err error) {
	head := make([]byte, 8)
	for n := 0; n < len(head); {
		k, err := r.Read(head[n:])
		n += k
		// The first byte that differs from the magic number ends the wait for the others.
		if !magicPrefix(head[:min(n, 4)]) {
			return nil, head[:n], err
		}
		if err != nil {
			return nil, head[:n], err
		}
	}
	size := binary.BigEndian.Uint32(head[4:])
	if size > maxFrame {
		return nil, nil, errors.New("metadata exchange: frame too large")
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, nil, err
	}
	return parseFrame(body), nil, nil
}

func magicPrefix(b []byte) bool {
	var want [4]byte
	binary.BigEndian.PutUint32(want[:], magic)
	return string(b) == string(want[:len(b)])
}
