package accesslog

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

func headerOperators() {
	for _, name := range []string{"REQ", "REQUEST_HEADER"} {
		operators[name] = definition{argument: required, length: true, build: headerOperator(requestHeader)}
	}
	for _, name := range []string{"RESP", "RESPONSE_HEADER"} {
		operators[name] = definition{argument: required, length: true, build: headerOperator(responseHeader)}
	}
	for _, name := range []string{"TRAILER", "RESPONSE_TRAILER"} {
		operators[name] = definition{argument: required, length: true, build: headerOperator(trailer)}
	}
	operators["REQ_WITHOUT_QUERY"] = definition{argument: required, length: true, build: headerOperator(withoutQuery)}
	operators["PATH"] = definition{argument: optional, length: true, build: pathOperator}
	operators["QUERY_PARAM"] = definition{argument: required, length: true, build: queryParameter}
	operators["GRPC_STATUS"] = definition{argument: optional, build: grpcOperator}
	operators["GRPC_STATUS_NUMBER"] = definition{build: func(string) (*operator, error) { return grpcOperator("NUMBER") }}
}

// A lookup makes the getter of one header, whose name may be that of a
// pseudo-header. Of a repeated header the first value is taken, as by Envoy.
type lookup func(name string) func(*Entry) (string, bool)

// headerOperator is X or X?Y: header X, or Y where there is no X.
func headerOperator(of lookup) func(string) (*operator, error) {
	return func(arg string) (*operator, error) {
		names := strings.Split(arg, "?")
		if len(names) > 2 {
			return nil, fmt.Errorf("more than one alternative header in %q", arg)
		}
		if names[0] == "" || strings.ContainsAny(arg, "\r\n\x00") {
			return nil, fmt.Errorf("bad header name %q", arg)
		}
		main, alternative := of(names[0]), func(*Entry) (string, bool) { return "", false }
		if len(names) == 2 && names[1] != "" {
			alternative = of(names[1])
		}
		return &operator{text: func(dst []byte, e *Entry) ([]byte, bool) {
			v, ok := main(e)
			if !ok {
				v, ok = alternative(e)
			}
			if !ok {
				return dst, false
			}
			return append(dst, v...), true
		}}, nil
	}
}

func first(h http.Header, key string) (string, bool) {
	if vs := h[key]; len(vs) > 0 {
		return vs[0], true
	}
	return "", false
}

func requestHeader(name string) func(*Entry) (string, bool) {
	field := func(get func(*Entry) string) func(*Entry) (string, bool) {
		return func(e *Entry) (string, bool) { s := get(e); return s, s != "" }
	}
	switch strings.ToLower(name) {
	case ":method":
		return field(func(e *Entry) string { return e.Method })
	case ":path":
		return field(func(e *Entry) string { return e.Path })
	case ":scheme":
		return field(func(e *Entry) string { return e.Scheme })
	case ":authority", "host":
		return field(func(e *Entry) string { return e.Authority })
	}
	key := http.CanonicalHeaderKey(name)
	return func(e *Entry) (string, bool) { return first(e.Request, key) }
}

func responseHeader(name string) func(*Entry) (string, bool) {
	if strings.EqualFold(name, ":status") {
		return func(e *Entry) (string, bool) { return strconv.Itoa(e.ResponseCode), e.ResponseCode > 0 }
	}
	key := http.CanonicalHeaderKey(name)
	return func(e *Entry) (string, bool) { return first(e.Response, key) }
}

func trailer(name string) func(*Entry) (string, bool) {
	key := http.CanonicalHeaderKey(name)
	return func(e *Entry) (string, bool) { return first(e.Trailers, key) }
}

func withoutQuery(name string) func(*Entry) (string, bool) {
	get := requestHeader(name)
	return func(e *Entry) (string, bool) {
		v, ok := get(e)
		return match.WithoutQuery(v), ok
	}
}

// pathOperator is WQ or NQ (with or without query), then optionally ":ORIG",
// ":PATH" or ":ORIG_OR_PATH" for which path is meant.
func pathOperator(arg string) (*operator, error) {
	query, which, _ := strings.Cut(arg, ":")
	of := lookup(requestHeader)
	switch query {
	case "", "WQ":
	case "NQ":
		of = withoutQuery
	default:
		return nil, fmt.Errorf("argument %q: want WQ or NQ", arg)
	}
	switch which {
	case "", "ORIG_OR_PATH":
		return headerOperator(of)("x-envoy-original-path?:path")
	case "ORIG":
		return headerOperator(of)("x-envoy-original-path")
	case "PATH":
		return headerOperator(of)(":path")
	default:
		return nil, fmt.Errorf("argument %q: want ORIG, PATH or ORIG_OR_PATH", arg)
	}
}

func queryParameter(name string) (*operator, error) {
	return &operator{text: func(dst []byte, e *Entry) ([]byte, bool) {
		_, query, _ := strings.Cut(e.Path, "?")
		query, _, _ = strings.Cut(query, "#")
		for query != "" {
			var pair string
			pair, query, _ = strings.Cut(query, "&")
			key, value, _ := strings.Cut(pair, "=")
			if decode(key) == name {
				return append(dst, decode(value)...), true
			}
		}
		return dst, false
	}}, nil
}

func decode(s string) string {
	if d, err := url.PathUnescape(s); err == nil {
		return d
	}
	return s
}
