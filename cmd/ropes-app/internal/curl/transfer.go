package curl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// transfer is one URL's journey, over all its redirects. Times are since start.
type transfer struct {
	*client
	start     time.Time
	mayRetry  bool
	effective string
	method    string
	redirects int
	redirect  string // where the last answer points to, if not followed
	res       *http.Response
	info      *connInfo
	remote    string
	local     string
	connects  int
	uploaded  int64
	received  int64

	mu                        sync.Mutex // the transport calls the trace from goroutines of its own
	lookup, connect, shake    time.Duration
	pretransfer, first, total time.Duration
	sent                      []string // the head of the request as sent
}

// run transfers the URL's contents to output.
func (t *transfer) run(ctx context.Context, raw, output string) error {
	u, err := parseURL(raw)
	if err != nil {
		return err
	}
	if u.Scheme == "telnet" {
		return t.telnet(ctx, u, output)
	}
	if t.o.get && t.o.data != nil {
		u.RawQuery = strings.TrimPrefix(u.RawQuery+"&"+t.o.data.String(), "&")
	}
	if !t.o.pathAsIs {
		u = withoutDots(u)
	}
	req, err := t.request(ctx, u)
	if err != nil {
		return err
	}
	for {
		t.effective, t.method = req.URL.String(), req.Method
		res, err := t.roundTrip(ctx, req)
		if err != nil && (strings.Contains(err.Error(), "could not be established") || errors.Is(err, syscall.EPIPE)) {
			if alert := t.refusal(); alert != nil {
				err = failf(codeReceive, "receive: %w", alert)
			}
		}
		if err != nil {
			return explain(ctx, err)
		}
		next, err := t.next(req, res)
		if err != nil || next == nil {
			return errors.Join(t.deliver(ctx, res, output, err), closeBody(res))
		}
		if err := t.deliverHead(res, output); err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 1<<20)) // only to use the connection again
		_ = res.Body.Close()
		t.say('*', "Issue another request to this URL: '%s'", next.URL)
		req = next.WithContext(ctx)
	}
}

func closeBody(res *http.Response) error {
	_ = res.Body.Close() // its contents have been read as far as they matter
	return nil
}

// next is the request that a redirect asks for; nil where there is none to follow.
func (t *transfer) next(req *http.Request, res *http.Response) (*http.Request, error) {
	location := res.Header.Get("Location")
	if location == "" || res.StatusCode < 300 || res.StatusCode > 399 {
		return nil, nil
	}
	to, err := req.URL.Parse(location)
	if err != nil {
		return nil, failf(codeURL, "redirect to a bad URL: %w", err)
	}
	if !t.o.follow {
		t.redirect = to.String()
		return nil, nil
	}
	if t.redirects >= t.o.maxRedirects && t.o.maxRedirects >= 0 {
		return nil, failf(codeRedirects, "maximum (%d) redirects followed", t.o.maxRedirects)
	}
	if to.Scheme != "http" && to.Scheme != "https" {
		return nil, failf(codeScheme, "protocol %q not supported", to.Scheme)
	}
	t.redirects++
	next := req.Clone(req.Context())
	next.URL, next.Host = to, to.Host
	if to.Host == req.URL.Host {
		next.Host = req.Host
	} else {
		next.Header.Del("Authorization")
		next.Header.Del("Cookie")
	}
	dropBody := res.StatusCode == http.StatusSeeOther ||
		req.Method == http.MethodPost && (res.StatusCode == http.StatusMovedPermanently || res.StatusCode == http.StatusFound)
	switch {
	case dropBody:
		if t.o.method == "" && req.Method != http.MethodHead {
			next.Method = http.MethodGet
		}
		next.Body, next.GetBody, next.ContentLength = nil, nil, 0
		next.Header.Del("Content-Type")
	case req.GetBody != nil:
		if next.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	return next, nil
}

// roundTrip sends one request and shows what -v shows.
func (t *transfer) roundTrip(ctx context.Context, req *http.Request) (*http.Response, error) {
	t.sent = nil
	trace := &httptrace.ClientTrace{
		GotConn: t.gotConn,
		WroteHeaderField: func(name string, values []string) {
			t.mu.Lock()
			defer t.mu.Unlock()
			for _, v := range values {
				t.sent = append(t.sent, name+": "+v)
			}
		},
		WroteHeaders: func() { t.sayRequest(req) },
		GotFirstResponseByte: func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.first = time.Since(t.start)
		},
	}
	res, err := t.transport.RoundTrip(req.WithContext(httptrace.WithClientTrace(ctx, trace)))
	if err != nil {
		return nil, err
	}
	t.res = res
	for _, line := range answerHead(res, t.info) {
		t.say('<', "%s", line)
	}
	t.say('<', "")
	return res, nil
}

func (t *transfer) gotConn(g httptrace.GotConnInfo) {
	info := t.recall(g.Conn)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.info = info
	t.remote, t.local = g.Conn.RemoteAddr().String(), g.Conn.LocalAddr().String()
	if info.heads != nil {
		info.heads.reset()
	}
	if !info.used {
		info.used = true
		t.connects++
		since := info.began.Sub(t.start)
		t.lookup, t.connect = since+info.lookup, since+info.connect
		if info.shake > 0 {
			t.shake = since + info.shake
		}
	}
	t.pretransfer = time.Since(t.start)
}

// deliverHead writes the answer's head where -i, -I or -D want it.
func (t *transfer) deliverHead(res *http.Response, output string) error {
	head := strings.Join(answerHead(res, t.info), "\r\n") + "\r\n\r\n"
	if t.o.include || t.o.head {
		w, err := t.open(output)
		if err != nil {
			return err
		}
		_, err = io.WriteString(w, head)
		if err := errors.Join(err, w.Close()); err != nil {
			return err
		}
	}
	if t.o.dumpHeader != "" {
		w, err := t.open(t.o.dumpHeader)
		if err != nil {
			return err
		}
		_, err = io.WriteString(w, head)
		return errors.Join(err, w.Close())
	}
	return nil
}

// deliver writes the answer; redirected is the error of a redirect that cannot be followed.
func (t *transfer) deliver(ctx context.Context, res *http.Response, output string, redirected error) error {
	bad := res.StatusCode >= http.StatusBadRequest
	failed := &httpError{status: res.StatusCode, worthMentioning: t.o.fail || t.o.failWithBody}
	if bad && t.mayRetry && t.worthRetry(failed) {
		return failed
	}
	if err := t.deliverHead(res, output); err != nil || redirected != nil {
		return errors.Join(err, redirected)
	}
	if bad && t.o.fail && !t.o.failWithBody {
		return failed
	}
	if err := t.deliverBody(ctx, res, output); err != nil {
		return err
	}
	if bad && t.o.failWithBody {
		return failed
	}
	t.say('*', "Connection to host %s left intact", res.Request.URL.Host)
	return nil
}

func (t *transfer) deliverBody(ctx context.Context, res *http.Response, output string) error {
	w, err := t.open(output)
	if err != nil {
		return err
	}
	counted := &countingWriter{w: w}
	_, err = io.Copy(counted, res.Body)
	t.received += counted.n
	if err = errors.Join(err, w.Close()); err == nil {
		return nil
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return failf(codePartial, "transfer closed with outstanding read data remaining")
	}
	return explain(ctx, err)
}

// open opens an output for adding: what was there before this invocation is dropped.
func (t *transfer) open(name string) (io.WriteCloser, error) {
	if name == "-" {
		return keepOpen{t.call.Out}, nil
	}
	mode := os.O_TRUNC
	if t.opened(name) {
		mode = os.O_APPEND
	}
	f, err := os.OpenFile(t.call.Path(name), os.O_CREATE|os.O_WRONLY|mode, 0o666)
	if err != nil {
		return nil, failf(codeWrite, "%w", err)
	}
	return f, nil
}

// keepOpen is a writer that is not ours to close.
type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// telnet joins standard streams and a TCP connection.
func (t *transfer) telnet(ctx context.Context, u *url.URL, output string) error {
	port := u.Port()
	if port == "" {
		port = "23"
	}
	conn, err := t.dial(ctx, "tcp", u.Hostname()+":"+port)
	if err != nil {
		return explain(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	t.info = t.recall(conn)
	t.remote, t.local, t.connects = conn.RemoteAddr().String(), conn.LocalAddr().String(), 1
	w, err := t.open(output)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	go func() {
		_, _ = io.Copy(conn, t.call.In) // ends with either side
		if half, ok := conn.(recordedConn).Conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	counted := &countingWriter{w: w}
	_, err = io.Copy(counted, conn)
	t.received = counted.n
	if err := errors.Join(err, w.Close()); err != nil {
		return explain(ctx, fmt.Errorf("telnet %s: %w", u.Host, err))
	}
	return nil
}
