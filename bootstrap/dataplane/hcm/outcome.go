package hcm

import (
	"errors"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/upstream"
)

// wanted says what load balancing may look at for this request.
func (s *Stream) wanted() cluster.Choice {
	ch := cluster.Choice{Original: s.conn.Local, Host: s.dynamic}
	if s.cluster == nil {
		return ch
	}
	if n := s.cluster.OriginalHeader(); n != "" {
		for _, v := range s.headerValues(n) {
			if a, err := netip.ParseAddrPort(v); err == nil {
				ch.Original = a
			}
		}
	}
	if s.route != nil && len(s.route.forward.hash) > 0 && s.cluster.Hashes() {
		ch.Hash, ch.Hashed = s.hash(s.route.forward.hash)
	}
	if s.sticky != nil && s.attempts == 1 {
		ch.Sticky, ch.Strict = s.sticky.host, s.sticky.strict
	}
	return ch
}

// answered tells outlier detection about a response. That of a gRPC call which ends with its head is judged by the
// call's status.
func (s *Stream) answered(e *cluster.Endpoint, r *http.Response) {
	s.cluster.Reached(e, false)
	status := r.StatusCode
	if v := first(r.Header, "Grpc-Status"); v != "" && s.isGRPC() {
		if n, err := strconv.Atoi(v); err == nil {
			status = grpcHTTP(n)
		}
	}
	s.cluster.Answered(e, status)
}

// grpcHTTP is the HTTP status that stands for a gRPC status.
func grpcHTTP(code int) int {
	switch code {
	case 0:
		return http.StatusOK
	case 1:
		return 499 // the client went away
	case 3, 9, 11:
		return http.StatusBadRequest
	case 4:
		return http.StatusGatewayTimeout
	case 5:
		return http.StatusNotFound
	case 6, 10:
		return http.StatusConflict
	case 7:
		return http.StatusForbidden
	case 8:
		return http.StatusTooManyRequests
	case 12:
		return http.StatusNotImplemented
	case 14:
		return http.StatusServiceUnavailable
	case 16:
		return http.StatusUnauthorized
	}
	return http.StatusInternalServerError
}

// unanswered tells outlier detection that no response came. What the circuit breaker or the client is to blame for does
// not count.
func (s *Stream) unanswered(e *cluster.Endpoint, ue *upstream.Error) {
	switch {
	case errors.Is(ue.Err, cluster.ErrOverflow):
	case errors.Is(ue.Err, errTimeout), errors.Is(ue.Err, errPerTry), errors.Is(ue.Err, errPerTryIdle):
		s.cluster.Unanswered(e, http.StatusGatewayTimeout)
	case ue.Stage == upstream.Cancelled:
	default:
		s.cluster.Unanswered(e, http.StatusServiceUnavailable)
	}
}
