package supervisor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// dialTimeout bounds the connection to a published port's target.
const dialTimeout = 5 * time.Second

// forward hands each connection that l accepts to target until ctx ends. Both
// directions close on their own, so that half-closed connections work.
func forward(ctx context.Context, l net.Listener, target string, log *slog.Logger) {
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			log.Error("accept on published port", "target", target, "err", err)
			time.Sleep(50 * time.Millisecond) // out of descriptors: do not spin
			continue
		}
		go splice(ctx, conn, target, log)
	}
}

func splice(ctx context.Context, down net.Conn, target string, log *slog.Logger) {
	defer down.Close()
	d := net.Dialer{Timeout: dialTimeout}
	up, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		log.Debug("published port", "target", target, "err", err)
		return
	}
	defer up.Close()
	var both sync.WaitGroup
	both.Go(func() { pipe(up, down) })
	both.Go(func() { pipe(down, up) })
	both.Wait()
}

// pipe copies until src ends, then tells dst that no more will come.
func pipe(dst, src net.Conn) {
	io.Copy(dst, src) //nolint:errcheck // a connection that breaks ends the same way
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		c.CloseWrite() //nolint:errcheck // the peer may be gone already
	}
}
