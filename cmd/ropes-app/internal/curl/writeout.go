package curl

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// writeOut writes -w's line. A variable that is not known is said on standard error.
func (t *transfer) writeOut(format string, code int, failure error) {
	out := t.call.Out
	var b strings.Builder
	flush := func() {
		_, _ = io.WriteString(out, b.String()) // as curl, which does not look either
		b.Reset()
	}
	for i := 0; i < len(format); i++ {
		rest := format[i:]
		switch {
		case strings.HasPrefix(rest, "%%"):
			b.WriteByte('%')
			i++
		case strings.HasPrefix(rest, "%header{"), strings.HasPrefix(rest, "%{"):
			end := strings.IndexByte(rest, '}')
			if end < 0 {
				b.WriteString(rest)
				i = len(format)
				continue
			}
			open := strings.IndexByte(rest, '{')
			name := rest[open+1 : end]
			i += end
			switch {
			case open > 1:
				b.WriteString(t.answered(name))
			case name == "stderr":
				flush()
				out = t.call.Err
			case name == "stdout":
				flush()
				out = t.call.Out
			default:
				value, ok := t.variable(name, code, failure)
				if !ok {
					fmt.Fprintf(t.call.Err, "curl: unknown --write-out variable: '%s'\n", name)
				}
				b.WriteString(value)
			}
		case len(rest) > 1 && rest[0] == '\\' && strings.IndexByte("nrt", rest[1]) >= 0:
			b.WriteByte(map[byte]byte{'n': '\n', 'r': '\r', 't': '\t'}[rest[1]])
			i++
		default:
			b.WriteByte(rest[0])
		}
	}
	flush()
}

// answered is a header's first value, if the answer had it.
func (t *transfer) answered(name string) string {
	if t.res == nil {
		return ""
	}
	return t.res.Header.Get(name)
}

func (t *transfer) variable(name string, code int, failure error) (string, bool) {
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.6f", d.Seconds()) }
	host := func(addr string, port bool) string {
		h, p, err := net.SplitHostPort(addr)
		if err != nil {
			return ""
		}
		if port {
			return p
		}
		return h
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch name {
	case "http_code", "response_code":
		if t.res == nil {
			return "000", true
		}
		return fmt.Sprintf("%03d", t.res.StatusCode), true
	case "http_version":
		return t.version(), true
	case "num_connects":
		return strconv.Itoa(t.connects), true
	case "num_redirects":
		return strconv.Itoa(t.redirects), true
	case "num_headers":
		if t.res == nil {
			return "0", true
		}
		return strconv.Itoa(len(t.res.Header)), true
	case "redirect_url":
		return t.redirect, true
	case "remote_ip":
		return host(t.remote, false), true
	case "remote_port":
		return host(t.remote, true), true
	case "local_ip":
		return host(t.local, false), true
	case "local_port":
		return host(t.local, true), true
	case "size_download":
		return strconv.FormatInt(t.received, 10), true
	case "size_upload":
		return strconv.FormatInt(t.uploaded, 10), true
	case "time_total":
		return seconds(t.total), true
	case "time_namelookup":
		return seconds(t.lookup), true
	case "time_connect":
		return seconds(t.connect), true
	case "time_appconnect":
		return seconds(t.shake), true
	case "time_pretransfer":
		return seconds(t.pretransfer), true
	case "time_starttransfer":
		return seconds(t.first), true
	case "url", "url_effective":
		return t.effective, true
	case "method":
		return t.method, true
	case "scheme":
		return t.scheme(), true
	case "content_type":
		return t.answered("Content-Type"), true
	case "ssl_verify_result":
		if t.info != nil && t.info.verify != nil {
			return "1", true
		}
		return "0", true
	case "exitcode":
		return strconv.Itoa(code), true
	case "errormsg":
		if failure == nil {
			return "", true
		}
		return failure.Error(), true
	case "header_json":
		headers := http.Header{}
		if t.res != nil {
			for k, v := range t.res.Header {
				headers[strings.ToLower(k)] = v
			}
		}
		b, err := json.MarshalIndent(headers, "", "  ")
		return string(b), err == nil
	}
	return "", false
}

func (t *transfer) version() string {
	switch {
	case t.res == nil:
		return "0"
	case t.res.ProtoMajor == 1:
		return fmt.Sprintf("1.%d", t.res.ProtoMinor)
	}
	return strconv.Itoa(t.res.ProtoMajor)
}

func (t *transfer) scheme() string {
	if u, err := url.Parse(t.effective); err == nil && strings.Contains(t.effective, "://") {
		return u.Scheme
	}
	return "http"
}
