package accesslog

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	celfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

// Filter chooses the entries that are logged. Nil keeps all.
type Filter func(*Entry) bool

// Keeps reports whether e is to be logged.
func (f Filter) Keeps(e *Entry) bool { return f == nil || f(e) }

// CompileFilter compiles f, nil for a log that keeps everything. What is not supported is refused by its name.
func CompileFilter(f *accesslogv3.AccessLogFilter) (Filter, error) {
	switch t := f.GetFilterSpecifier().(type) {
	case nil:
		return nil, nil
	case *accesslogv3.AccessLogFilter_StatusCodeFilter:
		return comparison(t.StatusCodeFilter.GetComparison(), func(e *Entry) (uint64, bool) { return uint64(max(e.ResponseCode, 0)), true })
	case *accesslogv3.AccessLogFilter_DurationFilter:
		return comparison(t.DurationFilter.GetComparison(), func(e *Entry) (uint64, bool) {
			return uint64(max(e.End.Sub(e.Start)/time.Millisecond, 0)), !e.End.IsZero()
		})
	case *accesslogv3.AccessLogFilter_NotHealthCheckFilter:
		// Health checks are told from other requests by a filter that is not implemented.
		return func(*Entry) bool { return true }, nil
	case *accesslogv3.AccessLogFilter_TraceableFilter:
		return func(e *Entry) bool { return e.Traced }, nil
	case *accesslogv3.AccessLogFilter_RuntimeFilter:
		return sampleOf(t.RuntimeFilter)
	case *accesslogv3.AccessLogFilter_AndFilter:
		return joined(t.AndFilter.GetFilters(), false)
	case *accesslogv3.AccessLogFilter_OrFilter:
		return joined(t.OrFilter.GetFilters(), true)
	case *accesslogv3.AccessLogFilter_HeaderFilter:
		m, err := match.Header(t.HeaderFilter.GetHeader())
		if err != nil {
			return nil, err
		}
		name := t.HeaderFilter.GetHeader().GetName()
		get, key := requestHeader(name), http.CanonicalHeaderKey(name)
		return func(e *Entry) bool {
			if v := e.Request[key]; len(v) > 0 {
				return m(v)
			}
			if v, ok := get(e); ok {
				return m([]string{v})
			}
			return m(nil)
		}, nil
	case *accesslogv3.AccessLogFilter_ResponseFlagFilter:
		return flagFilter(t.ResponseFlagFilter.GetFlags()), nil
	case *accesslogv3.AccessLogFilter_GrpcStatusFilter:
		want, exclude := t.GrpcStatusFilter.GetStatuses(), t.GrpcStatusFilter.GetExclude()
		return func(e *Entry) bool {
			code, ok := e.GRPCStatus()
			if !ok {
				code = 2
			}
			return slices.Contains(want, accesslogv3.GrpcStatusFilter_Status(code)) != exclude
		}, nil
	case *accesslogv3.AccessLogFilter_MetadataFilter:
		return metadataFilter(t.MetadataFilter)
	case *accesslogv3.AccessLogFilter_LogTypeFilter:
		want, exclude := t.LogTypeFilter.GetTypes(), t.LogTypeFilter.GetExclude()
		return func(e *Entry) bool {
			return slices.Contains(want, datav3.AccessLogType(datav3.AccessLogType_value[logType(e)])) != exclude
		}, nil
	case *accesslogv3.AccessLogFilter_ExtensionFilter:
		x := t.ExtensionFilter
		if !x.GetTypedConfig().MessageIs((*celfilterv3.ExpressionFilter)(nil)) {
			return nil, fields.UnsupportedType("access log filter", x.GetName(), x.GetTypedConfig().GetTypeUrl())
		}
		p := &celfilterv3.ExpressionFilter{}
		if err := x.GetTypedConfig().UnmarshalTo(p); err != nil {
			return nil, err
		}
		if err := fields.Check(p, "expression"); err != nil {
			return nil, err
		}
		if p.GetExpression() == "" {
			return nil, nil
		}
		expr, err := CompileExpression(p.GetExpression())
		if err != nil {
			return nil, err
		}
		return expr.Match, nil
	default:
		return nil, fields.Unsupported(f, fmt.Sprintf("filter_specifier (%T)", t), "")
	}
}

func comparison(c *accesslogv3.ComparisonFilter, get func(*Entry) (uint64, bool)) (Filter, error) {
	want := uint64(c.GetValue().GetDefaultValue())
	var holds func(v uint64) bool
	switch c.GetOp() {
	case accesslogv3.ComparisonFilter_EQ:
		holds = func(v uint64) bool { return v == want }
	case accesslogv3.ComparisonFilter_GE:
		holds = func(v uint64) bool { return v >= want }
	case accesslogv3.ComparisonFilter_LE:
		holds = func(v uint64) bool { return v <= want }
	case accesslogv3.ComparisonFilter_NE:
		holds = func(v uint64) bool { return v != want }
	default:
		return nil, fields.Unsupported(c, "op", c.GetOp().String())
	}
	return func(e *Entry) bool {
		v, ok := get(e)
		return ok && holds(v)
	}, nil
}

// sampleOf keeps a share of the entries: of requests that have an id the same ones in every proxy.
func sampleOf(p *accesslogv3.RuntimeFilter) (Filter, error) {
	of, ok := map[typev3.FractionalPercent_DenominatorType]uint64{
		typev3.FractionalPercent_HUNDRED: 100, typev3.FractionalPercent_TEN_THOUSAND: 10_000, typev3.FractionalPercent_MILLION: 1_000_000,
	}[p.GetPercentSampled().GetDenominator()]
	if !ok {
		return nil, fields.Unsupported(p, "percent_sampled", "")
	}
	below, independent := uint64(p.GetPercentSampled().GetNumerator()), p.GetUseIndependentRandomness()
	return func(e *Entry) bool {
		n := rand.Uint64()
		if id, _ := first(e.Request, "X-Request-Id"); !independent && len(id) == 36 {
			if v, err := strconv.ParseUint(id[:8], 16, 64); err == nil {
				n = v
			}
		}
		return n%of < below
	}, nil
}

func joined(list []*accesslogv3.AccessLogFilter, or bool) (Filter, error) {
	var all []Filter
	for _, f := range list {
		c, err := CompileFilter(f)
		if err != nil {
			return nil, err
		}
		if c == nil {
			c = func(*Entry) bool { return true }
		}
		all = append(all, c)
	}
	return func(e *Entry) bool {
		for _, c := range all {
			if c(e) == or {
				return or
			}
		}
		return !or
	}, nil
}

func flagFilter(want []string) Filter {
	return func(e *Entry) bool {
		if len(want) == 0 {
			return e.Flags != 0
		}
		for have := range strings.SplitSeq(e.Flags.String(), ",") {
			if slices.Contains(want, have) {
				return true
			}
		}
		return false
	}
}

func metadataFilter(p *accesslogv3.MetadataFilter) (Filter, error) {
	if p.GetMatcher() == nil {
		return nil, nil
	}
	m, err := match.Metadata(p.GetMatcher())
	if err != nil {
		return nil, err
	}
	absent := p.GetMatchIfKeyNotFound() == nil || p.GetMatchIfKeyNotFound().GetValue()
	var path []string
	for _, s := range p.GetMatcher().GetPath() {
		path = append(path, s.GetKey())
	}
	filter := p.GetMatcher().GetFilter()
	return func(e *Entry) bool {
		look := func(filter string, path []string) (any, bool) {
			if e.Metadata == nil {
				return nil, false
			}
			return e.Metadata(Dynamic, filter, path)
		}
		if _, ok := look(filter, path); !ok {
			return absent
		}
		return m(look)
	}, nil
}
