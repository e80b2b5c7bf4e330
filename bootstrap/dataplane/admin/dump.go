package admin

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
)

// configDump writes envoy.admin.v3.ConfigDump: bootstrap, clusters, endpoints where include_eds asks for them,
// listeners, routes and secrets with private keys redacted. ?resource= picks one list, ?mask= keeps only the fields
// it names of every section that has all of them or, with resource, of every element of the list, and ?name_regex=
// keeps resources whose whole name matches.
func (s *Server) configDump(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	keep := func(string) bool { return true }
	if re := q.Get("name_regex"); re != "" {
		c, err := regexp.Compile("^(?:" + re + ")$")
		if err != nil {
			http.Error(w, "name_regex: "+err.Error(), http.StatusBadRequest)
			return
		}
		keep = c.MatchString
	}
	sections := []proto.Message{s.dumpBootstrap(), s.dumpClusters(keep)}
	if q.Has("include_eds") {
		sections = append(sections, s.dumpEndpoints(keep))
	}
	sections = append(sections, s.dumpListeners(keep), &adminv3.ScopedRoutesConfigDump{}, s.dumpRoutes(keep), s.dumpSecrets(keep))
	configs, code, err := choose(sections, q.Get("resource"), parseMask(q.Get("mask")))
	if err != nil {
		http.Error(w, err.Error(), code)
		return
	}
	sayJSON(w, &adminv3.ConfigDump{Configs: configs}, false)
}

// choose takes what resource and mask ask for out of the sections, and trims it in place. With an error comes the HTTP
// status to answer with.
func choose(sections []proto.Message, resource string, m mask) ([]*anypb.Any, int, error) {
	parts := sections
	if resource != "" {
		var code int
		var err error
		if parts, code, err = elements(sections, resource); err != nil {
			return nil, code, err
		}
	}
	var out []*anypb.Any
	var misfit error
	for _, p := range parts {
		if resource != "" {
			if err := m.applyResource(p); err != nil {
				return nil, http.StatusBadRequest, fmt.Errorf("mask: %w", err)
			}
		} else if err := m.apply(p); err != nil {
			misfit = errors.Join(misfit, err) // a mask is written for one kind of section; the others are left out
			continue
		}
		a, err := anypb.New(p)
		if err != nil {
			return nil, http.StatusInternalServerError, err
		}
		out = append(out, a)
	}
	if resource == "" && len(out) == 0 && misfit != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("mask fits no part of the config dump: %w", misfit)
	}
	return out, http.StatusOK, nil
}

// elements finds a repeated field by name in any section and returns its elements. With an error comes the HTTP status
// to answer with.
func elements(sections []proto.Message, field string) ([]proto.Message, int, error) {
	for _, m := range sections {
		r := m.ProtoReflect()
		f := r.Descriptor().Fields().ByName(protoreflect.Name(field))
		if f == nil {
			continue
		}
		if !f.IsList() || f.Message() == nil {
			return nil, http.StatusBadRequest, fmt.Errorf("%s is not a list of resources: ?mask=%s gives this field alone", field, field)
		}
		list := r.Get(f).List()
		var out []proto.Message
		for i := range list.Len() {
			out = append(out, list.Get(i).Message().Interface())
		}
		return out, http.StatusOK, nil
	}
	return nil, http.StatusNotFound, fmt.Errorf("%s not found in config dump", field)
}

func packed(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		return &anypb.Any{}
	}
	return a
}

func (s *Server) dumpBootstrap() proto.Message {
	// A copy, for a mask cuts fields off.
	return &adminv3.BootstrapConfigDump{Bootstrap: proto.CloneOf(s.cfg.Bootstrap), LastUpdated: timestamppb.New(s.start)}
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
