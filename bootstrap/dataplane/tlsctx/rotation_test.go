package tlsctx

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestRotationUnderLoad rotates certificates of both sides, and the authority, hundreds of times while connections are
// made without a pause: no handshake fails, connections made before go on, and new ones show new certificates.
func TestRotationUnderLoad(t *testing.T) {
	old, next := newCA(t), newCA(t)
	bundle := func(list ...*ca) *ca {
		out := *list[0]
		out.pem = nil
		for _, c := range list {
			out.pem = append(out.pem, c.pem...)
		}
		return &out
	}
	turn := func(s *Store, c *ca, id string) {
		cert, root := c.identity(t, id)
		s.Set(Key{ADS, "ROOTCA"}, root)
		s.Set(Key{ADS, "default"}, cert)
	}
	const serverID, clientID = "spiffe://d/ns/a/sa/server", "spiffe://d/ns/a/sa/client"
	ss, cs := NewStore(), NewStore()
	turn(ss, bundle(old, next), serverID)
	turn(cs, bundle(old, next), clientID)
	srv, cli := server(t, ss, "spiffe://d/", "h2", "http/1.1"), client(t, cs, serverID, "istio", "h2")

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var failed atomic.Value
	fail := func(what string, err error) { failed.CompareAndSwap(nil, fmt.Errorf("%s: %w", what, err)) }
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			raw, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = raw.Close() }()
				tc, err := srv.Handshake(ctx, raw)
				if err != nil {
					fail("server", err)
					return
				}
				_, _ = io.Copy(tc, tc)
			})
		}
	})
	connect := func() (*tls.Conn, error) {
		raw, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return nil, err
		}
		tc, err := cli.Handshake(ctx, raw, Options{})
		if err != nil {
			_ = raw.Close()
			return nil, err
		}
		return tc, echo(tc)
	}
	first, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	serial := first.ConnectionState().PeerCertificates[0].SerialNumber

	stop := make(chan struct{})
	var load sync.WaitGroup
	var made atomic.Int64
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				tc, err := connect()
				if err != nil {
					fail("client", err)
					return
				}
				made.Add(1)
				_ = tc.Close()
			}
		})
	}
	const turns = 300
	for i := range turns {
		from := bundle(old, next)
		if i > turns/2 {
			from = bundle(next, old) // signed by the new authority
		}
		if i > turns*3/4 {
			from = next // and nothing else trusted
		}
		turn(ss, from, serverID)
		turn(cs, from, clientID)
	}
	for enough := made.Load() + 20; made.Load() < enough && failed.Load() == nil; {
		time.Sleep(time.Millisecond)
	}
	close(stop)
	load.Wait()
	if err := failed.Load(); err != nil {
		t.Errorf("after %d connections: %v", made.Load(), err)
	}
	if err := echo(first); err != nil {
		t.Errorf("the connection from before the rotations: %v", err)
	}
	last, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	if last.ConnectionState().PeerCertificates[0].SerialNumber.Cmp(serial) == 0 {
		t.Error("a new connection shows the first certificate")
	}
	t.Logf("%d handshakes over %d rotations", made.Load(), turns)
	_, _ = first.Close(), last.Close()
	_ = ln.Close()
	serving.Wait()
}

func echo(c net.Conn) error {
	if _, err := io.WriteString(c, "x"); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}
