package admin

import (
	"net/http"
	"strings"
	"testing"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

func dump() []proto.Message {
	cluster := func(name string) *clusterv3.Cluster {
		return &clusterv3.Cluster{Name: name, AltStatName: "alt-" + name, LbPolicy: clusterv3.Cluster_RANDOM}
	}
	return []proto.Message{
		&adminv3.BootstrapConfigDump{Bootstrap: &bootstrapv3.Bootstrap{
			Node:  &corev3.Node{Id: "me", Cluster: "ours"},
			Admin: &bootstrapv3.Admin{ProfilePath: "/p"},
		}},
		&adminv3.ClustersConfigDump{
			VersionInfo:    "7",
			StaticClusters: []*adminv3.ClustersConfigDump_StaticCluster{{Cluster: packed(cluster("s"))}},
			DynamicActiveClusters: []*adminv3.ClustersConfigDump_DynamicCluster{
				{VersionInfo: "1", Cluster: packed(cluster("a"))}, {VersionInfo: "2", Cluster: packed(cluster("b"))},
			},
		},
		&adminv3.ListenersConfigDump{
			VersionInfo: "8",
			DynamicListeners: []*adminv3.ListenersConfigDump_DynamicListener{{
				Name: "l", ActiveState: &adminv3.ListenersConfigDump_DynamicListenerState{VersionInfo: "3"},
			}},
		},
		&adminv3.RoutesConfigDump{},
	}
}

func TestMask(t *testing.T) {
	whole := dump()
	clusters := whole[1].(*adminv3.ClustersConfigDump)
	named := func(version, name string) proto.Message {
		return &adminv3.ClustersConfigDump_DynamicCluster{VersionInfo: version, Cluster: packed(&clusterv3.Cluster{Name: name})}
	}
	for _, tc := range []struct {
		name, resource, mask string
		want                 []proto.Message
	}{
		{"no mask", "", "", whole},
		{"what istioctl asks for clusters", "", "dynamic_active_clusters,dynamic_warming_clusters,static_clusters", []proto.Message{
			&adminv3.ClustersConfigDump{DynamicActiveClusters: clusters.GetDynamicActiveClusters(), StaticClusters: clusters.GetStaticClusters()},
		}},
		{"what istioctl asks for routes, of which there are none", "", "dynamic_route_configs,static_route_configs", []proto.Message{
			&adminv3.RoutesConfigDump{},
		}},
		{"what istioctl asks for the bootstrap", "", "bootstrap", whole[:1]},
		{"below a field", "", "bootstrap.node.id", []proto.Message{
			&adminv3.BootstrapConfigDump{Bootstrap: &bootstrapv3.Bootstrap{Node: &corev3.Node{Id: "me"}}},
		}},
		{"a field that covers a path below it", "", "bootstrap.node.id,bootstrap.node,,bootstrap.node.cluster", []proto.Message{
			&adminv3.BootstrapConfigDump{Bootstrap: &bootstrapv3.Bootstrap{Node: &corev3.Node{Id: "me", Cluster: "ours"}}},
		}},
		{"a field that several sections have", "", "version_info", []proto.Message{
			&adminv3.ClustersConfigDump{VersionInfo: "7"}, &adminv3.ListenersConfigDump{VersionInfo: "8"},
		}},
		{"a list", "dynamic_active_clusters", "", []proto.Message{
			clusters.GetDynamicActiveClusters()[0], clusters.GetDynamicActiveClusters()[1],
		}},
		{"elements of a list", "dynamic_active_clusters", "version_info", []proto.Message{
			&adminv3.ClustersConfigDump_DynamicCluster{VersionInfo: "1"}, &adminv3.ClustersConfigDump_DynamicCluster{VersionInfo: "2"},
		}},
		{"into the resource of an element", "dynamic_active_clusters", "cluster.name,version_info", []proto.Message{
			named("1", "a"), named("2", "b"),
		}},
		{"the resource of an element as a whole", "static_clusters", "cluster", []proto.Message{clusters.GetStaticClusters()[0]}},
		{"an empty list", "static_route_configs", "no_such_field", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, code, err := choose(dump(), tc.resource, parseMask(tc.mask))
			if err != nil || code != http.StatusOK {
				t.Fatalf("%d %v", code, err)
			}
			var have []proto.Message
			for _, a := range got {
				m, err := a.UnmarshalNew()
				if err != nil {
					t.Fatal(err)
				}
				have = append(have, m)
			}
			if d := cmp.Diff(tc.want, have, protocmp.Transform()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestMaskRefusals(t *testing.T) {
	for _, tc := range []struct {
		resource, mask string
		code           int
		says           string
	}{
		{"", "no_such_field", http.StatusBadRequest, "no field no_such_field"},
		{"", "bootstrap,static_clusters", http.StatusBadRequest, "fits no part"},
		{"", "static_clusters.cluster", http.StatusBadRequest, "cannot go on inside"},
		{"", "version_info.x", http.StatusBadRequest, "cannot go on inside"},
		{"static_clusters", "cluster.nick_name", http.StatusBadRequest, "no field nick_name"},
		{"dynamic_listeners", "active_state.listener.name", http.StatusBadRequest, "no field name"},
		{"bootstrap", "", http.StatusBadRequest, "?mask=bootstrap"},
		{"no_such_list", "", http.StatusNotFound, "no_such_list"},
	} {
		_, code, err := choose(dump(), tc.resource, parseMask(tc.mask))
		if code != tc.code || err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("resource=%s mask=%s: %d %v, want %d and %q", tc.resource, tc.mask, code, err, tc.code, tc.says)
		}
	}
}
