package admin

import (
	"net/http"
	"regexp"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
)

// configDump writes envoy.admin.v3.ConfigDump: bootstrap, clusters, endpoints where include_eds asks for them,
// listeners, routes and secrets with private keys redacted. ?resource= picks one list, ?mask= is not supported,
// ?name_regex= filters by name.
func (s *Server) configDump(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("mask") != "" {
		http.Error(w, "mask is not supported by this proxy", http.StatusNotImplemented)
		return
	}
	keep := func(string) bool { return true }
	if re := q.Get("name_regex"); re != "" {
		c, err := regexp.Compile(re)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		keep = c.MatchString
	}
	sections := []proto.Message{s.dumpBootstrap(), s.dumpClusters(keep)}
	if q.Has("include_eds") {
		sections = append(sections, s.dumpEndpoints(keep))
	}
	sections = append(sections, s.dumpListeners(keep), &adminv3.ScopedRoutesConfigDump{}, s.dumpRoutes(keep), s.dumpSecrets(keep))
	out := &adminv3.ConfigDump{}
	if res := q.Get("resource"); res != "" {
		var ok bool
		if out.Configs, ok = pick(sections, res); !ok {
			http.Error(w, res+" not found in config dump", http.StatusNotFound)
			return
		}
		sayJSON(w, out, false)
		return
	}
	for _, m := range sections {
		a, err := anypb.New(m)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		out.Configs = append(out.Configs, a)
	}
	sayJSON(w, out, false)
}

// pick finds a repeated field by name in any section and returns its elements.
func pick(sections []proto.Message, field string) ([]*anypb.Any, bool) {
	for _, m := range sections {
		r := m.ProtoReflect()
		for i := range r.Descriptor().Fields().Len() {
			fd := r.Descriptor().Fields().Get(i)
			if string(fd.Name()) != field || !fd.IsList() || fd.Message() == nil {
				continue
			}
			list := r.Get(fd).List()
			var out []*anypb.Any
			for j := range list.Len() {
				a, err := anypb.New(list.Get(j).Message().Interface())
				if err != nil {
					return nil, false
				}
				out = append(out, a)
			}
			return out, true
		}
	}
	return nil, false
}

func packed(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		return &anypb.Any{}
	}
	return a
}

func (s *Server) dumpBootstrap() proto.Message {
	return &adminv3.BootstrapConfigDump{Bootstrap: s.cfg.Bootstrap, LastUpdated: timestamppb.New(s.start)}
}

func (s *Server) dumpClusters(keep func(string) bool) proto.Message {
	out := &adminv3.ClustersConfigDump{}
	for _, c := range s.cfg.Clusters.All() {
		if !keep(c.Name) {
			continue
		}
		if s.cfg.Clusters.Static(c.Name) {
			out.StaticClusters = append(out.StaticClusters, &adminv3.ClustersConfigDump_StaticCluster{
				Cluster: packed(c.Proto), LastUpdated: timestamppb.New(c.Updated),
			})
			continue
		}
		out.VersionInfo = c.Version
		d := &adminv3.ClustersConfigDump_DynamicCluster{
			Cluster: packed(c.Proto), VersionInfo: c.Version, LastUpdated: timestamppb.New(c.Updated),
		}
		if c.Initialized() || c.Kind != cluster.EDS {
			out.DynamicActiveClusters = append(out.DynamicActiveClusters, d)
		} else {
			out.DynamicWarmingClusters = append(out.DynamicWarmingClusters, d)
		}
	}
	return out
}

func (s *Server) dumpEndpoints(keep func(string) bool) proto.Message {
	out := &adminv3.EndpointsConfigDump{}
	for _, c := range s.cfg.Clusters.All() {
		a := c.Assignment()
		if a == nil || !keep(c.Name) {
			continue
		}
		if c.Kind == cluster.EDS {
			out.DynamicEndpointConfigs = append(out.DynamicEndpointConfigs, &adminv3.EndpointsConfigDump_DynamicEndpointConfig{
				EndpointConfig: packed(a),
			})
			continue
		}
		a = proto.CloneOf(a)
		if a.GetClusterName() == "" {
			a.ClusterName = c.Name
		}
		out.StaticEndpointConfigs = append(out.StaticEndpointConfigs, &adminv3.EndpointsConfigDump_StaticEndpointConfig{
			EndpointConfig: packed(a),
		})
	}
	return out
}

func (s *Server) dumpListeners(keep func(string) bool) proto.Message {
	out := &adminv3.ListenersConfigDump{}
	byName := map[string]*adminv3.ListenersConfigDump_DynamicListener{}
	for _, l := range s.cfg.Listeners.Active() {
		if !keep(l.Name) {
			continue
		}
		if l.Static {
			out.StaticListeners = append(out.StaticListeners, &adminv3.ListenersConfigDump_StaticListener{
				Listener: packed(l.Proto), LastUpdated: timestamppb.New(l.Updated),
			})
			continue
		}
		out.VersionInfo = l.Version
		d := &adminv3.ListenersConfigDump_DynamicListener{
			Name: l.Name, ActiveState: &adminv3.ListenersConfigDump_DynamicListenerState{
				VersionInfo: l.Version, Listener: packed(l.Proto), LastUpdated: timestamppb.New(l.Updated),
			},
		}
		byName[l.Name] = d
		out.DynamicListeners = append(out.DynamicListeners, d)
	}
	for _, l := range s.cfg.Listeners.Warming() {
		if !keep(l.Name) {
			continue
		}
		d := byName[l.Name]
		if d == nil {
			d = &adminv3.ListenersConfigDump_DynamicListener{Name: l.Name}
			out.DynamicListeners = append(out.DynamicListeners, d)
		}
		d.WarmingState = &adminv3.ListenersConfigDump_DynamicListenerState{
			VersionInfo: l.Version, Listener: packed(l.Proto), LastUpdated: timestamppb.New(l.Updated),
		}
	}
	return out
}

func (s *Server) dumpRoutes(keep func(string) bool) proto.Message {
	out := &adminv3.RoutesConfigDump{}
	for _, l := range s.cfg.Listeners.Active() {
		for _, rc := range l.InlineRoutes() {
			if keep(rc.GetName()) {
				out.StaticRouteConfigs = append(out.StaticRouteConfigs, &adminv3.RoutesConfigDump_StaticRouteConfig{
					RouteConfig: packed(rc), LastUpdated: timestamppb.New(l.Updated),
				})
			}
		}
	}
	for _, t := range s.cfg.Routes.All() {
		if keep(t.Name) {
			out.DynamicRouteConfigs = append(out.DynamicRouteConfigs, &adminv3.RoutesConfigDump_DynamicRouteConfig{
				VersionInfo: t.Version, RouteConfig: packed(t.Proto), LastUpdated: timestamppb.New(t.Updated),
			})
		}
	}
	return out
}

func (s *Server) dumpSecrets(keep func(string) bool) proto.Message {
	out := &adminv3.SecretsConfigDump{}
	for _, r := range s.cfg.Secrets.All() {
		if !keep(r.Key.Name) {
			continue
		}
		sec := r.Load()
		if sec == nil {
			out.DynamicWarmingSecrets = append(out.DynamicWarmingSecrets, &adminv3.SecretsConfigDump_DynamicSecret{
				Name: r.Key.Name, VersionInfo: "uninitialized", LastUpdated: timestamppb.New(time.Now()),
				Secret: packed(&tlsv3.Secret{Name: r.Key.Name}),
			})
			continue
		}
		out.DynamicActiveSecrets = append(out.DynamicActiveSecrets, &adminv3.SecretsConfigDump_DynamicSecret{
			Name: r.Key.Name, VersionInfo: sec.Version, LastUpdated: timestamppb.New(sec.Updated), Secret: packed(redact(sec.Proto)),
		})
	}
	return out
}

// redact hides private keys.
func redact(s *tlsv3.Secret) *tlsv3.Secret {
	out := proto.CloneOf(s)
	if c := out.GetTlsCertificate(); c != nil {
		c.PrivateKey = &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: []byte("[redacted]")}}
		c.Password = nil
	}
	return out
}
