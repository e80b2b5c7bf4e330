// Package servers holds the long-running programs of ropes-app: each reads its flags, opens
// its listeners and serves until its context ends. It knows flags, listeners and access logs;
// what the bookshop answers is in package bookinfo.
package servers

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// drain is how long requests in flight may take once the server is told to end. It is
// shorter than Kubernetes' default grace of 30 s.
const drain = 10 * time.Second

// endpoint is one listener and what answers on it.
type endpoint struct {
	addr    string
	tls     *tls.Config        // nil: plain text
	handler http.Handler       // of HTTP/1.1 and HTTP/2; nil where conn is set
	conn    func(*net.TCPConn) // of raw TCP; it closes the connection
}

// program is the frame of every server: flags, then endpoints, then service.
func program(ctx context.Context, call *applet.Call, endpoints func(opts *applet.Options) func() ([]endpoint, error)) int {
	var opts applet.Options
	open := endpoints(&opts)
	operands, err := opts.Parse(call.Args)
	if err == nil && len(operands) > 0 {
		err = fmt.Errorf("unexpected operand %q", operands[0])
	}
	if err != nil {
		return call.Misused(err)
	}
	eps, err := open()
	if err != nil {
		return call.Misused(err)
	}
	log := slog.New(slog.NewTextHandler(call.Err, nil))
	if err := serve(ctx, log, eps); err != nil {
		return call.Fail(err)
	}
	return applet.OK
}

// serve opens all endpoints, or none, and serves until ctx ends.
func serve(ctx context.Context, log *slog.Logger, eps []endpoint) error {
	if len(eps) == 0 {
		return errors.New("nothing to listen on")
	}
	listeners := make([]net.Listener, len(eps))
	for i, ep := range eps {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", ep.addr)
		if err != nil {
			for _, open := range listeners[:i] {
				err = errors.Join(err, open.Close())
			}
			return err
		}
		listeners[i] = l
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, ep := range eps {
		log.Info("listening", "addr", listeners[i].Addr().String(), "kind", ep.kind())
		if ep.handler == nil {
			g.Go(func() error { return serveTCP(ctx, listeners[i].(*net.TCPListener), ep.conn) })
		} else {
			g.Go(func() error { return serveHTTP(ctx, log, listeners[i], ep) })
		}
	}
	return g.Wait()
}

func (ep endpoint) kind() string {
	switch {
	case ep.handler == nil:
		return "tcp"
	case ep.tls != nil:
		return "https"
	}
	return "http"
}

func serveHTTP(ctx context.Context, log *slog.Logger, l net.Listener, ep endpoint) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler: accessLog(log, ep.handler), TLSConfig: ep.tls, Protocols: &protocols,
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		ended <- srv.Shutdown(ctx)
	}()
	var err error
	if ep.tls != nil {
		err = srv.ServeTLS(l, "", "")
	} else {
		err = srv.Serve(l)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	if err := <-ended; err != nil {
		return errors.Join(fmt.Errorf("requests cut off: %w", err), srv.Close())
	}
	return nil
}

func serveTCP(ctx context.Context, l *net.TCPListener, handle func(*net.TCPConn)) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.AcceptTCP()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			handle(c)
		}()
	}
}

// accessLog writes one line per request once it is answered, but for health probes.
func accessLog(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		rec := &recorder{ResponseWriter: w}
		next.ServeHTTP(rec, r)
		if r.URL.Path == "/health" && rec.status < http.StatusBadRequest {
			return
		}
		log.Info("request", "method", r.Method, "host", r.Host, "url", r.URL.RequestURI(), "proto", r.Proto, "status", max(rec.status, http.StatusOK),
			"took", time.Since(start).Round(time.Microsecond), "from", r.RemoteAddr, "user", r.Header.Get("End-User"))
	})
}

// recorder notes the status on its way to the client.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status < http.StatusOK {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap gives http.ResponseController, and through it flushing and hijacking.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Flush implements http.Flusher, which streaming handlers ask for by type.
func (r *recorder) Flush() { _ = http.NewResponseController(r.ResponseWriter).Flush() }

// Hijack implements http.Hijacker, which websocket handlers ask for by type.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(r.ResponseWriter).Hijack()
}

// addresses splits a comma-separated list.
func addresses(list string) []string {
	var out []string
	for a := range strings.SplitSeq(list, ",") {
		if a = strings.TrimSpace(a); a != "" {
			out = append(out, a)
		}
	}
	return out
}
