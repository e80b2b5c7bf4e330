package hcm

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// forwardAction sends a request to a cluster.
type forwardAction struct {
	cluster       string
	clusterHeader string
	weighted      []weightedCluster
	total         uint32
	timeout       time.Duration // 0 for none
	maxDuration   time.Duration // of the stream, 0 for none
	retry         *retryPolicy
	hostLiteral   string
	hostAuto      bool
	appendHost    bool
	prefixRewrite string
	hasPrefix     bool
	regex         *regexp.Regexp
	subst         string
	notFound      int
	upgrades      map[string]bool
}

type weightedCluster struct {
	name      string
	header    string
	weight    uint32
	ops       headerOps
	host      string
	perFilter map[string]any
}

const forwardFields = "cluster cluster_header weighted_clusters cluster_not_found_response_code prefix_rewrite regex_rewrite " +
	"host_rewrite_literal auto_host_rewrite append_x_forwarded_host timeout retry_policy max_stream_duration upgrade_configs " +
	"max_grpc_timeout grpc_timeout_offset"

func compileForward(a *routev3.RouteAction, h *virtualHost) (*forwardAction, error) {
	if err := fields.Check(a, forwardFields); err != nil {
		return nil, err
	}
	out := &forwardAction{
		timeout: durationOr(a.GetTimeout(), a.GetTimeout() != nil, 15*time.Second), appendHost: a.GetAppendXForwardedHost(),
		notFound: http.StatusServiceUnavailable, prefixRewrite: a.GetPrefixRewrite(), hasPrefix: a.GetPrefixRewrite() != "",
	}
	if a.GetClusterNotFoundResponseCode() == routev3.RouteAction_NOT_FOUND {
		out.notFound = http.StatusNotFound
	} else if a.GetClusterNotFoundResponseCode() == routev3.RouteAction_INTERNAL_SERVER_ERROR {
		out.notFound = http.StatusInternalServerError
	}
	if err := out.setClusters(a); err != nil {
		return nil, err
	}
	switch s := a.GetHostRewriteSpecifier().(type) {
	case nil:
	case *routev3.RouteAction_HostRewriteLiteral:
		out.hostLiteral = s.HostRewriteLiteral
	case *routev3.RouteAction_AutoHostRewrite:
		out.hostAuto = s.AutoHostRewrite.GetValue()
	}
	if rw := a.GetRegexRewrite(); rw != nil {
		re, err := regexp.Compile(rw.GetPattern().GetRegex())
		if err != nil {
			return nil, fmt.Errorf("regex_rewrite: %w", err)
		}
		out.regex, out.subst = re, expandable(rw.GetSubstitution())
	}
	if err := fields.Check(a.GetMaxStreamDuration(), "max_stream_duration grpc_timeout_header_max grpc_timeout_header_offset"); err != nil {
		return nil, err
	}
	out.maxDuration = a.GetMaxStreamDuration().GetMaxStreamDuration().AsDuration()
	for _, u := range a.GetUpgradeConfigs() {
		if u.GetConnectConfig() != nil {
			return nil, fields.Unsupported(u, "connect_config", "")
		}
		if out.upgrades == nil {
			out.upgrades = map[string]bool{}
		}
		out.upgrades[strings.ToLower(u.GetUpgradeType())] = u.GetEnabled() == nil || u.GetEnabled().GetValue()
	}
	var err error
	out.retry, err = compileRetry(a.GetRetryPolicy())
	if out.retry == nil {
		out.retry = h.retry
	}
	return out, err
}

func (f *forwardAction) setClusters(a *routev3.RouteAction) error {
	switch c := a.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		f.cluster = c.Cluster
	case *routev3.RouteAction_ClusterHeader:
		f.clusterHeader = c.ClusterHeader
	case *routev3.RouteAction_WeightedClusters:
		if err := fields.Check(c.WeightedClusters, "clusters total_weight runtime_key_prefix"); err != nil {
			return err
		}
		for _, w := range c.WeightedClusters.GetClusters() {
			const known = "name cluster_header weight request_headers_to_add request_headers_to_remove response_headers_to_add " +
				"response_headers_to_remove host_rewrite_literal typed_per_filter_config"
			if err := fields.Check(w, known); err != nil {
				return err
			}
			ops, err := compileHeaderOps(w)
			if err != nil {
				return err
			}
			per, err := compilePerFilter(w.GetTypedPerFilterConfig())
			if err != nil {
				return err
			}
			f.weighted = append(f.weighted, weightedCluster{
				name: w.GetName(), header: w.GetClusterHeader(), weight: w.GetWeight().GetValue(), ops: ops,
				host: w.GetHostRewriteLiteral(), perFilter: per,
			})
			f.total += w.GetWeight().GetValue()
		}
		if f.total == 0 {
			return fmt.Errorf("weighted_clusters: the sum of weights is 0")
		}
	default:
		return fields.Unsupported(a, fmt.Sprintf("cluster_specifier (%T)", c), "")
	}
	return nil
}

// choose returns the name of the cluster for a request, and the weighted entry where there is one.
func (f *forwardAction) choose(s *Stream) (string, *weightedCluster) {
	switch {
	case f.clusterHeader != "":
		return s.req.Header.Get(f.clusterHeader), nil
	case len(f.weighted) == 0:
		return f.cluster, nil
	}
	n := rand.Uint32N(f.total)
	for i := range f.weighted {
		w := &f.weighted[i]
		if n < w.weight {
			if w.name == "" {
				return s.req.Header.Get(w.header), w
			}
			return w.name, w
		}
		n -= w.weight
	}
	return "", nil
}

// rewritten returns the path to send upstream.
func (f *forwardAction) rewritten(s *Stream) string {
	if !f.hasPrefix && f.regex == nil {
		return s.path
	}
	bare, query, hasQuery := strings.Cut(s.path, "?")
	if f.hasPrefix {
		if s.route.prefix != "" {
			bare = f.prefixRewrite + bare[len(s.route.prefix):]
		}
	} else {
		bare = f.regex.ReplaceAllString(bare, f.subst)
	}
	if hasQuery {
		bare += "?" + query
	}
	if !strings.HasPrefix(bare, "/") {
		bare = "/" + bare
	}
	return bare
}
