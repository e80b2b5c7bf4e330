package hcm

import (
	"net/http"
	"strconv"
	"time"

	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/accesslog"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

// fault delays or aborts a share of the requests.
type fault struct {
	delay     time.Duration
	delayCoin func() bool
	abort     *reply // nil for none
	abortCoin func() bool
	cluster   string // for requests to it only, where it is set
	headers   func(get func(string) []string) bool
}

func compileFault(p *faultv3.HTTPFault) (*fault, error) {
	if err := fields.Check(p, "delay abort headers upstream_cluster disable_downstream_cluster_stats"); err != nil {
		return nil, err
	}
	out := &fault{cluster: p.GetUpstreamCluster()}
	if d := p.GetDelay(); d != nil {
		if err := fields.Check(d, "fixed_delay percentage"); err != nil {
			return nil, err
		}
		out.delay, out.delayCoin = d.GetFixedDelay().AsDuration(), fraction(d.GetPercentage())
		if d.GetPercentage() == nil {
			out.delay = 0
		}
	}
	if a := p.GetAbort(); a != nil && a.GetPercentage() != nil {
		if err := fields.Check(a, "http_status grpc_status percentage"); err != nil {
			return nil, err
		}
		out.abortCoin = fraction(a.GetPercentage())
		out.abort = &reply{
			status: int(a.GetHttpStatus()), body: "fault filter abort", flags: accesslog.FaultInjected, details: "fault_filter_abort",
		}
		if e, ok := a.GetErrorType().(*faultv3.FaultAbort_GrpcStatus); ok {
			out.abort.status, out.abort.grpc = http.StatusOK, strconv.Itoa(int(e.GrpcStatus))
		}
	}
	if len(p.GetHeaders()) > 0 {
		f, err := match.Headers(p.GetHeaders())
		if err != nil {
			return nil, err
		}
		out.headers = f
	}
	return out, nil
}

func newFault(_ *Manager, name string, body *anypb.Any) (filter, error) {
	base, err := faultPerRoute(body)
	if err != nil {
		return filter{}, err
	}
	return filter{name: name, request: func(s *Stream) *reply {
		f := base.(*fault)
		if c, ok := s.perFilter(name).(*fault); ok {
			f = c
		}
		if f.cluster != "" && f.cluster != s.clusterN || f.headers != nil && !f.headers(s.headerValues) {
			return nil
		}
		if f.delay > 0 && (f.delayCoin == nil || f.delayCoin()) {
			s.flags |= accesslog.DelayInjected
			if !s.pause(f.delay) {
				return s.over()
			}
		}
		if f.abort != nil && (f.abortCoin == nil || f.abortCoin()) {
			rep := *f.abort
			return &rep
		}
		return nil
	}}, nil
}

func faultPerRoute(body *anypb.Any) (any, error) {
	p := &faultv3.HTTPFault{}
	if err := body.UnmarshalTo(p); err != nil {
		return nil, err
	}
	return compileFault(p)
}
