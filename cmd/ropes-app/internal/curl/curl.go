// Package curl is the program curl, as far as the lessons use it: HTTP and HTTPS over
// HTTP/1.1 and HTTP/2, and raw TCP under the scheme telnet. It answers with curl's own
// exit codes, since scripts and checks read those. It has no progress meter, no cookie jar,
// no proxies and no URL globs; options that it does not know are refused by name.
package curl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
)

// version is told to servers and by --version.
const version = "curl/8 (ropes)"

// Run is the program.
func Run(ctx context.Context, call *applet.Call) int {
	o, err := parse(call)
	if err != nil {
		fmt.Fprintf(call.Err, "curl: %v\n", err)
		var known *exitError
		if errors.As(err, &known) {
			return known.code
		}
		return codeUsage
	}
	if o.showVersion {
		fmt.Fprintln(call.Out, version, "protocols: http https telnet; features: HTTP2 IPv6 SSL UnixSockets")
		return applet.OK
	}
	if len(o.urls) == 0 {
		fmt.Fprintln(call.Err, "curl: no URL given")
		return codeUsage
	}
	c, err := newClient(call, o)
	if err != nil {
		return report(call, o, err)
	}
	defer c.close()
	status := applet.OK
	for i, u := range o.urls {
		status = c.fetch(ctx, u, o.output(i, u))
		if ctx.Err() != nil {
			return applet.Ended(ctx)
		}
	}
	return status
}

// report says what went wrong, unless it is to be silent, and returns the exit code.
func report(call *applet.Call, o *options, err error) int {
	code := codeOf(err)
	if !o.silent || o.showError {
		fmt.Fprintf(call.Err, "curl: (%d) %v\n", code, err)
	}
	return code
}

// fetch gets one URL, again where --retry asks for it, and writes -w's line.
func (c *client) fetch(ctx context.Context, url, output string) int {
	if c.o.maxTime > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, c.o.maxTime, errMaxTime)
		defer cancel()
	}
	delay := c.o.retryDelay
	if delay == 0 {
		delay = time.Second
	}
	for try := 0; ; try++ {
		t := &transfer{client: c, start: time.Now(), effective: url, mayRetry: try < c.o.retry}
		err := t.run(ctx, url, output)
		t.total = time.Since(t.start)
		if err == nil || try >= c.o.retry || !c.worthRetry(err) || ctx.Err() != nil {
			return c.finish(t, err)
		}
		if !c.o.silent || c.o.showError {
			fmt.Fprintf(c.call.Err, "curl: %v; trying again in %s, %d left\n", err, delay, c.o.retry-try)
		}
		select {
		case <-ctx.Done():
			return c.finish(t, err)
		case <-time.After(delay):
		}
		if c.o.retryDelay == 0 {
			delay = min(2*delay, 10*time.Minute)
		}
	}
}

func (c *client) finish(t *transfer, err error) int {
	code := applet.OK
	var failed *httpError
	switch {
	case errors.As(err, &failed) && failed.worthMentioning:
		code = report(c.call, c.o, err)
	case failed != nil: // the answer itself has said so
	case err != nil:
		code = report(c.call, c.o, err)
	}
	if c.o.writeOut != "" {
		t.writeOut(c.o.writeOut, code, err)
	}
	return code
}

// worthRetry tells passing trouble from lasting.
func (c *client) worthRetry(err error) bool {
	var failed *httpError
	if errors.As(err, &failed) {
		switch failed.status {
		case 408, 429, 500, 502, 503, 504:
			return true
		}
		return c.o.retryAllErrors && failed.worthMentioning
	}
	switch codeOf(err) {
	case codeTimeout, codeResolve:
		return true
	case codeConnect:
		return c.o.retryRefused || c.o.retryAllErrors
	}
	return c.o.retryAllErrors
}

// httpError is an answer of 400 or above. Only -f makes it worth an exit code.
type httpError struct {
	status          int
	worthMentioning bool
}

func (e *httpError) Error() string {
	return fmt.Sprintf("the requested URL returned error: %d", e.status)
}

// countingWriter counts what passes through.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	if err != nil {
		err = &exitError{codeWrite, fmt.Errorf("write output: %w", err)}
	}
	return n, err
}
