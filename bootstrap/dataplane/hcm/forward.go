package hcm

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// forwardAction sends a request to a cluster.
type forwardAction struct {
	cluster       string
	clusterHeader string
	weighted      []weightedCluster
	total         uint32
	timeouts      timeoutRules
	retry         *retryPolicy
	rewrites      rewrites
	mirrors       []mirror
	notFound      int
	upgrades      map[string]bool
	priority      cluster.Priority
	hash          []hashRule
	terminates    bool // CONNECT ends here: its payload goes upstream as raw bytes
	limits        []rateLimit
	vhostLimits   bool // those of the virtual host, too
	steers        bool // header rules may set what the router looks at
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
	"host_rewrite_literal auto_host_rewrite host_rewrite_header host_rewrite_path_regex append_x_forwarded_host timeout " +
	"idle_timeout retry_policy max_stream_duration upgrade_configs max_grpc_timeout grpc_timeout_offset request_mirror_policies " +
	"priority hash_policy rate_limits include_vh_rate_limits"

func compileForward(a *routev3.RouteAction, h *virtualHost) (*forwardAction, error) {
	if err := fields.Check(a, forwardFields); err != nil {
		return nil, err
	}
	out := &forwardAction{notFound: http.StatusServiceUnavailable, mirrors: h.mirrors, steers: h.headers.steers}
	if a.GetClusterNotFoundResponseCode() == routev3.RouteAction_NOT_FOUND {
		out.notFound = http.StatusNotFound
	} else if a.GetClusterNotFoundResponseCode() == routev3.RouteAction_INTERNAL_SERVER_ERROR {
		out.notFound = http.StatusInternalServerError
	}
	var err error
	if err = out.setClusters(a); err != nil {
		return nil, err
	}
	if out.rewrites, err = compileRewrites(a); err != nil {
		return nil, err
	}
	if out.timeouts, err = compileTimeouts(a); err != nil {
		return nil, err
	}
	if err = out.setUpgrades(a.GetUpgradeConfigs()); err != nil {
		return nil, err
	}
	if len(a.GetRequestMirrorPolicies()) > 0 {
		if out.mirrors, err = compileMirrors(a.GetRequestMirrorPolicies()); err != nil {
			return nil, err
		}
	}
	if a.GetPriority() == corev3.RoutingPriority_HIGH {
		out.priority = cluster.High
	}
	if out.hash, err = compileHash(a.GetHashPolicy()); err != nil {
		return nil, err
	}
	//nolint:staticcheck // deprecated, still read
	out.vhostLimits = a.GetIncludeVhRateLimits().GetValue()
	if out.limits, err = compileRateLimits(a.GetRateLimits()); err != nil {
		return nil, err
	}
	out.retry, err = compileRetry(a.GetRetryPolicy())
	if out.retry == nil {
		out.retry = h.retry
	}
	return out, err
}

func (f *forwardAction) setUpgrades(list []*routev3.RouteAction_UpgradeConfig) error {
	for _, u := range list {
		kind, on := strings.ToLower(u.GetUpgradeType()), u.GetEnabled() == nil || u.GetEnabled().GetValue()
		if c := u.GetConnectConfig(); c != nil {
			if kind != "connect" {
				return fmt.Errorf("connect_config was specified for upgrade type %q", u.GetUpgradeType())
			}
			if err := fields.Check(c, ""); err != nil {
				return err
			}
			f.terminates = on
		}
		if f.upgrades == nil {
			f.upgrades = map[string]bool{}
		}
		f.upgrades[kind] = on
	}
	return nil
}

func (f *forwardAction) setClusters(a *routev3.RouteAction) error {
	switch c := a.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		f.cluster = c.Cluster
	case *routev3.RouteAction_ClusterHeader:
		f.clusterHeader = c.ClusterHeader
	case *routev3.RouteAction_WeightedClusters:
		return f.setWeighted(c.WeightedClusters)
	default:
		return fields.Unsupported(a, fmt.Sprintf("cluster_specifier (%T)", c), "")
	}
	return nil
}

func (f *forwardAction) setWeighted(list *routev3.WeightedCluster) error {
	if err := fields.Check(list, "clusters total_weight runtime_key_prefix"); err != nil {
		return err
	}
	for _, w := range list.GetClusters() {
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
		f.steers = f.steers || ops.steers
	}
	if f.total == 0 {
		return fmt.Errorf("weighted_clusters: the sum of weights is 0")
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
