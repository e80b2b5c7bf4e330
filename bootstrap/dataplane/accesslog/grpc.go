package accesslog

import (
	"fmt"
	"strconv"
	"strings"
)

// grpcNames are the names of gRPC's status codes, as Envoy writes them.
var grpcNames = [...][2]string{
	{"OK", "OK"},
	{"Canceled", "CANCELLED"},
	{"Unknown", "UNKNOWN"},
	{"InvalidArgument", "INVALID_ARGUMENT"},
	{"DeadlineExceeded", "DEADLINE_EXCEEDED"},
	{"NotFound", "NOT_FOUND"},
	{"AlreadyExists", "ALREADY_EXISTS"},
	{"PermissionDenied", "PERMISSION_DENIED"},
	{"ResourceExhausted", "RESOURCE_EXHAUSTED"},
	{"FailedPrecondition", "FAILED_PRECONDITION"},
	{"Aborted", "ABORTED"},
	{"OutOfRange", "OUT_OF_RANGE"},
	{"Unimplemented", "UNIMPLEMENTED"},
	{"Internal", "INTERNAL"},
	{"Unavailable", "UNAVAILABLE"},
	{"DataLoss", "DATA_LOSS"},
	{"Unauthenticated", "UNAUTHENTICATED"},
}

func grpcOperator(arg string) (*operator, error) {
	column := 0
	switch arg {
	case "", "CAMEL_STRING":
	case "SNAKE_STRING":
		column = 1
	case "NUMBER":
		return &operator{number: true, text: func(dst []byte, e *Entry) ([]byte, bool) {
			code, ok := grpcStatus(e)
			if !ok {
				return dst, false
			}
			return strconv.AppendInt(dst, int64(code), 10), true
		}}, nil
	default:
		return nil, fmt.Errorf("argument %q: want CAMEL_STRING, SNAKE_STRING or NUMBER", arg)
	}
	return &operator{text: func(dst []byte, e *Entry) ([]byte, bool) {
		code, ok := grpcStatus(e)
		switch {
		case !ok:
			return dst, false
		case code < len(grpcNames):
			return append(dst, grpcNames[code][column]...), true
		default:
			return strconv.AppendInt(dst, int64(code), 10), true
		}
	}}, nil
}

// IsGRPC tells whether a request's content type is that of gRPC.
func IsGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(contentType, "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// GRPCStatus returns the status of a gRPC call: what the trailers say, else the
// response headers, else what its HTTP code stands for. It reports false for a
// request that is not gRPC and for one without a response.
func (e *Entry) GRPCStatus() (int, bool) { return grpcStatus(e) }

func grpcStatus(e *Entry) (int, bool) {
	if ct, _ := first(e.Request, "Content-Type"); !IsGRPC(ct) {
		return 0, false
	}
	for _, h := range []map[string][]string{e.Trailers, e.Response} {
		if s, ok := first(h, "Grpc-Status"); ok {
			code, err := strconv.ParseUint(s, 10, 31)
			return int(code), err == nil
		}
	}
	switch e.ResponseCode {
	case 0:
		return 0, false
	case 400:
		return 13, true
	case 401:
		return 16, true
	case 403:
		return 7, true
	case 404:
		return 12, true
	case 429, 502, 503, 504:
		return 14, true
	default:
		return 2, true // Unknown, for a 200 without a status too
	}
}
