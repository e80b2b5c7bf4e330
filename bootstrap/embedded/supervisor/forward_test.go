package supervisor

import (
	"io"
	"log/slog"
	"net"
	"testing"
)

func listenLoopback(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

func TestForwardKeepsHalfClosedConnectionsOpen(t *testing.T) {
	target := listenLoopback(t)
	go func() {
		conn, err := target.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		all, _ := io.ReadAll(conn) // ends only when the client's half is closed
		conn.Write(append([]byte("echo "), all...))
	}()
	published := listenLoopback(t)
	go forward(t.Context(), published, target.Addr().String(), slog.New(slog.DiscardHandler))

	conn, err := net.Dial("tcp", published.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "echo hello" {
		t.Errorf("got %q, %v, want the echo of what was sent", got, err)
	}
}

func TestForwardClosesTheClientWhereTheTargetIsAway(t *testing.T) {
	target := listenLoopback(t)
	addr := target.Addr().String()
	target.Close()
	published := listenLoopback(t)
	go forward(t.Context(), published, addr, slog.New(slog.DiscardHandler))
	conn, err := net.Dial("tcp", published.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes, error %v, want the connection closed", n, err)
	}
}
