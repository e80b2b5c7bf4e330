package probe

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/ropes-dev/ropes/checks"
)

// podHTTP lets curl make the request: its own timeout is measured in the pod, its exit
// code tells how a connection failed.
func (p *Prober) podHTTP(ctx context.Context, at target, pr checks.Probe) (checks.Result, error) {
	h := pr.HTTP
	secs := fmt.Sprintf("%.3f", pr.Timeout.Seconds())
	args := []string{"curl", "-s", "-S", "-k", "-i", "-m", secs, "--connect-timeout", secs}
	switch h.Method {
	case "", http.MethodGet:
	case http.MethodHead:
		args = append(args, "-I")
	default:
		args = append(args, "-X", h.Method)
	}
	for _, k := range slices.Sorted(maps.Keys(h.Headers)) {
		args = append(args, "-H", k+": "+h.Headers[k])
	}
	if h.Body != "" {
		args = append(args, "--data-binary", h.Body)
	}
	stdout, stderr, code, err := p.run(ctx, at, append(args, h.URL), "")
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return failed(pr, curlKind(code, stderr), said(stderr, fmt.Sprintf("curl ended with status %d", code))), nil
	}
	return readHTTP(pr, stdout)
}

// readHTTP reads what curl -i prints: headers (those of interim answers first), then the body.
func readHTTP(pr checks.Probe, out string) (checks.Result, error) {
	br := bufio.NewReader(strings.NewReader(out))
	for {
		status, header, err := readHead(br)
		if err != nil {
			return nil, fmt.Errorf("curl's output for %s: %w", pr.HTTP.URL, err)
		}
		if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
			continue
		}
		body, err := io.ReadAll(io.LimitReader(br, maxBody))
		if err != nil {
			return nil, fmt.Errorf("curl's output for %s: %w", pr.HTTP.URL, err)
		}
		return httpResult(pr, status, header, body), nil
	}
}

// readHead reads a status line and headers up to the empty line.
func readHead(br *bufio.Reader) (status int, header http.Header, err error) {
	line, err := br.ReadString('\n')
	if err != nil {
		return 0, nil, errors.New("no status line")
	}
	if _, err := fmt.Sscanf(line[strings.IndexByte(line, ' ')+1:], "%d", &status); err != nil || !strings.HasPrefix(line, "HTTP/") {
		return 0, nil, fmt.Errorf("not a status line: %q", line)
	}
	header = http.Header{}
	for {
		line, err := br.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, nil, fmt.Errorf("headers: %w", err)
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			return status, header, nil
		}
		k, v, _ := strings.Cut(line, ":")
		header.Add(k, strings.TrimSpace(v))
	}
}

func httpResult(pr checks.Probe, status int, header http.Header, body []byte) checks.Result {
	r := done(pr)
	headers := map[string]any{}
	for k, v := range header {
		headers[strings.ToLower(k)] = strings.Join(v, ", ")
	}
	r["status"], r["headers"], r["body"] = int64(status), headers, string(bytes.ToValidUTF8(body, []byte("\uFFFD")))
	var parsed any
	if json.Unmarshal(body, &parsed) == nil {
		r["json"] = parsed
	}
	return r
}

// curlKind reads curl's exit code; with code 35 and 56 its words tell more.
func curlKind(code int, stderr string) string {
	switch code {
	case 6:
		return kindDNS
	case 7:
		if k := wordsKind(stderr); k != kindOther {
			return k
		}
		return kindRefused
	case 28:
		return kindTimeout
	case 35, 58, 60:
		if k := wordsKind(stderr); k == kindReset {
			return k
		}
		return kindTLS
	case 52:
		return kindClosed
	case 56:
		if k := wordsKind(stderr); k != kindOther {
			return k
		}
		return kindReset
	}
	return wordsKind(stderr)
}

// wordsKind reads the words in which programs and the Go library tell a failed connection.
func wordsKind(words string) string {
	words = strings.ToLower(words)
	for _, w := range []struct{ word, kind string }{
		{"refused", kindRefused},
		{"reset", kindReset},
		{"timed out", kindTimeout},
		{"timeout", kindTimeout},
		{"deadline exceeded", kindTimeout},
		{"no such host", kindDNS},
		{"not resolve", kindDNS},
		{"not known", kindDNS},
		{"resolution", kindDNS},
		{"tls", kindTLS},
		{"certificate", kindTLS},
		{"eof", kindClosed},
		{"closed", kindClosed},
		{"empty reply", kindClosed},
	} {
		if strings.Contains(words, w.word) {
			return w.kind
		}
	}
	return kindOther
}

func said(stderr, otherwise string) string {
	if s := strings.TrimSpace(stderr); s != "" {
		return s
	}
	return otherwise
}
