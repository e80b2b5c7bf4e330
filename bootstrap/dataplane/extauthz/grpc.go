package extauthz

import (
	"context"
	"fmt"
	"net/http"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/rpc"
)

const checkMethod = "/envoy.service.auth.v3.Authorization/Check"

// defaultTimeout is Envoy's for a service that names none.
const defaultTimeout = 200 * time.Millisecond

type grpcClient struct {
	service *rpc.Service
	timeout time.Duration // 0 for none
}

var _ Client = (*grpcClient)(nil)

func newGRPC(p *corev3.GrpcService, clusters *cluster.Manager) (*grpcClient, error) {
	s, err := rpc.Compile(p, clusters)
	if err != nil {
		return nil, err
	}
	out := &grpcClient{service: s, timeout: defaultTimeout}
	if p.GetTimeout() != nil {
		out.timeout = p.GetTimeout().AsDuration()
	}
	return out, nil
}

// Check implements Client.
func (c *grpcClient) Check(ctx context.Context, req *authv3.CheckRequest) (*Verdict, error) {
	if c.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	resp := &authv3.CheckResponse{}
	if err := c.service.Call(ctx, checkMethod, req, resp); err != nil {
		return nil, err
	}
	return verdictOf(resp)
}

// ServiceError is a service's own word that it failed, with the answer it would like the client to get.
type ServiceError struct {
	Status int // 0 to leave it to the filter
	Body   string
	Reply  []Edit
}

// Error implements error.
func (e *ServiceError) Error() string {
	return fmt.Sprintf("authorization service reports an error (%d)", e.Status)
}

func verdictOf(r *authv3.CheckResponse) (*Verdict, error) {
	if e := r.GetErrorResponse(); e != nil {
		return nil, &ServiceError{Status: int(e.GetStatus().GetCode()), Body: e.GetBody(), Reply: edits(e.GetHeaders(), Append)}
	}
	out := &Verdict{Allowed: r.GetStatus().GetCode() == int32(codes.OK), Status: http.StatusForbidden}
	if m := r.GetDynamicMetadata(); m != nil {
		out.Metadata = m.AsMap()
	}
	if !out.Allowed {
		d := r.GetDeniedResponse()
		if c := d.GetStatus().GetCode(); c != 0 {
			out.Status = int(c)
		}
		out.Body, out.Reply = d.GetBody(), edits(d.GetHeaders(), Append)
		return out, nil
	}
	ok := r.GetOkResponse()
	//nolint:staticcheck // deprecated, and stronger than its successor where it is set
	if m := ok.GetDynamicMetadata(); m != nil {
		out.Metadata = m.AsMap()
	}
	// A header that is not there has nothing to be appended to.
	out.Request, out.Remove = edits(ok.GetHeaders(), AppendExisting), ok.GetHeadersToRemove()
	out.Response, out.RemoveQuery = edits(ok.GetResponseHeadersToAdd(), Append), ok.GetQueryParametersToRemove()
	for _, q := range ok.GetQueryParametersToSet() {
		out.SetQuery = append(out.SetQuery, [2]string{q.GetKey(), q.GetValue()})
	}
	return out, nil
}

// edits reads header options, whose append defaults to false in this protocol. appending is what it means when true.
func edits(list []*corev3.HeaderValueOption, appending Action) []Edit {
	var out []Edit
	for _, o := range list {
		e := Edit{Name: o.GetHeader().GetKey(), Value: o.GetHeader().GetValue()}
		if raw := o.GetHeader().GetRawValue(); len(raw) > 0 {
			e.Value = string(raw)
		}
		//nolint:staticcheck // deprecated, and still what services send
		switch ap := o.GetAppend(); {
		case ap.GetValue():
			e.Action = appending
		case ap == nil && o.GetAppendAction() == corev3.HeaderValueOption_ADD_IF_ABSENT:
			e.Action = AddAbsent
		case ap == nil && o.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
			e.Action = SetExisting
		}
		out = append(out, e)
	}
	return out
}
